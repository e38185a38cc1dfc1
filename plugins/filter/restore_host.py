# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that chooses the host that restores a machine."""

from __future__ import annotations

DOCUMENTATION = r"""
name: restore_host
short_description: Choose the host that restores a machine
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - That is where the machine runs, else where it is defined, else where its newest backup lies, else the first host.
positional: vm, located, listed
options:
  _input:
    description: All hosts that may.
    type: list
    elements: str
    required: true
  vm:
    description: The machine, by name or UUID.
    type: str
    required: true
  located:
    description: Results of M(vmforge.backup.vmforge_vm_info) by host.
    type: dict
    required: true
  listed:
    description: Results of M(vmforge.backup.vmforge_backup_info) by host.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Tell which host restores
  ansible.builtin.debug:
    msg: "{{ ['node1', 'node2'] | vmforge.backup.restore_host('web1', {'node2': domains}, {'node1': listing}) }}"
"""

RETURN = r"""
_value:
  description: The host.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._verify_report import restore_host


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"restore_host": restore_host}
