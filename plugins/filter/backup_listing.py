# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that makes one list of all."""

from __future__ import annotations

DOCUMENTATION = r"""
name: backup_listing
short_description: Make one list of the backups of many nodes and of S3
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what M(vmforge.backup.vmforge_backup_info) returned on many nodes and for a bucket, and makes one list of it,
    in which each backup stands once.
positional: bucket, names, latest
options:
  _input:
    description: Results of M(vmforge.backup.vmforge_backup_info) by the name of the node.
    type: dict
    required: true
  bucket:
    description: The result for the bucket. Empty or skipped if there is none.
    type: dict
    default: {}
  names:
    description:
      - By host, what its backups call it. By default the same, and for localhost the name that it gives itself.
    type: dict
    default: {}
  latest:
    description: Keep of each virtual machine the newest backup that is ready, and nothing else.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the ids of all backups
  ansible.builtin.debug:
    msg: "{{ ({'node1': listing} | vmforge.backup.backup_listing).backups | map(attribute='id') }}"
"""

RETURN = r"""
_value:
  description:
    - C(backups), newest first, as the module returns them, with C(vm_name), C(vm_uuid), C(node), C(node_name)
      and C(state). C(namesakes), whether two virtual machines share a name. C(problems), the nodes that could not be
      listed, with C(node), C(place) and C(message). C(notes), sentences for people.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._listing_report import listing


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"backup_listing": listing}
