#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_adopt_record
short_description: Turn rows of the panel's PHP pack into those of the adopted backups
version_added: 1.0.0
description:
  - Takes what M(vmforge.backup.vmforge_backup_adopt) returned, and changes the rows in the panel's table C(backups).
  - A row keeps its C(id). Where it was before is kept in its C(meta).
  - A backup that already has a row of its own keeps that one, and the pack's row is marked deleted.
  - All rows are changed in one transaction.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.database
options:
  adopted:
    description:
      - Results of M(vmforge.backup.vmforge_backup_adopt), of one node or of many. Only those that have an C(id).
    type: list
    elements: dict
    required: true
    suboptions:
      row:
        description: The row's C(id) in the table.
        type: int
        required: true
      node:
        description: The node that has the backup.
        type: str
        required: true
      id:
        description: The backup's id.
        type: str
        required: true
      instant:
        description: When it was made, in UTC.
        type: str
        required: true
      path:
        description: The backup's directory.
        type: path
        required: true
      s3_key:
        description: What its keys in the bucket begin with.
        type: str
      copies:
        description: Where the image lies.
        type: list
        elements: str
        choices: [local, s3]
        required: true
      checksum_sha256:
        description: The SHA-256 of its manifest.
        type: str
        required: true
      size_bytes:
        description: Bytes of all its files.
        type: int
        required: true
      vm:
        description: Of no effect.
        type: dict
      result:
        description: Of no effect.
        type: str
      changed:
        description: Of no effect.
        type: bool
      notes:
        description: Of no effect.
        type: list
        elements: str
seealso:
  - module: vmforge.backup.vmforge_backup_adopt
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Tell the panel what was adopted
  vmforge.backup.vmforge_backup_adopt_record:
    adopted:
      - row: 17
        node: node1
        id: 20251122T151200Z
        instant: "2025-11-22T15:12:00Z"
        path: /var/lib/vmforge/backups/7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed/20251122T151200Z
        copies: [local]
        checksum_sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
        size_bytes: 1073741824
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"
"""

RETURN = r"""
changes:
  description: The rows that were, or would be, changed.
  returned: success
  type: list
  elements: dict
  contains:
    row:
      description: The row's C(id) in the table.
      type: int
    before:
      description: Where it pointed.
      type: str
    after:
      description: Where it points now, or why it is marked deleted.
      type: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._adopt_rows import ADOPT_RECORD_ARGUMENTS, record_adopted
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(ADOPT_RECORD_ARGUMENTS, record_adopted)


if __name__ == "__main__":
    main()
