# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that makes the report of a pruning."""

from __future__ import annotations

DOCUMENTATION = r"""
name: prune_report
short_description: Make one report of what many nodes pruned
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what P(vmforge.backup.prune_request#filter) returned,
    and what M(vmforge.backup.vmforge_backup_prune) did then.
positional: done, bucket, policies, check_mode
options:
  _input:
    description: Of P(vmforge.backup.prune_request#filter).
    type: dict
    required: true
  done:
    description: By host, the result of M(vmforge.backup.vmforge_backup_prune). Empty for one that had nothing to do.
    type: dict
    required: true
  bucket:
    description: The same for the bucket, where it is pruned by itself.
    type: dict
  policies:
    description: The result of M(vmforge.backup.vmforge_backup_policy_info).
    type: dict
  check_mode:
    description: Whether they only told what they would do.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the report of a node that had nothing to do
  ansible.builtin.debug:
    msg: "{{ {'node1': listing} | vmforge.backup.prune_request
      | vmforge.backup.prune_report({'node1': {}}) }}"
"""

RETURN = r"""
_value:
  description:
    - C(vms) and C(backups), rows for tables. C(problems), each with C(node), C(place) and C(message), and C(notes).
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._prune_report import prune_report


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"prune_report": prune_report}
