# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that say how the data of a domain are taken."""

from __future__ import annotations


class ModuleDocFragment:
    """Use as ``vmforge.backup.capture``."""

    DOCUMENTATION = r"""
options:
  parallel:
    description:
      - How many domains are backed up at the same time, from 1 to 64.
    type: int
    default: 1
  lock_timeout:
    description:
      - Seconds to wait for another process that works on the backups of the same domain.
    type: int
    default: 0
  exclude:
    description:
      - Targets of disks to leave out, such as V(vdb), in every domain of this call.
    type: list
    elements: str
    default: []
  compression:
    description:
      - How the clusters of the images are compressed. QEMU before 5.1 cannot read V(zstd).
    type: str
    choices: [zstd, zlib, none]
    default: zstd
  compression_level:
    description:
      - From 1 to 19 for V(zstd), from 1 to 9 for V(zlib). 1, unless set, which is the fastest.
    type: int
  readers:
    description:
      - Threads that read and compress, for each domain, from 1 to 16.
      - The number of processors, but at most 4, unless set.
    type: int
  rate_limit:
    description:
      - The most bytes a second to read, for each domain. Units such as V(50M) are understood.
    type: bytes
  nice:
    description:
      - Niceness of the work, from 0 to 19. Guests should come first.
    type: int
    default: 10
  ionice:
    description:
      - The I/O scheduling class of the work.
    type: str
    choices: [idle, best-effort, none]
    default: best-effort
  quiesce:
    description:
      - Whether the guest's file systems are frozen through the guest agent for the moment at which the backup begins.
      - V(auto) does so where an agent answers. V(required) fails otherwise. V(never) does not ask.
      - The result's C(consistency) tells what became of it.
    type: str
    choices: [auto, required, never]
    default: auto
  freeze_timeout:
    description:
      - Seconds that a freeze may take, from 1 to 600. After that the guest is thawed in any case.
    type: int
    default: 30
  scratch_dir:
    description:
      - A directory for what the guest overwrites while it is read. QEMU's user must be able to reach it.
        The role P(vmforge.backup.node#role) creates it.
    type: path
    default: /var/lib/vmforge/scratch
  scratch_max:
    description:
      - The most bytes that may lie there for one domain. The backup is given up before that,
        and the guest is not affected.
      - As much as is free there less a reserve, unless set.
    type: bytes
  allow_plaintext:
    description:
      - Back up disks that libvirt encrypts. The backup holds their plain text.
    type: bool
    default: false
requirements:
  - QEMU 5.1 or newer with its tools (package C(qemu-utils))
  - libnbd's Python binding (package C(python3-libnbd))
  - python-zstandard (package C(python3-zstandard)) for O(compression=zstd)
  - boto3 (package C(python3-boto3)) for O(offsite=s3)
"""
