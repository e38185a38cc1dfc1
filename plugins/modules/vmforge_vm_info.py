#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_vm_info
short_description: Describe libvirt domains, and why one could not be backed up
version_added: 1.0.0
description:
  - Lists the domains that libvirt defines on a node, running or not, with their disks and guest agent.
  - Tells for every disk whether it would be part of a backup, and for every domain what would keep
    M(vmforge.backup.vmforge_backup) from backing it up. Nothing is changed.
extends_documentation_fragment:
  - vmforge.backup.attributes.info_module
  - vmforge.backup.hypervisor
options:
  vm:
    description:
      - The domains to describe, by name or UUID. What looks like a UUID is looked up as both.
      - All domains, unless set.
      - One that is not here is no error, because many nodes may be asked. See RV(not_found).
    type: list
    elements: str
seealso:
  - module: vmforge.backup.vmforge_backup
  - module: vmforge.backup.vmforge_backup_info
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Describe all domains of a node
  vmforge.backup.vmforge_vm_info:
  register: domains

- name: Name those that cannot be backed up
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.obstacles | join('; ') }}"
  loop: "{{ domains.vms | rejectattr('backup_possible') }}"
  loop_control:
    label: "{{ item.name }}"

- name: Find out whether two domains are on this node
  vmforge.backup.vmforge_vm_info:
    vm:
      - web1
      - 7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed
  register: found

- name: Tell which are not
  ansible.builtin.debug:
    var: found.not_found
"""

RETURN = r"""
vms:
  description: The domains, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: web1
    uuid:
      description: Its UUID.
      type: str
      sample: 7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed
    state:
      description: libvirt's word for its state.
      type: str
      sample: running
    active:
      description: Whether QEMU runs for it. A paused domain is active.
      type: bool
    agent:
      description: The guest agent, which is needed for a consistent state of the guest's file systems.
      type: dict
      contains:
        configured:
          description: The domain has a channel for it.
          type: bool
        connected:
          description: It runs in the guest and answers.
          type: bool
    disks:
      description: All its disks.
      type: list
      elements: dict
      contains:
        target:
          description: Its name in the domain.
          type: str
          sample: vda
        type:
          description: libvirt's type of disk.
          type: str
          sample: file
        format:
          description: The format of its image.
          type: str
          sample: qcow2
        source:
          description: A path or a device, or C(protocol:name) of a network disk. V(null) for an empty drive.
          type: str
          sample: /var/lib/libvirt/images/web1.qcow2
        size:
          description: Bytes that the guest sees. V(null) where this cannot be told.
          type: int
          sample: 10737418240
        allocation:
          description: Bytes that are allocated on the host. V(null) where this cannot be told.
          type: int
          sample: 1503723520
        encrypted:
          description: Whether it has a libvirt encryption. A backup would hold its plain text.
          type: bool
        excluded:
          description: Why it is left out of every backup, such as V(cdrom) or V(readonly). V(null) if it is not.
          type: str
        obstacle:
          description: Why it cannot be read now. V(null) if it can.
          type: str
    obstacles:
      description: What keeps the domain from being backed up, as sentences. Empty if nothing does.
      type: list
      elements: str
    backup_possible:
      description: Whether RV(vms[].obstacles) is empty.
      type: bool
not_found:
  description: The entries of O(vm) that no domain here has as its name or UUID.
  returned: success
  type: list
  elements: str
hypervisor:
  description: What answered.
  returned: success
  type: dict
  contains:
    uri:
      description: The connection URI.
      type: str
      sample: qemu:///system
    libvirt:
      description: libvirt's version.
      type: str
      sample: 9.0.0
    qemu:
      description: QEMU's version.
      type: str
      sample: 7.2.22
    backup_supported:
      description: Whether running domains can be backed up with this libvirt.
      type: bool
"""

from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module
from ansible_collections.vmforge.backup.plugins.module_utils._vm_info import VM_INFO_ARGUMENTS, list_vms


def main() -> None:
    """Run the module."""
    run_module(VM_INFO_ARGUMENTS, list_vms)


if __name__ == "__main__":
    main()
