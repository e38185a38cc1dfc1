# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that puts together what all nodes adopted."""

from __future__ import annotations

DOCUMENTATION = r"""
name: adoption_report
short_description: Put together what many nodes adopted of the panel's PHP pack
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes rows of M(vmforge.backup.vmforge_backup_adopt_info) and what M(vmforge.backup.vmforge_backup_adopt) made of
    them on many nodes, and tells what became of each row.
positional: nodes
options:
  _input:
    description: The rows.
    type: list
    elements: dict
    required: true
  nodes:
    description: By the name of the node, the list of its results of M(vmforge.backup.vmforge_backup_adopt).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what was adopted
  ansible.builtin.debug:
    msg: "{{ (pack.rows | vmforge.backup.adoption_report({'node1': [adopted]})).adopted }}"
"""

RETURN = r"""
_value:
  description:
    - C(rows), one for each row, with C(result). C(adopted), what M(vmforge.backup.vmforge_backup_adopt_record) takes.
      C(problems), what was not adopted and why, with C(node), C(place) and C(message). C(notes), sentences for people.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._adoption import report


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"adoption_report": report}
