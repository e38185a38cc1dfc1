# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that tells of which rows nothing was found yet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: adoption_rest
short_description: Tell of which rows of the panel's PHP pack nothing was found yet
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes rows of M(vmforge.backup.vmforge_backup_adopt_info), and returns those of which no result of
    M(vmforge.backup.vmforge_backup_adopt) says anything else than that they are missing.
positional: answers
options:
  _input:
    description: The rows.
    type: list
    elements: dict
    required: true
  answers:
    description: Results of M(vmforge.backup.vmforge_backup_adopt).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show of what nothing was found
  ansible.builtin.debug:
    msg: "{{ pack.rows | vmforge.backup.adoption_rest([adopted]) }}"
"""

RETURN = r"""
_value:
  description: The rows that are left.
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._adoption import undecided


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"adoption_rest": undecided}
