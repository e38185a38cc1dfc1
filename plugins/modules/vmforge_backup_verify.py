#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_verify
short_description: Prove that backups are what they were when they were made
version_added: 1.0.0
description:
  - Compares every copy of a backup, on the node and in S3, with its C(manifest.json).
  - What was found is written to C(verified.json) beside each copy. M(vmforge.backup.vmforge_backup_info) shows it, and
    a copy that was found bad counts for nothing when backups are pruned.
  - A copy that is damaged is mended from the other one, if that is good. The module fails all the same, and names the
    file, the part and its offset, for somebody should find out why.
  - If S3 cannot be reached, that says nothing about the copies there. The module fails, and what is known stays.
    The same goes for local files that cannot be read for another reason than a fault of the disk.
  - With O(level=boot), a machine is made of the backup and started, without networks and devices of the host, on
    overlays over the backup. The backup is only read, and all of the machine is gone afterwards.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.hypervisor
  - vmforge.backup.hypervisor.storage
  - vmforge.backup.s3
attributes:
  diff_mode:
    details:
      - It shows the backups that were, or would be, verified.
options:
  vm:
    description:
      - Only backups of these domains, by UUID or by a name that a backup of theirs records.
    type: list
    elements: str
  id:
    description:
      - Only the backup with this id.
    type: str
  level:
    description:
      - V(manifest) looks whether all files are there in the right sizes, and compares the checksums that the server of
        S3 keeps, if it does. Nothing is read.
      - V(data) reads all of it and compares every part with its SHA-256.
      - All that an incremental backup builds on is verified in the same way, and is told in RV(backups), too.
      - V(boot) does so as well, and then boots it. It has booted once its guest agent answers, or once O(boot_pattern)
        appears on its serial console. That it does not boot does not make its data bad for
        M(vmforge.backup.vmforge_backup_prune).
    type: str
    choices: [manifest, data, boot]
    default: data
  sample:
    description:
      - Verify only a share of the backups, such as V(1/7) or V(15%), rounded up. Those that wait longest come first.
        So with V(1/7) once a day, each is verified every week.
    type: str
  repair:
    description:
      - Mend a damaged copy from a good one.
    type: bool
    default: true
  checksums:
    description:
      - The SHA-256 of manifests, as a catalogue keeps them. Keys are V(<vm_uuid>/<id>).
      - Without one, what an earlier verification or the upload has remembered is taken.
    type: dict
  node:
    description:
      - Only backups that this node has made. The host name, unless set.
    type: str
  all_nodes:
    description:
      - Also backups that other nodes have made.
    type: bool
    default: false
  offsite:
    description:
      - V(s3) verifies the copies in the bucket O(s3_bucket) as well.
    type: str
    choices: [none, s3]
    default: none
  parallel:
    description:
      - How many parts are read at the same time, from 1 to 64.
        As many as there are processors and at most 4, unless set.
      - Of a copy in S3, each takes as much memory as a part, which is 16 MiB or a ten-thousandth of a large disk.
    type: int
  boot_timeout:
    description:
      - Seconds in which a machine must have booted, for O(level=boot).
    type: int
    default: 300
  boot_pattern:
    description:
      - A regular expression that matches something that the machine writes on its first serial console when it has
        booted, such as V(login:), for O(level=boot). Needed for machines without a guest agent.
    type: str
  boot_memory:
    description:
      - The most memory, in MiB, that a machine gets, for O(level=boot).
    type: int
    default: 2048
  screenshot_dir:
    description:
      - Where the last screenshot of each machine that has a screen is kept, for O(level=boot).
        It is made if it is missing.
    type: path
    default: /var/lib/vmforge/screenshots
  scratch_dir:
    description:
      - A directory for what such a machine writes, which is thrown away. QEMU's user must be able to reach it.
        The role P(vmforge.backup.node#role) creates it.
    type: path
    default: /var/lib/vmforge/scratch
  lock_timeout:
    description:
      - Seconds to wait for another process that works on the backups of the same domain, before the result is written.
        Nothing is locked while a backup is read.
    type: int
    default: 60
notes:
  - O(level=boot) needs qemu-storage-daemon, and of a backup that lies only in S3 nbdkit with its S3 plugin (packages
    C(nbdkit) and C(nbdkit-plugin-python) on Debian and Ubuntu).
seealso:
  - module: vmforge.backup.vmforge_backup_info
  - module: vmforge.backup.vmforge_backup_restore
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Verify all backups of a domain
  vmforge.backup.vmforge_backup_verify:
    vm:
      - web1
  register: verified

- name: Look every day whether all files are there, and read a seventh of them
  vmforge.backup.vmforge_backup_verify:
    level: "{{ item.level }}"
    sample: "{{ item.sample }}"
  loop:
    - level: manifest
      sample: 100%
    - level: data
      sample: 1/7

- name: Prove that a machine boots from its backups
  vmforge.backup.vmforge_backup_verify:
    vm:
      - web1
    level: boot
    boot_timeout: 120

- name: Verify the copies in S3 as well
  vmforge.backup.vmforge_backup_verify:
    offsite: s3
    s3_endpoint: s3.example.com:9000
    s3_bucket: vm-backups
    s3_prefix: vmforge/backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
"""

RETURN = r"""
backups:
  description: The backups that were verified, and those that nobody can read. Also returned if some are bad.
  returned: always, unless nothing could be begun
  type: list
  elements: dict
  contains:
    vm:
      description: The domain, by C(uuid) and C(name).
      type: dict
    node:
      description: The node that made it. V(null) if no manifest of it can be read.
      type: str
    id:
      description: Which backup.
      type: str
      sample: 20261122T151200Z
    result:
      description:
        - V(good). V(repaired) if a damaged copy was mended. V(bad) if something is damaged now, or if
          it did not boot.
          V(failed) if it could not be verified. V(gone) if it was deleted meanwhile.
          V(elsewhere) if it lies only in S3 and O(offsite=none). V(planned) in check mode.
      type: str
      sample: good
    level:
      description: How it was verified.
      type: str
    copies:
      description: The copies that were looked at, V(local) and V(s3).
      type: list
      elements: str
      sample: [local, s3]
    damages:
      description: What was found.
      type: list
      elements: dict
      contains:
        place:
          description: Which copy, V(local) or V(s3).
          type: str
        file:
          description: The file.
          type: str
          sample: vda.qcow2
        part:
          description: The number of the part, from 1. V(null) if it is about the file as a whole.
          type: int
        offset:
          description: Where the part begins, in bytes.
          type: int
        problem:
          description: What is wrong, in words.
          type: str
    checksum_sha256:
      description: The SHA-256 of its C(manifest.json).
      type: str
    boot:
      description: How it booted. V(null) if that was not tried.
      type: dict
      contains:
        proof:
          description: What told so, V(agent) or V(pattern). V(null) if it did not boot.
          type: str
        seconds:
          description: How long it took.
          type: float
        screenshot:
          description: The path of a picture of its screen on the node. V(null) without one.
          type: str
        problem:
          description: Why it did not boot. V(null) if it did.
          type: str
    bytes_read:
      description: Bytes that were read.
      type: int
    seconds:
      description: How long it took.
      type: float
    message:
      description: What is wrong, in a sentence. V(null) if nothing is.
      type: str
not_found:
  description: Those of O(vm) that no backup is of.
  returned: always, unless nothing could be begun
  type: list
  elements: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module
from ansible_collections.vmforge.backup.plugins.module_utils._verify import verify_backups
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VERIFY_ARGUMENTS


def main() -> None:
    """Run the module."""
    run_module(VERIFY_ARGUMENTS, verify_backups)


if __name__ == "__main__":
    main()
