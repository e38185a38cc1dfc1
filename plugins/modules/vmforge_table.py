#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_table
short_description: Print a table
version_added: 1.0.0
description:
  - Prints rows as a table, and sentences below it, in the output of the playbook.
  - Nothing is printed for a stdout callback that makes JSON. The rows are in the result.
extends_documentation_fragment:
  - vmforge.backup.attributes.info_module
attributes:
  action_group:
    support: none
    membership: []
options:
  title:
    description:
      - A line above the table.
    type: str
    default: ""
  columns:
    description:
      - The columns, from left to right.
    type: list
    elements: dict
    required: true
    suboptions:
      key:
        description: The key of its values in O(rows).
        type: str
        required: true
      title:
        description: Its heading.
        type: str
        required: true
      kind:
        description: How values are shown. V(bytes) and V(seconds) are numbers, V(age) is an RFC 3339 time.
        type: str
        choices: [text, list, bytes, seconds, age]
        default: text
  rows:
    description:
      - The rows. A missing value is shown as V(-).
    type: list
    elements: dict
    required: true
  notes:
    description:
      - Sentences below the table.
    type: list
    elements: str
    default: []
  warnings:
    description:
      - Sentences to show as Ansible's own warnings.
    type: list
    elements: str
    default: []
  empty:
    description:
      - A line in place of a table without rows.
    type: str
    default: Nothing.
  file:
    description:
      - A file on the control node to write the rows to as well, as CSV if its name ends in C(.csv), and as JSON else.
      - Unset, it is the variable C(vmforge_backup_report_file), if there is one.
      - It is replaced as a whole, in check mode too. In CSV a text that a spreadsheet would take for a formula has an
        apostrophe before it.
    type: path
notes:
  - This runs on the control node. No connection is made.
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Print a table of two domains
  vmforge.backup.vmforge_table:
    title: Domains
    columns:
      - key: name
        title: NAME
      - key: size
        title: SIZE
        kind: bytes
    rows:
      - name: web1
        size: 10737418240
      - name: web2
"""

RETURN = r"""
rows:
  description: The rows as given.
  returned: success
  type: list
  elements: dict
table:
  description: The lines of the table.
  returned: success
  type: list
  elements: str
"""
