# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that puts the verifications of all nodes together."""

from __future__ import annotations

DOCUMENTATION = r"""
name: verify_report
short_description: Put together what the nodes found out about their backups
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what M(vmforge.backup.vmforge_backup_verify) returned on many nodes, and makes one row of every backup.
positional: wanted
options:
  _input:
    description: Results of M(vmforge.backup.vmforge_backup_verify) by node. Empty for one that dropped out.
    type: dict
    required: true
  wanted:
    description: The machines that were asked for, by name or UUID.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Tell what is wrong
  ansible.builtin.debug:
    msg: "{{ ({'node1': verified} | vmforge.backup.verify_report).notes }}"
"""

RETURN = r"""
_value:
  description:
    - C(rows), one for each backup. C(problems), what is not as it should be, with C(node), C(place) and C(message).
      C(notes), sentences for people.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._verify_report import verify_report


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"verify_report": verify_report}
