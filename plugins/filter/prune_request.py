# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that says what is to be pruned."""

from __future__ import annotations

DOCUMENTATION = r"""
name: prune_request
short_description: Put together what all nodes and the bucket have, for pruning
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what M(vmforge.backup.vmforge_backup_info) and M(vmforge.backup.vmforge_vm_info) returned on many nodes,
    and finds the virtual machines and the nodes that are missing.
positional: domains, names, bucket, wanted, ids, ignored, began, at
options:
  _input:
    description: By host, the result of M(vmforge.backup.vmforge_backup_info). Empty for one that is not in the play.
    type: dict
    required: true
  domains:
    description: By host, the result of M(vmforge.backup.vmforge_vm_info).
    type: dict
  names:
    description: By host, the name of the node in its backups. That of the host, unless set.
    type: dict
  bucket:
    description: The listing of the bucket. Empty if there is none.
    type: dict
  wanted:
    description: Names or UUIDs of virtual machines. Empty for all.
    type: list
    elements: str
    default: []
  ids:
    description: Backups of the one that is wanted.
    type: list
    elements: str
    default: []
  ignored:
    description: Hosts that are gone for good.
    type: list
    elements: str
    default: []
  began:
    description: By host, the moment before it was listed. Without it, no clock is compared.
    type: dict
  at:
    description: The moment when all were listed, by the same clock.
    type: str
"""

EXAMPLES = r"""
- name: Tell what of a node would be pruned
  ansible.builtin.debug:
    msg: "{{ {'node1': listing} | vmforge.backup.prune_request }}"
"""

RETURN = r"""
_value:
  description:
    - C(hosts), the hosts that were listed, with their nodes. C(listings) and C(bucket), as short as can be.
    - C(missing), the places that could not be listed. C(vms), the virtual machines. C(known), those that a libvirt has.
    - C(ids), the backups that are named. C(clocks), the places whose clocks are more than five minutes off.
    - C(problems), each with C(node), C(place) and C(message), and C(notes).
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._prune_request import prune_request


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"prune_request": prune_request}
