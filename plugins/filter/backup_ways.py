# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that decides what is backed up alike."""

from __future__ import annotations

DOCUMENTATION = r"""
name: backup_ways
short_description: Group virtual machines by what their policies say of S3
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes the UUIDs of what a node backs up, and what M(vmforge.backup.vmforge_backup_policy_info) returned,
    and makes one group of all that are backed up alike.
  - A policy that wants S3 where there is no bucket means a local backup and a warning.
    A policy that could not be read never drops a local copy.
positional: policies, names
options:
  _input:
    description: UUIDs.
    type: list
    elements: str
    required: true
  policies:
    description: The result of M(vmforge.backup.vmforge_backup_policy_info), also of one that failed.
    type: dict
    required: true
  names:
    description: Names by UUID, for the warnings.
    type: dict
    default: {}
  offsite:
    description: V(s3) or V(none), for those whose policy is not known.
    type: str
    default: none
  s3_configured:
    description: Whether there is a bucket.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Tell what is backed up how
  ansible.builtin.debug:
    msg: "{{ (['7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed'] | vmforge.backup.backup_ways({'policies': {}})).groups }}"
"""

RETURN = r"""
_value:
  description:
    - C(groups), each with C(vms), C(offsite) and C(delete_local_after_upload). C(warnings), sentences for people.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._ways import ways


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"backup_ways": ways}
