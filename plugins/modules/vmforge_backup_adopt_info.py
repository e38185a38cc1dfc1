#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_adopt_info
short_description: List the backups of the panel's PHP pack that can be adopted
version_added: 1.0.0
description:
  - Reads the rows of the panel's table C(backups) that name a single image and were not written by this collection.
  - The role P(vmforge.backup.catalog#role) has to have been run before, so that the table has all columns.
extends_documentation_fragment:
  - vmforge.backup.attributes.info_module
  - vmforge.backup.database
options:
  panel_timezone:
    description:
      - The time zone in which the panel wrote C(created_at), such as V(Europe/Berlin) or V(UTC).
        The table does not tell.
      - In the hour that a clock goes through twice in autumn, the order of the rows decides.
    type: str
    required: true
  vm:
    description:
      - Only backups of these domains, by name or UUID.
    type: list
    elements: str
seealso:
  - module: vmforge.backup.vmforge_backup_adopt
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: List what the pack recorded
  vmforge.backup.vmforge_backup_adopt_info:
    panel_timezone: Europe/Berlin
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"
"""

RETURN = r"""
rows:
  description: The rows, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    row:
      description: Its C(id) in the table.
      type: int
    vm_uuid:
      description: The domain's UUID.
      type: str
    vm_name:
      description: The domain's name, or its UUID if the panel does not know the domain any more.
      type: str
    created_at:
      description: The column as the panel sees it.
      type: str
    instant:
      description: The same in UTC.
      type: str
    ambiguous:
      description: Whether the panel's clock went through that time twice.
      type: bool
    size_bytes:
      description: The size of the image.
      type: int
    checksum_sha256:
      description: The checksum of the image.
      type: str
    path:
      description: Where the image lies on a node.
      type: str
    s3_key:
      description: The image's key in the bucket.
      type: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._adopt_rows import ADOPT_INFO_ARGUMENTS, list_pack_rows
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(ADOPT_INFO_ARGUMENTS, list_pack_rows)


if __name__ == "__main__":
    main()
