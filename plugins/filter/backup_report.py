# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that puts a run's results together."""

from __future__ import annotations

DOCUMENTATION = r"""
name: backup_report
short_description: Put together what the nodes backed up
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what M(vmforge.backup.vmforge_backup) returned on many nodes, and makes one row of every virtual machine,
    also of those that were not found and those whose node did not answer.
positional: outcomes
options:
  _input:
    description: What P(vmforge.backup.assign_vms#filter) decided.
    type: dict
    required: true
  outcomes:
    description: Results of M(vmforge.backup.vmforge_backup) by node. Empty for one that had nothing to do.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show a row for each virtual machine
  ansible.builtin.debug:
    msg: "{{ ({'node1': located} | vmforge.backup.assign_vms | vmforge.backup.backup_report({'node1': made})).rows }}"
"""

RETURN = r"""
_value:
  description:
    - C(rows), one for each virtual machine. C(problems), what failed, with C(node), C(vm) and C(message).
      C(notes), sentences for people.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._report import report


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"backup_report": report}
