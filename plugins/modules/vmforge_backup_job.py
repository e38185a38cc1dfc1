#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_job
short_description: Follow backups, restores and verifications that go on
version_added: 1.0.0
description:
  - In a playbook the work of M(vmforge.backup.vmforge_backup), M(vmforge.backup.vmforge_backup_restore) and
    M(vmforge.backup.vmforge_backup_verify) goes on by itself on the node, whatever becomes of the playbook.
  - This tells which goes on and how far it is, or waits for one and returns what it returned.
extends_documentation_fragment:
  - vmforge.backup.attributes.info_module
attributes:
  action_group:
    support: none
    membership: []
options:
  job:
    description:
      - The work to wait for, as in RV(jobs[].job). Unset, all that goes on is told.
    type: str
  wait:
    description:
      - Seconds to wait for its end.
    type: int
    default: 0
notes:
  - Run it as root on the node itself.
  - Work is stopped by a signal to its process, RV(jobs[].pid). It tidies up behind itself.
seealso:
  - module: vmforge.backup.vmforge_backup
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Look what goes on
  vmforge.backup.vmforge_backup_job:
  register: found

- name: Tell of which virtual machines
  ansible.builtin.debug:
    msg: "{{ found.vms | map(attribute='vm') | join(', ') }}"
"""

RETURN = r"""
jobs:
  description: All that goes on.
  returned: without O(job)
  type: list
  elements: dict
  contains: &job
    job:
      description: Its name.
      type: str
      sample: 1f0c2a9be07d5513-9f1d22c8
    module:
      description: The module whose work it is.
      type: str
      sample: vmforge.backup.vmforge_backup
    vm:
      description: What the module was asked for. Empty for all.
      type: list
      elements: str
    pid:
      description: Its process.
      type: int
    begun:
      description: When it was begun.
      type: str
      sample: "2026-11-22T15:12:00Z"
    progress:
      description:
        - How far it is, for each virtual machine that is worked on right now, with C(vm), C(id), C(phase),
          C(bytes_done), C(bytes_total), C(rate) in bytes a second, and C(eta), the seconds left in this phase.
      type: list
      elements: dict
vms:
  description:
    - A row for each virtual machine that is worked on, with C(vm), C(work), C(phase), C(percent), C(bytes_done),
      C(bytes_total), C(rate), C(eta), C(job), C(pid) and C(begun). Work that waits has a row, too.
  returned: without O(job)
  type: list
  elements: dict
job:
  description: The work, if it still goes on. When it has ended, its own return values are returned in place of this.
  returned: with O(job)
  type: dict
  contains: *job
"""

from ansible_collections.vmforge.backup.plugins.module_utils._follow_job import JOB_ARGUMENTS, follow_job
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(JOB_ARGUMENTS, follow_job)


if __name__ == "__main__":
    main()
