# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that writes what Prometheus is told."""

from __future__ import annotations

DOCUMENTATION = r"""
name: backup_metrics
short_description: Write the metrics of a node's backups for node_exporter
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what M(vmforge.backup.vmforge_vm_info) and M(vmforge.backup.vmforge_backup_info) returned on a node, and what
    a run did there, and writes them in the text format of Prometheus.
positional: backups
options:
  _input:
    description: The virtual machines of the node.
    type: list
    elements: dict
    required: true
  backups:
    description: All backups of the node.
    type: list
    elements: dict
    required: true
  now:
    description: The time, in seconds since 1970.
    type: float
    required: true
  attempts:
    description: What M(vmforge.backup.vmforge_backup) returned for each virtual machine.
    type: list
    elements: dict
    default: []
  assigned:
    description: UUIDs of what was to be backed up. Those that O(attempts) does not tell of, failed.
    type: list
    elements: str
    default: []
  prune:
    description: C(success) and C(deleted) of a prune. Unset if there was none.
    type: dict
  before:
    description: The text as it was. What this run tells nothing new about stays.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Show the metrics of a node
  ansible.builtin.debug:
    msg: "{{ domains.vms | vmforge.backup.backup_metrics(listing.backups, now=1795000000) }}"
"""

RETURN = r"""
_value:
  description: The text of a file for the textfile collector of node_exporter.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._metrics import render


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"backup_metrics": render}
