# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that decides what a host's ``.env`` file is to say."""

from __future__ import annotations

DOCUMENTATION = r"""
name: env_values
short_description: Decide what the .env file of a host is to say about backups
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Variables win, then what the master's file says, then what the host's own file says, then defaults.
    Only for the two keys of S3 the host's own file comes before the master's.
positional: own, master, adopted
options:
  _input:
    description: What the variables say by key, V(null) where they say nothing.
    type: dict
    required: true
  own:
    description: What the host's own file says.
    type: dict
    required: true
  master:
    description: What the master's file says.
    type: dict
    default: {}
  adopted:
    description: Variables that were only taken from the host's own file before.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show what the file of a host would say
  ansible.builtin.debug:
    msg: "{{ ({'BACKUP_DIR': none} | vmforge.backup.env_values({}, {'BACKUP_DIR': '/srv/backups'}))['values'] }}"
"""

RETURN = r"""
_value:
  description: C(values) and C(secrets), text by key. C(problems), sentences about what cannot be decided.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._env_values import env_values


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"env_values": env_values}
