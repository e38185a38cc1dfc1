#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_info
short_description: List the backups that a node or a bucket really has
version_added: 1.0.0
description:
  - Reads what lies in the backup directory of a node, in a bucket, or in both, and nothing else.
    No database and no libvirt are asked, so that it works on a machine that never saw a domain.
  - A listing is complete or it is an error. There are no partial answers.
extends_documentation_fragment:
  - vmforge.backup.attributes.info_module
  - vmforge.backup.hypervisor.storage
  - vmforge.backup.s3
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
  status:
    description:
      - Only backups in one of these states. All, unless set.
    type: list
    elements: str
    choices: [ready, partial, failed, deleting]
  offsite:
    description:
      - V(s3) lists the bucket O(s3_bucket) as well.
    type: str
    choices: [none, s3]
    default: none
seealso:
  - module: vmforge.backup.vmforge_backup
  - module: vmforge.backup.vmforge_vm_info
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: List all backups of a node
  vmforge.backup.vmforge_backup_info:
  register: listing

- name: Show the newest that is ready
  ansible.builtin.debug:
    msg: "{{ listing.backups | selectattr('status', 'equalto', 'ready') | first }}"

- name: List what failed or was left unfinished
  vmforge.backup.vmforge_backup_info:
    status:
      - failed
      - partial

- name: List the backups of one domain, in the directory and in the bucket
  vmforge.backup.vmforge_backup_info:
    vm: web1
    offsite: s3
    s3_endpoint: s3.example.com:9000
    s3_bucket: vm-backups
    s3_prefix: vmforge/backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
"""

RETURN = r"""
hostname:
  description: The host's own name, which is the node's name in its backups unless another is set.
  returned: success
  type: str
  sample: node1
time:
  description: What the host's clock said when all was listed, in UTC.
  returned: success
  type: str
  sample: "2026-11-22T15:12:00Z"
backups:
  description: The backups, newest first.
  returned: success
  type: list
  elements: dict
  contains:
    vm:
      description: The domain, as it was when the backup was made.
      type: dict
      contains:
        uuid:
          description: Its UUID.
          type: str
          sample: 7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed
        name:
          description: Its name. V(null) where only a manifest could tell, and there is none.
          type: str
          sample: web1
        node:
          description: The node that made the backup. V(null) where only a manifest could tell, and there is none.
          type: str
          sample: node1
    id:
      description: The backup, named by the second in UTC at which it was begun.
      type: str
      sample: 20261122T151200Z
    status:
      description:
        - V(ready) is complete. V(partial) is being made, or was interrupted. V(failed) has an RV(backups[].error).
          V(deleting) was not deleted to the end.
      type: str
      sample: ready
    type:
      description: V(full) or V(incremental).
      type: str
      sample: full
    instant:
      description: The moment of the disks' contents, in UTC.
      type: str
      sample: "2026-11-22T15:12:00.250000Z"
    finished_at:
      description: When it was complete, in UTC.
      type: str
      sample: "2026-11-22T15:12:41Z"
    consistency:
      description: V(quiesced), V(crash) or V(offline).
      type: str
      sample: quiesced
    parent:
      description: C(id) and C(manifest_sha256) of the backup that it builds on. V(null) for a full one.
      type: dict
    checkpoint:
      description: The checkpoint that was made with it, for the next backup to build on. V(null) if none was.
      type: str
      sample: vmforge-20261122T151200Z-0f1c2d3e
    size_bytes:
      description: Bytes of all its files.
      type: int
    data_bytes:
      description: Bytes of guest data that it holds.
      type: int
    checksum_sha256:
      description: The SHA-256 of its C(manifest.json).
      type: str
    path:
      description: Its directory on the node. V(null) if it is not there.
      type: str
    s3_key:
      description: What its keys in the bucket begin with. V(null) if it is not there.
      type: str
    copies:
      description: Where its disks lie, V(local) and V(s3).
      type: list
      elements: str
      sample: [local, s3]
    chain_local:
      description: Whether all files that a restore needs lie on the node, so that C(qemu-img) opens its images there.
      type: bool
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
        file:
          description: The name of its image in the backup's directory.
          type: str
          sample: vda.qcow2
        virtual_size:
          description: Bytes that the guest sees.
          type: int
        data_bytes:
          description: Bytes of guest data in the image.
          type: int
    excluded:
      description: The disks that it does not hold, each with C(target) and C(reason).
      type: list
      elements: dict
    hold:
      description: Why and until when it must not be deleted. V(null) if it is not held.
      type: dict
    verified:
      description: What its verifications found. V(null) if there was none.
      type: dict
    offsite_pending:
      description: Whether a copy in S3 was demanded and is not complete.
      type: bool
    offsite_place:
      description:
        - Where its node noted that the copy in S3 lies or is to lie. V(null) if the node noted none.
      type: dict
      contains:
        endpoint:
          description: The server. V(null) for AWS.
          type: str
        bucket:
          description: The bucket.
          type: str
        prefix:
          description: What its keys begin with.
          type: str
    error:
      description: Why it failed, or what is wrong with it or with what it builds on. V(null) if nothing is known.
      type: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._listing import INFO_ARGUMENTS, list_backups
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(INFO_ARGUMENTS, list_backups)


if __name__ == "__main__":
    main()
