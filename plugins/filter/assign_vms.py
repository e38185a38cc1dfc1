# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that decides which node backs up what."""

from __future__ import annotations

DOCUMENTATION = r"""
name: assign_vms
short_description: Decide which node backs up which virtual machine
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what M(vmforge.backup.vmforge_vm_info) returned on many nodes, and decides what each of them backs up.
  - A virtual machine that several nodes define under the same UUID is backed up where it runs.
positional: wanted
options:
  _input:
    description: Results of M(vmforge.backup.vmforge_vm_info) by the name of the node. Empty for one not asked yet.
    type: dict
    required: true
  wanted:
    description: Names or UUIDs of virtual machines. Empty for all.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show which node backs up what
  ansible.builtin.debug:
    msg: "{{ {'node1': located} | vmforge.backup.assign_vms(['web1']) }}"
"""

RETURN = r"""
_value:
  description:
    - C(here), the UUIDs to back up by node. C(names), the names by UUID.
    - C(searched), the nodes that answered. C(silent), those that did not, with C(node), C(result) and C(message).
    - C(refused) and C(skipped), what is not backed up, with C(vm), C(node), C(result) and C(message).
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._fleet import assign


def assign_vms(located: Mapping[str, Mapping[str, Any]], wanted: Iterable[str] = ()) -> dict[str, Any]:
    """Decide; see above."""
    return assign(located, wanted).as_values()


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"assign_vms": assign_vms}
