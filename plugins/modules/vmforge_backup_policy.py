#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_policy
short_description: Set which backups of a VM the panel wants to be kept
version_added: 1.0.0
description:
  - Makes the row of one VM in C(backup_policies) as it is wanted, or removes it.
  - What is not mentioned stays as it is. In a new row it is NULL, which means the default.
  - A policy that would keep nothing is refused.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.database
options:
  vm:
    description:
      - The VM, by its name in the panel or its UUID. A name that several VMs have is an error.
    type: str
    required: true
  state:
    description:
      - V(absent) removes the row, so that variables or defaults hold.
    type: str
    choices: [present, absent]
    default: present
  keep_daily:
    description:
      - Of how many days that have a backup to keep the newest. V(0) turns the rule off.
    type: int
  keep_weekly:
    description:
      - The same for ISO weeks.
    type: int
  keep_monthly:
    description:
      - The same for months.
    type: int
  max_total_gb:
    description:
      - GiB that all backups of the VM may take. V(0) means no cap.
    type: int
  max_age_days:
    description:
      - Days after which a backup goes. V(0) means no cap.
    type: int
  offsite:
    description:
      - Whether its backups are also stored in S3. V(s3) in a new row, unless set.
    type: str
    choices: [none, s3]
  delete_local_after_upload:
    description:
      - Keep the disks in S3 only. Needs V(s3) as O(offsite).
    type: bool
  reset:
    description:
      - Fields to set back to what a new row has.
    type: list
    elements: str
    choices: [keep_daily, keep_weekly, keep_monthly, max_total_gb, max_age_days, offsite, delete_local_after_upload]
    default: []
notes:
  - The newest good backup, held ones, and what others build on are never deleted, whatever a policy says.
seealso:
  - module: vmforge.backup.vmforge_backup_policy_info
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Keep two weeks of daily backups of a VM, and at most 100 GiB
  vmforge.backup.vmforge_backup_policy:
    vm: web1
    keep_daily: 14
    max_total_gb: 100
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"

- name: Let the default number of days hold again
  vmforge.backup.vmforge_backup_policy:
    vm: web1
    reset:
      - keep_daily
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"

- name: Remove the policy
  vmforge.backup.vmforge_backup_policy:
    vm: web1
    state: absent
    db_host: db.example.com
    db_user: vmforge_backup
    db_password: "{{ db_password }}"
"""

RETURN = r"""
vm:
  description: The VM, with C(uuid) and C(name).
  returned: success
  type: dict
  sample: {uuid: 7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed, name: web1}
policy:
  description:
    - The row, or what it would be in check mode. V(null) if there is none. A field that is V(null) has the default.
  returned: success
  type: dict
  contains:
    keep_daily:
      description: See O(keep_daily).
      type: int
    keep_weekly:
      description: See O(keep_weekly).
      type: int
    keep_monthly:
      description: See O(keep_monthly).
      type: int
    max_total_gb:
      description: See O(max_total_gb).
      type: int
    max_age_days:
      description: See O(max_age_days).
      type: int
    offsite:
      description: See O(offsite).
      type: str
    delete_local_after_upload:
      description: See O(delete_local_after_upload).
      type: bool
"""

from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module
from ansible_collections.vmforge.backup.plugins.module_utils._policy_rows import POLICY_ARGUMENTS, manage_policy


def main() -> None:
    """Run the module."""
    run_module(POLICY_ARGUMENTS, manage_policy)


if __name__ == "__main__":
    main()
