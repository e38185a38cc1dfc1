#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_policy_info
short_description: Tell which policy holds for a VM, and where each value comes from
version_added: 1.0.0
description:
  - Resolves every field of a policy. The VM's row in the panel's C(backup_policies) goes first, then its variables,
    then the policy for all VMs, then the built-in one.
  - Without a database, variables and defaults are all there is. A database that is set and does not answer is an error,
    because nobody knows then what it says.
extends_documentation_fragment:
  - vmforge.backup.attributes.info_module
  - vmforge.backup.database
options:
  vms:
    description:
      - The VMs.
    type: list
    elements: dict
    required: true
    suboptions:
      uuid:
        description: Its UUID.
        type: str
        required: true
      name:
        description: Its name, for O(variables).
        type: str
  defaults:
    description:
      - The policy for all VMs, field by field. What it leaves out is the built-in one, 7 days, 4 weeks and 12 months,
        at most 200 GiB for a VM without a row.
      - The fields are C(keep_last), C(keep_daily), C(keep_weekly), C(keep_monthly), C(keep_yearly), C(min_keep),
        C(max_total_gb), C(max_age_days), C(offsite), C(delete_local_after_upload) and C(timezone).
    type: dict
    default: {}
  variables:
    description:
      - The same fields for single VMs, by name or UUID. Those of VMs that were not asked for are passed over.
    type: dict
    default: {}
seealso:
  - module: vmforge.backup.vmforge_backup_policy
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Tell what holds for a VM, without a database
  vmforge.backup.vmforge_backup_policy_info:
    vms:
      - uuid: 7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed
        name: web1
    defaults:
      keep_daily: 14
    variables:
      web1:
        offsite: s3

- name: Ask the panel's database as well
  vmforge.backup.vmforge_backup_policy_info:
    vms:
      - uuid: 7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed
        name: web1
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"
"""

RETURN = r"""
policies:
  description: For each UUID, all fields of the policy that holds, and C(sources).
  returned: success
  type: dict
  sample:
    7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed:
      keep_last: 0
      keep_daily: 14
      keep_weekly: 4
      keep_monthly: 12
      keep_yearly: 0
      min_keep: 1
      max_total_gb: null
      max_age_days: null
      offsite: s3
      delete_local_after_upload: false
      timezone: UTC
      sources:
        keep_daily: row
        offsite: variables
        keep_last: defaults
problems:
  description: For each UUID that has no usable policy, why.
  returned: success
  type: dict
  sample: {}
known:
  description: The UUIDs of all VMs that the panel has. V(null) without a database.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module
from ansible_collections.vmforge.backup.plugins.module_utils._policy_info import POLICY_INFO_ARGUMENTS, list_policies


def main() -> None:
    """Run the module."""
    run_module(POLICY_INFO_ARGUMENTS, list_policies)


if __name__ == "__main__":
    main()
