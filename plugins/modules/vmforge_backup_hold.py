#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_hold
short_description: Protect a backup from deletion
version_added: 1.0.0
description:
  - A held backup is deleted by nobody, neither by retention nor by hand, until it is freed or the hold ends.
  - The hold lies beside the backup on the node, and in S3 if it has a copy there.
    M(vmforge.backup.vmforge_backup_info) shows it.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.hypervisor
  - vmforge.backup.hypervisor.storage
  - vmforge.backup.s3
options:
  vm:
    description:
      - The virtual machine, by UUID, by its name in libvirt, or by a name that a backup of its records.
    type: str
    required: true
  id:
    description:
      - The backup. V(latest) is the newest that is complete.
    type: str
    required: true
  state:
    description:
      - V(present) holds it, V(absent) frees it.
    type: str
    choices: [present, absent]
    default: present
  reason:
    description:
      - Why it is held, for whoever wants to delete it. Needed with O(state=present).
    type: str
  by:
    description:
      - Who holds it.
    type: str
    default: ''
  until:
    description:
      - When the hold ends by itself, such as V(2027-01-31T00:00:00Z). Without a zone it is UTC. Never, unless set.
    type: str
  node:
    description:
      - The name of the node, as its backups record it. The host name, unless set.
    type: str
  offsite:
    description:
      - V(s3) also holds the copy in the bucket O(s3_bucket). Needed for a backup that has one.
    type: str
    choices: [none, s3]
    default: none
  lock_timeout:
    description:
      - Seconds to wait for another process that works on the backups of the same virtual machine.
    type: int
    default: 0
notes:
  - Run it as root on the node that made the backup.
seealso:
  - module: vmforge.backup.vmforge_backup_info
  - module: vmforge.backup.vmforge_backup_prune
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Protect the newest backup until it has been looked at
  vmforge.backup.vmforge_backup_hold:
    vm: web1
    id: latest
    reason: incident 4711
    until: "2099-01-31T00:00:00Z"
  register: held

- name: Free it
  vmforge.backup.vmforge_backup_hold:
    vm: web1
    id: "{{ held.backup.id }}"
    state: absent
"""

RETURN = r"""
backup:
  description: The backup.
  returned: success
  type: dict
  contains:
    vm:
      description: C(uuid), C(name) and C(node).
      type: dict
    id:
      description: Its id.
      type: str
      sample: 20261122T151200Z
    hold:
      description: C(reason), C(by), C(since) and C(until). V(null) if it is not held.
      type: dict
    copies:
      description: Where the hold lies, or was removed, V(local) and V(s3).
      type: list
      elements: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._hold import HOLD_ARGUMENTS, hold_backup
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(HOLD_ARGUMENTS, hold_backup, required_if=[("state", "present", ["reason"])])


if __name__ == "__main__":
    main()
