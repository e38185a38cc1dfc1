#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup
short_description: Back up libvirt domains, running or not, to a directory and to S3
version_added: 1.0.0
description:
  - Makes a backup of one or many domains of a node, a full one or an incremental one. A running domain is read through
    libvirt's pull mode, so that all its disks are of one instant, and goes on running.
  - Every backup is a plain directory of standard files. Disks are compressed qcow2 images that QEMU opens directly.
    Its C(manifest.json) is written last. Without it a backup does not exist, with it it is complete.
  - Blocks are read once, and go to the local directory and to S3 at the same time.
  - Each domain is worked on by a process of its own. If one fails, the others are finished,
    then the module fails and still returns RV(backups). The role P(vmforge.backup.backup#role) does so on many nodes.
  - Optical and floppy drives and disks that are read-only, shareable or transient are left out.
    See RV(backups[].excluded).
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.hypervisor
  - vmforge.backup.hypervisor.storage
  - vmforge.backup.capture
  - vmforge.backup.s3
attributes:
  idempotent:
    support: partial
    details:
      - Without O(max_age) every call makes a new backup.
options:
  vm:
    description:
      - The domains, by name or UUID. What looks like a UUID is looked up as both.
      - All domains of the node, unless set. With O(state=absent), exactly one.
    type: list
    elements: str
  state:
    description:
      - V(present) makes a backup, unless O(max_age) says that none is needed.
      - V(absent) deletes one backup, everywhere it lies. It is refused while another backup depends on it,
        while it is held, or while the bucket locks it.
    type: str
    choices: [present, absent]
    default: present
  id:
    description:
      - Which backup to delete. Only for O(state=absent), which needs it.
    type: str
  node:
    description:
      - The name of the node, as backups record it. The host name, unless set. Do not change it,
        for a node only acts on backups of its own. So several nodes can share a directory or a bucket.
    type: str
  offsite:
    description:
      - V(s3) also stores every backup in the bucket O(s3_bucket).
        A backup counts as made only when that copy is complete.
      - If only the upload fails, the local copy is kept and the module fails. The next call completes the upload first.
    type: str
    choices: [none, s3]
    default: none
  delete_local_after_upload:
    description:
      - Keep the disks in S3 only. They are streamed there and never stored on the node.
      - Needs O(offsite=s3).
    type: bool
    default: false
  type:
    description:
      - V(auto) makes an incremental backup where that is safe, and a full one where it is not.
        RV(backups[].full_reason) says why.
      - V(full) makes a full one, and V(incremental) fails where only a full one can be made.
      - An incremental backup holds what changed since its parent. That is known from dirty bitmaps in images of format
        qcow2. Other disks are stored in full inside of it.
      - Some of what did not change is compared with the parent every time. If that differs, a full backup is made,
        and a warning says so.
    type: str
    choices: [auto, full, incremental]
    default: auto
  max_incrementals:
    description:
      - How many incremental backups may follow a full one, from 0 to 100.
    type: int
    default: 30
  full_every:
    description:
      - How old the full backup at the end of a chain may be, such as V(14d).
      - V(7d) makes the first backup of each ISO week (in UTC) a full one.
    type: str
    default: 7d
  max_age:
    description:
      - Make no backup of a domain that has one younger than this, which is complete in every place demanded.
      - A number and a unit of V(s), V(m), V(h), V(d) or V(w), such as V(20h).
        This makes a job that is run again idempotent.
    type: str
notes:
  - Run it as root on the node itself.
  - Domains are left running and thawed, however the module ends.
seealso:
  - module: vmforge.backup.vmforge_backup_info
  - module: vmforge.backup.vmforge_vm_info
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Back up one domain
  vmforge.backup.vmforge_backup:
    vm: web1
  register: made

- name: Tell where its backup lies
  ansible.builtin.debug:
    var: made.backups[0].path

- name: Back up all domains that have no backup of the last 20 hours, two at a time
  vmforge.backup.vmforge_backup:
    parallel: 2
    max_age: 20h

- name: Back up two domains with a frozen file system, without the disk vdb, at 50 MiB/s
  vmforge.backup.vmforge_backup:
    vm:
      - web1
      - web2
    quiesce: required
    exclude:
      - vdb
    rate_limit: 50M

- name: Back up one domain in full, whatever could be built on
  vmforge.backup.vmforge_backup:
    vm: web1
    type: full

- name: Back up to S3 as well
  vmforge.backup.vmforge_backup:
    vm: web1
    offsite: s3
    s3_endpoint: s3.example.com:9000
    s3_bucket: vm-backups
    s3_prefix: vmforge/backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"

- name: Back up to S3 only, never storing disks on the node
  vmforge.backup.vmforge_backup:
    vm: web1
    offsite: s3
    delete_local_after_upload: true
    s3_endpoint: s3.example.com:9000
    s3_bucket: vm-backups
    s3_prefix: vmforge/backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"

- name: Delete a backup
  vmforge.backup.vmforge_backup:
    vm: web1
    id: "{{ made.backups[0].id }}"
    state: absent
"""

RETURN = r"""
backups:
  description: What was done for each domain, in the order of O(vm), else by name. Also returned if some failed.
  returned: always, unless nothing could be begun
  type: list
  elements: dict
  contains:
    vm:
      description: The domain.
      type: dict
      contains:
        uuid:
          description: Its UUID.
          type: str
          sample: 7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed
        name:
          description: Its name.
          type: str
          sample: web1
    node:
      description: The node, see O(node).
      type: str
      sample: node1
    result:
      description:
        - V(created) is a new backup. V(uploaded) is an earlier one whose missing copy in S3 is complete now.
          V(fresh) means that O(max_age) needs none. V(planned) is what check mode would make.
          V(deleted) and V(absent) belong to O(state=absent). V(failed) has an RV(backups[].error).
      type: str
      sample: created
    id:
      description: The backup, named by the second in UTC at which it was begun.
      type: str
      sample: 20261122T151200Z
    type:
      description: V(full) or V(incremental).
      type: str
      sample: full
    full_reason:
      description: Why it is a full one, or why some of its disks are stored in full. V(null) if none is.
      type: str
    parent:
      description: The backup that it builds on. V(null) for a full one.
      type: str
      sample: 20261121T151200Z
    consistency:
      description:
        - V(quiesced) if the guest's file systems were frozen at its instant. V(offline) if the domain was not running.
          V(crash) is the state that a power failure would have left.
      type: str
      sample: quiesced
    path:
      description: Its directory on the node.
      type: str
      sample: /var/lib/vmforge/backups/7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed/20261122T151200Z
    s3_key:
      description: What its keys in the bucket begin with. V(null) without a copy there.
      type: str
    copies:
      description: Where its disks lie, V(local) and V(s3).
      type: list
      elements: str
      sample: [local, s3]
    checksum_sha256:
      description: The SHA-256 of its C(manifest.json), from which everything else can be checked.
      type: str
    size_bytes:
      description: Bytes of all its files.
      type: int
    bytes_read:
      description: Bytes that were read of the guest's disks.
      type: int
    seconds:
      description: How long it took.
      type: float
    disks:
      description: The disks that it holds.
      type: list
      elements: dict
      contains:
        target:
          description: Its name in the domain.
          type: str
          sample: vda
        type:
          description: V(full) or V(incremental).
          type: str
          sample: full
        full_reason:
          description: Why it was stored in full. Of a backup that was just made.
          type: str
        virtual_size:
          description: Bytes that the guest sees.
          type: int
        bytes:
          description: Bytes of guest data in its image.
          type: int
    excluded:
      description: The disks that it does not hold.
      type: list
      elements: dict
      contains:
        target:
          description: Its name in the domain.
          type: str
          sample: sda
        reason:
          description: Why.
          type: str
          sample: cdrom
    warnings:
      description: What was not as it should be.
      type: list
      elements: str
    error:
      description: Why it failed. V(null) if it did not.
      type: dict
      contains:
        code:
          description: A word for programs.
          type: str
          sample: scratch_full
        message:
          description: What failed, why, and what to do.
          type: str
        phase:
          description: During what.
          type: str
    plan:
      description:
        - In check mode, what would be made. Else V(null).
        - A bitmap that was made since a domain was started can only be seen by the run itself, which may find that
          a full backup is needed.
      type: dict
      contains:
        uploads:
          description: Ids of earlier backups whose missing copy in S3 would be completed first.
          type: list
          elements: str
        parent:
          description: The backup that it would build on. V(null) for a full one.
          type: str
        disks:
          description:
            - The disks that would be read, each with C(target), C(format), C(source), C(virtual_size),
              C(estimated_bytes), C(type) and C(full_reason).
          type: list
          elements: dict
        estimated_read_bytes:
          description: Bytes to read of all disks, about.
          type: int
        estimated_stored_bytes:
          description: Bytes that the backup would take, about. From the last backup of the domain, where there is one.
          type: int
        destinations:
          description: Where it would lie.
          type: list
          elements: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._backup import manage_backups
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module
from ansible_collections.vmforge.backup.plugins.module_utils._options import BACKUP_ARGUMENTS


def main() -> None:
    """Run the module."""
    run_module(BACKUP_ARGUMENTS, manage_backups, required_if=[("state", "absent", ["vm", "id"])])


if __name__ == "__main__":
    main()
