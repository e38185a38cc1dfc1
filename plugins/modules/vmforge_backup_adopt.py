#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_adopt
short_description: Turn images that the panel's PHP pack made into backups
version_added: 1.0.0
description:
  - Takes rows of M(vmforge.backup.vmforge_backup_adopt_info) and looks for their images on this node and in the bucket.
  - An image is read whole and compared with the checksum of its row. What matches becomes a backup with a manifest, and
    its old name goes. On one file system no data are copied. Within the bucket the server copies, and the copy is read.
  - What is missing, does not match, or could not be restored by itself is told and not touched.
  - A run that was interrupted is gone on with by the next one. Until a backup is complete its image stays where it was.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.hypervisor
  - vmforge.backup.hypervisor.storage
  - vmforge.backup.s3
options:
  rows:
    description:
      - The rows, as M(vmforge.backup.vmforge_backup_adopt_info) returns them. Other keys than these do not matter.
    type: list
    elements: dict
    required: true
    suboptions:
      row:
        description: Its C(id) in the panel's table.
        type: int
        required: true
      vm_uuid:
        description: The domain's UUID.
        type: str
        required: true
      vm_name:
        description: The domain's name, where libvirt does not know it any more.
        type: str
      instant:
        description: When the backup was made, an RFC 3339 time.
        type: str
        required: true
      checksum_sha256:
        description: The SHA-256 of the image. Without one nothing is adopted.
        type: str
      path:
        description: Where the image lies on a node.
        type: str
      s3_key:
        description: The image's whole key in the bucket.
        type: str
      created_at:
        description: Of no effect.
        type: str
      ambiguous:
        description: Of no effect.
        type: bool
      size_bytes:
        description: Of no effect.
        type: int
  source_dirs:
    description:
      - Directories of the pack. Images that lie elsewhere are not touched.
      - O(backup_dir), unless set.
    type: list
    elements: path
    default: []
  uri:
    description:
      - libvirt's connection URI, as seen on the node.
      - The definition of a domain that still exists goes into the backup.
      - If empty, libvirt is not asked.
  node:
    description:
      - The node's name in the manifests. Use the same as for M(vmforge.backup.vmforge_backup).
      - The host's own name, unless set.
    type: str
  offsite:
    description:
      - V(s3) adopts what lies in the bucket as well.
    type: str
    choices: [none, s3]
    default: none
  lock_timeout:
    description:
      - Seconds to wait for another process that works on the backups of the same domain.
    type: int
    default: 0
requirements:
  - QEMU's tools (package C(qemu-utils))
seealso:
  - module: vmforge.backup.vmforge_backup_adopt_info
  - module: vmforge.backup.vmforge_backup_adopt_record
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Read what the pack recorded
  vmforge.backup.vmforge_backup_adopt_info:
    panel_timezone: Europe/Berlin
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"
  register: pack
  delegate_to: localhost

- name: Adopt what lies on this node
  vmforge.backup.vmforge_backup_adopt:
    rows: "{{ pack.rows }}"
    source_dirs:
      - /var/lib/vmforge/backups
      - /srv/old-backups
  register: adopted

- name: Tell the panel
  vmforge.backup.vmforge_backup_adopt_record:
    adopted: "{{ adopted.rows | selectattr('id') }}"
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"
  delegate_to: localhost
"""

RETURN = r"""
rows:
  description: What became of each row.
  returned: success, and when rows failed
  type: list
  elements: dict
  contains:
    row:
      description: The row's C(id) in the panel's table.
      type: int
    vm:
      description: The domain's C(uuid) and C(name).
      type: dict
    node:
      description: This node.
      type: str
    result:
      description:
        - V(adopted), V(planned) in check mode, V(present) if an earlier run adopted it, V(missing) if neither this node
          nor the bucket has it, V(refused) or V(failed) as RV(rows[].notes) tell.
      type: str
    changed:
      description: Whether anything was, or would be, changed.
      type: bool
    id:
      description: The backup's id. V(null) if it became none.
      type: str
    instant:
      description: When it was made, in UTC.
      type: str
    path:
      description: The backup's directory.
      type: str
    s3_key:
      description: What its keys in the bucket begin with. V(null) if it is not there.
      type: str
    copies:
      description: Where the image lies, V(local) and V(s3).
      type: list
      elements: str
    checksum_sha256:
      description: The SHA-256 of the C(manifest.json).
      type: str
    size_bytes:
      description: Bytes of all its files.
      type: int
    notes:
      description: Why it was not adopted, or what is wrong with a copy of it.
      type: list
      elements: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._adopt_node import ADOPT_ARGUMENTS, adopt_rows
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(ADOPT_ARGUMENTS, adopt_rows)


if __name__ == "__main__":
    main()
