#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_restore
short_description: Restore a libvirt domain from a backup, in place or as a new one
version_added: 1.0.0
description:
  - Takes a backup from the node, from S3, or each part from wherever it is good, and makes a machine of it.
  - All that an incremental backup builds on is found and proved, too, wherever it lies.
  - Every part is compared with the C(manifest.json) before it is used. What is damaged in all copies is never restored.
  - All is made beside its place first. Only when it is whole, what is there is put aside and the machine is defined.
    If any step fails, the old state is put back. If the module is killed, the next call puts it back.
  - Nothing is written if something speaks against it, such as a machine that runs, a file that exists or too little
    space.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.hypervisor
  - vmforge.backup.hypervisor.storage
  - vmforge.backup.s3
attributes:
  diff_mode:
    details:
      - It shows how the definition of the machine changes.
  idempotent:
    support: partial
    details:
      - With O(to), a machine of that name that was restored from the same backup is left as it is.
      - In place, every call restores again.
options:
  vm:
    description:
      - The machine that was backed up, by UUID or by a name that a backup of it records. It need not exist any more.
    type: str
    required: true
  id:
    description:
      - Which backup. V(latest) is the newest.
    type: str
    default: latest
  before:
    description:
      - Only a backup whose contents are of this moment or older, such as V(2026-11-22T15:12:00Z).
        The id of a backup is a moment, too.
    type: str
  checksum_sha256:
    description:
      - The SHA-256 of the backup's C(manifest.json), as a catalogue keeps it. A backup with another one is refused.
    type: str
  to:
    description:
      - Make a new machine of this name, with a UUID, MAC addresses and disks of its own. It can run beside the old one.
      - Unset, the machine itself is restored in place, or made again if it is gone.
    type: str
  disks:
    description:
      - Only these disks, by target such as V(vda). In place, the definition stays as it is then.
      - Empty means all that the backup holds.
    type: list
    elements: str
    default: []
  storage:
    description:
      - The directory for the images, which must exist. Unset, it is where they were.
    type: path
  paths:
    description:
      - Where single disks go, by target, such as C({"vda":"/dev/vg0/web1"}). A path may be that of a block device.
    type: dict
  format:
    description:
      - The format of the images. V(original) is the one they had. On a block device it is always raw.
    type: str
    choices: [original, qcow2, raw]
    default: original
  networks:
    description:
      - What a new machine is connected to. V(keep) the same networks, V(map) those in O(network_map),
        V(disconnect) the same with the links down.
    type: str
    choices: [keep, map, disconnect]
    default: keep
  network_map:
    description:
      - Names of networks and bridges, and the new names, for O(networks=map).
    type: dict
  start:
    description:
      - Start the machine.
    type: bool
    default: false
  instant:
    description:
      - Start the machine at once, on overlays over the backup, and fill its disks while it runs. The module ends when
        they are whole, when all that was read is proved, and when nothing depends on the backup any more.
      - Meanwhile the backup is held, and what serves it runs on its own. If the module, a helper or the host dies, the
        same call goes on where it ended. Until then the machine is not whole, and nothing calls it restored.
      - What the guest reads before the end is not yet proved.
        Old disks are kept until the end, even with O(old=remove).
      - The disks become qcow2 images. Block devices cannot be used.
    type: bool
    default: false
  boot_timeout:
    description:
      - Seconds in which its guest agent must answer. Without an agent, it must still run after them.
        If it does not, the restore has failed, and the old state is put back. V(0) does not wait.
    type: int
    default: 0
  force:
    description:
      - In place, pull the plug of a machine that runs, and discard saved memory.
    type: bool
    default: false
  overwrite_devices:
    description:
      - Write to block devices. Their content cannot be put aside, so it is lost even if the restore fails.
    type: bool
    default: false
  old:
    description:
      - In place, whether the old disks are kept, as C(<name>.before-<time>), or removed once all is done.
    type: str
    choices: [keep, remove]
    default: keep
  node:
    description:
      - The name of the node. The host name, unset. UUIDs of new machines differ between nodes.
    type: str
  state_dir:
    description:
      - Where notes of a restore under way are kept. C(progress.json) in it tells how far it is.
    type: path
    default: /var/lib/vmforge/restore
  offsite:
    description:
      - V(s3) looks in the bucket O(s3_bucket) as well. Nothing has to be on the node then.
    type: str
    choices: [none, s3]
    default: none
  parallel:
    description:
      - How many parts are read at the same time, from 1 to 64.
        As many as there are processors and at most 4, unless set.
    type: int
  lock_timeout:
    description:
      - Seconds to wait for another process that works on the machine or, in place, on its backups.
    type: int
    default: 0
notes:
  - O(instant=true) needs qemu-storage-daemon, and for a backup in S3 nbdkit with its S3 plugin (packages C(nbdkit) and
    C(nbdkit-plugin-python) on Debian and Ubuntu).
  - Run it as root on the node itself.
  - No backup holds passwords of displays. In place they are taken from the machine as it is.
seealso:
  - module: vmforge.backup.vmforge_backup
  - module: vmforge.backup.vmforge_backup_verify
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Make a second machine of the newest backup, here or in S3, with its networks down
  vmforge.backup.vmforge_backup_restore:
    vm: web1
    to: web1-check
    networks: disconnect
    offsite: s3
    s3_endpoint: s3.example.com:9000
    s3_bucket: vm-backups
    s3_prefix: vmforge/backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"

- name: Have a second machine run out of S3 within seconds
  vmforge.backup.vmforge_backup_restore:
    vm: web1
    to: web1-now
    networks: disconnect
    instant: true
    offsite: s3
    s3_endpoint: s3.example.com:9000
    s3_bucket: vm-backups
    s3_prefix: vmforge/backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"

- name: Put a machine that is off back to where it was, and remove its old disks
  vmforge.backup.vmforge_backup_restore:
    vm: web2
    before: "{{ listing.backups[0].instant }}"
    old: remove
"""

RETURN = r"""
result:
  description: V(restored), V(present) if the new machine was there already, V(planned) in check mode.
  returned: success
  type: str
  sample: restored
mode:
  description: V(new) or V(in_place).
  returned: success
  type: str
vm:
  description: The machine, by C(uuid) and C(name).
  returned: success
  type: dict
source:
  description: The machine that was backed up, by C(uuid), C(name) and C(node).
  returned: success
  type: dict
id:
  description: Which backup.
  returned: success
  type: str
  sample: 20261122T151200Z
chain:
  description: The id of the backup, and those of all that it builds on, down to a full one.
  returned: success
  type: list
  elements: str
  sample: [20261122T151200Z, 20261121T151200Z]
instant:
  description: The moment of its contents.
  returned: success
  type: str
  sample: "2026-11-22T15:12:00.250000Z"
disks:
  description: The disks that were restored.
  returned: success
  type: list
  elements: dict
  contains:
    target:
      description: Its name in the machine.
      type: str
      sample: vda
    path:
      description: Its image or block device.
      type: str
    format:
      description: V(qcow2) or V(raw).
      type: str
    virtual_size:
      description: Bytes that the guest sees.
      type: int
    kept:
      description: What the file that was there is called now. V(null) if none was.
      type: str
kept:
  description: Everything that was put aside and is still there.
  returned: success
  type: list
  elements: str
started:
  description: Whether the machine was started.
  returned: success
  type: bool
running_after:
  description: With O(instant=true), how many seconds it took until the machine ran. V(null) if it did already.
  returned: success
  type: float
sources:
  description: Where the data of each disk came from, by target.
  returned: success
  type: dict
damages:
  description:
    - What was damaged in one copy and taken from another, see M(vmforge.backup.vmforge_backup_verify).
    - C(id) tells in which backup.
  returned: success
  type: list
  elements: dict
seconds:
  description: How long it took.
  returned: success
  type: float
"""

from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module
from ansible_collections.vmforge.backup.plugins.module_utils._restore import restore_backup
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS


def main() -> None:
    """Run the module."""
    run_module(RESTORE_ARGUMENTS, restore_backup)


if __name__ == "__main__":
    main()
