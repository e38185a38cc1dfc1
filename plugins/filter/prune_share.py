# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that gives one node its share."""

from __future__ import annotations

DOCUMENTATION = r"""
name: prune_share
short_description: Take from a request for pruning what one node needs
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what P(vmforge.backup.prune_request#filter) returned, and leaves out virtual machines
    that a node has nothing of.
positional: host, everything
options:
  _input:
    description: Of P(vmforge.backup.prune_request#filter).
    type: dict
    required: true
  host:
    description: The host, as the inventory calls it.
    type: str
    required: true
  everything:
    description: Leave nothing out.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the share of a node
  ansible.builtin.debug:
    msg: "{{ {'node1': listing} | vmforge.backup.prune_request
      | vmforge.backup.prune_share('node1') }}"
"""

RETURN = r"""
_value:
  description: C(vm), C(listings) and C(bucket), for M(vmforge.backup.vmforge_backup_prune).
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._prune_request import prune_share


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"prune_share": prune_share}
