#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_catalog
short_description: Make the panel's table of backups say what a node has
version_added: 1.0.0
description:
  - Compares the rows of one node in C(backups) with what M(vmforge.backup.vmforge_backup_info) listed there, and makes
    them match. What is new gets a row, what changed is updated, what has gone is marked C(deleted).
  - All of it is one transaction under one lock. A listing that is not sound changes nothing.
  - Storage is the truth and the table an index of it, so this is also how a table that was lost is rebuilt.
  - Rows of other nodes, and rows that the panel or another tool wrote, are left alone.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.database
options:
  node:
    description:
      - The name of the node in its backups, see O(vmforge.backup.vmforge_backup#module:node).
      - Only backups that this node made become its rows, though others may lie in the same directory.
    type: str
    required: true
  backups:
    description:
      - What M(vmforge.backup.vmforge_backup_info) returned as RV(vmforge.backup.vmforge_backup_info#module:backups)
        on that node. Never pass an empty list for a node that gave no answer.
      - P(vmforge.backup.catalog_entries#filter) makes a long one light.
    type: list
    elements: dict
    required: true
  bucket_backups:
    description:
      - The same for the bucket, if it was listed. An empty list says that nothing is there.
      - Without it, a backup that has gone from the node and had a copy in S3 keeps its row as it is,
        and its domain is among RV(uncertain).
    type: list
    elements: dict
  vms:
    description:
      - UUIDs of the domains that the listing covers. Rows of others are left alone. All domains, unless set.
    type: list
    elements: str
  backup_dir:
    description:
      - The directory of all backups on that node, for the paths of what has no directory there.
    type: path
    default: /var/lib/vmforge/backups
notes:
  - The state of a row is C(ready), C(failed) or C(deleted). A backup whose deletion was begun and is not finished
    is C(failed), with the reason in C(meta).
seealso:
  - module: vmforge.backup.vmforge_backup_info
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: List the backups of this node
  vmforge.backup.vmforge_backup_info:
  register: listing

- name: Record them in the panel's database
  vmforge.backup.vmforge_backup_catalog:
    node: node1
    backups: "{{ listing.backups | vmforge.backup.catalog_entries }}"
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"
  delegate_to: localhost
  register: recorded

- name: Tell what changed
  ansible.builtin.debug:
    msg: "{{ recorded.inserted }} new, {{ recorded.updated }} changed, {{ recorded.deleted }} gone"
"""

RETURN = r"""
node:
  description: The node, see O(node).
  returned: success
  type: str
  sample: node1
inserted:
  description: How many rows were added.
  returned: success
  type: int
updated:
  description: How many rows were changed.
  returned: success
  type: int
deleted:
  description: How many rows were marked C(deleted).
  returned: success
  type: int
unchanged:
  description: How many rows were right.
  returned: success
  type: int
uncertain:
  description:
    - UUIDs of domains with backups that are not on the node any more and may be in S3.
      Their rows were left alone. List the bucket, and pass O(bucket_backups).
  returned: success
  type: list
  elements: str
changes:
  description: The rows that were changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    action:
      description: V(insert), V(update) or V(delete).
      type: str
      sample: insert
    vm_uuid:
      description: The domain.
      type: str
      sample: 7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed
    id:
      description: The backup.
      type: str
      sample: 20261122T151200Z
    path:
      description: Its directory on the node.
      type: str
      sample: /var/lib/vmforge/backups/7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed/20261122T151200Z
    status:
      description: What the row says now.
      type: str
      sample: ready
    before:
      description: What it said before. V(null) if there was none.
      type: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._catalog_sync import CATALOG_ARGUMENTS, sync_catalog
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(CATALOG_ARGUMENTS, sync_catalog)


if __name__ == "__main__":
    main()
