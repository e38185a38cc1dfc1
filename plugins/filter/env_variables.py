# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that turns the values of a file into variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: env_variables
short_description: Turn what a .env file says about backups into the collection's variables
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what M(vmforge.backup.vmforge_env_info) read. An empty value stands for no variable.
  - A value that its key may not have is an error.
options:
  _input:
    description: Values by key.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the variables that a file stands for
  ansible.builtin.debug:
    msg: "{{ {'BACKUP_DIR': '/srv/backups', 'S3_SSL': '1'} | vmforge.backup.env_variables }}"
"""

RETURN = r"""
_value:
  description: Variables such as C(vmforge_backup_dir), with truth values as such.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.vmforge.backup.plugins.plugin_utils._env_values import env_variables


def convert(settings: Mapping[str, str]) -> dict[str, Any]:
    """Convert; see above."""
    try:
        return env_variables(settings)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"env_variables": convert}
