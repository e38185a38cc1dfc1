# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that names what the panel's database does not say yet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: catalog_unrecorded
short_description: Name the nodes whose backups are not recorded
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what the tasks of P(vmforge.backup.catalog#role) returned for many nodes, and makes a sentence of every reason
    why rows of M(vmforge.backup.vmforge_backup_catalog) may not be right.
options:
  _input:
    description:
      - By node, the results C(listing), C(recorded), C(bucket) and C(corrected), each empty where it was not asked for,
        and C(pending), the new backups as M(vmforge.backup.vmforge_backup) returns them.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Name what is not recorded
  ansible.builtin.debug:
    msg: "{{ {'node1': {'listing': {'msg': 'No such directory'}}} | vmforge.backup.catalog_unrecorded }}"
"""

RETURN = r"""
_value:
  description: Sentences for people. Empty if all is recorded.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._recorded import unrecorded


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"catalog_unrecorded": unrecorded}
