#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_prune
short_description: Delete the backups that no policy keeps
version_added: 1.0.0
description:
  - Decides for each virtual machine which of its backups to keep, from what B(all) nodes and the bucket have of it, and
    deletes those of the others that this node made. The role P(vmforge.backup.prune#role) runs it on many nodes.
  - Rules keep the newest backup of each of the last so many days, weeks, months and years that have one,
    and the last so many. They add up. Then the age cap and the size cap apply.
  - Never deleted are the newest good backup, held ones, what a kept one builds on, stamps of the future,
    and all of a virtual machine that neither libvirt nor the panel knows any more.
  - It also clears what earlier runs left, which are deletions not finished, backups that were begun by a process
    that is dead, records of failures older than 30 days, and uploads that nobody will finish.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.hypervisor
  - vmforge.backup.hypervisor.storage
  - vmforge.backup.s3
options:
  vm:
    description:
      - Only these virtual machines, by UUID or by a name that a backup of theirs records. All, unless set.
    type: list
    elements: str
  id:
    description:
      - Delete just these backups of the one virtual machine in O(vm), whatever a policy says.
        Not while a backup that stays builds on one of them, or it is held.
    type: list
    elements: str
    default: []
  listings:
    description:
      - What M(vmforge.backup.vmforge_backup_info) returned on each node. That of this node must be among them.
    type: list
    elements: dict
    required: true
    suboptions:
      node:
        description: The name of the node, as its backups record it. This node, unless set.
        type: str
      backups:
        description: Its RV(vmforge.backup.vmforge_backup_info#module:backups).
        type: list
        elements: dict
        required: true
  bucket:
    description:
      - What M(vmforge.backup.vmforge_backup_info) returned for the bucket. If it is set, only what is in it
        counts as stored in S3. Without it, what nodes remember of their uploads does.
    type: list
    elements: dict
  missing_nodes:
    description:
      - Nodes that could not be listed. As long as there is one, nothing is pruned.
    type: list
    elements: str
    default: []
  ignore_nodes:
    description:
      - Nodes that are gone for good. What backups of theirs are still in S3 alone is pruned like all others, by the one
        node whose O(reap) is V(true), or with O(scope=s3).
    type: list
    elements: str
    default: []
  policies:
    description:
      - The policy of each virtual machine by UUID, as M(vmforge.backup.vmforge_backup_policy_info) returns them.
        One that has none is an error.
    type: dict
    default: {}
  policy_problems:
    description:
      - For each UUID that has no usable policy, why. Also of M(vmforge.backup.vmforge_backup_policy_info).
    type: dict
    default: {}
  known_vms:
    description:
      - UUIDs of virtual machines that other nodes or the panel have. libvirt on this node is asked for any other.
    type: list
    elements: str
    default: []
  scope:
    description:
      - V(all) deletes here and in S3. V(s3) deletes in the bucket alone, of all nodes, and V(local) here alone.
      - With keys that only the master has, it runs there with V(s3), and then nodes run with V(local) and O(gone).
    type: str
    choices: [all, local, s3]
    default: all
  gone:
    description:
      - The copies in S3 that O(scope=s3) has deleted, which is its RV(gone). For O(scope=local), which deletes
        no backup that has another copy in S3.
    type: list
    elements: dict
    default: []
    suboptions:
      uuid:
        description: Of the virtual machine.
        type: str
        required: true
      id:
        description: The backup.
        type: str
        required: true
      endpoint:
        description: The server that had its copy, as O(s3_endpoint) was there. Empty for AWS.
        type: str
      bucket:
        description: Where its copy was.
        type: str
        required: true
      prefix:
        description: What its keys began with.
        type: str
        required: true
  at:
    description:
      - The moment for which is decided, an RFC 3339 time. Give all nodes the same one, because nodes whose clocks are
        apart would decide differently.
      - One that is more than five minutes ahead of the host's own clock is refused.
      - The host's own time, unless set.
    type: str
  confirm:
    description:
      - Also delete where the policy has changed since the last run, or there was none, and more backups would be
        deleted than kept. Otherwise such a virtual machine is left alone, and the module fails.
    type: bool
    default: false
  reap:
    description:
      - Also remove uploads from the bucket that are older than a day and that no node knows of. Needs O(bucket).
      - Where no node in O(listings) has anything of the virtual machine, they must be older than 7 days. Nothing is
        removed while a node is missing, or while there are backups of one that is neither in O(listings) nor in
        O(ignore_nodes), because it may be uploading.
    type: bool
    default: true
  node:
    description:
      - The name of the node, as its backups record it. The host name, unless set.
    type: str
  state_dir:
    description:
      - Where O(scope=s3) remembers the policies of its last run. Otherwise they are in the directories of the backups.
    type: path
    default: /var/lib/vmforge/prune
  offsite:
    description:
      - V(s3) also deletes in the bucket O(s3_bucket). Without it no backup is deleted that has a copy in S3.
    type: str
    choices: [none, s3]
    default: none
  lock_timeout:
    description:
      - Seconds to wait for another process that works on the backups of the same virtual machine.
    type: int
    default: 0
notes:
  - Run it as root on the node itself.
  - The C(diff) is a table with all backups of each virtual machine, and why each is kept or deleted.
seealso:
  - module: vmforge.backup.vmforge_backup_info
  - module: vmforge.backup.vmforge_backup_policy_info
  - module: vmforge.backup.vmforge_backup_hold
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: List all backups of this node, which is the only one
  vmforge.backup.vmforge_backup_info:
  register: listing

- name: Resolve the policies of their virtual machines
  vmforge.backup.vmforge_backup_policy_info:
    vms: "{{ dict(listing.backups | map(attribute='vm.uuid') | zip(listing.backups | map(attribute='vm.name')))
      | dict2items(key_name='uuid', value_name='name') }}"
    defaults:
      keep_daily: 7
      keep_weekly: 4
      keep_monthly: 12
  register: found

- name: Delete what they do not keep
  vmforge.backup.vmforge_backup_prune:
    listings:
      - backups: "{{ listing.backups }}"
    policies: "{{ found.policies }}"
    policy_problems: "{{ found.problems }}"

- name: Delete one backup, whatever its policy says
  vmforge.backup.vmforge_backup_prune:
    vm: web1
    id: 20261122T151200Z
    listings:
      - backups: "{{ listing.backups }}"
"""

RETURN = r"""
vms:
  description: What became of each virtual machine that this node has backups of.
  returned: always
  type: list
  elements: dict
  contains:
    vm:
      description: C(uuid), and C(name) as its newest backup records it.
      type: dict
    node:
      description: This node.
      type: str
    result:
      description:
        - V(pruned), V(planned) in check mode, or V(unchanged). V(unknown), and all kept, if neither libvirt nor
          the panel has the virtual machine.
        - V(skipped) if a listing is missing, V(confirm) if a person has to, and V(failed). In check mode V(confirm) is
          no failure.
      type: str
      sample: pruned
    code:
      description: A word for why it was not pruned.
      type: str
      sample: missing_node
    message:
      description: Why it was not pruned.
      type: str
    kept:
      description:
        - Backups that are still there, on all nodes, those among them that could not be deleted. In check mode, those
          that would be.
      type: int
      sample: 22
    kept_bytes:
      description: Bytes of them.
      type: int
    deleted:
      description: Backups that are deleted, and that this has been confirmed of. In check mode, those that would be.
      type: int
      sample: 1
    deleted_bytes:
      description: Bytes of them.
      type: int
    rules:
      description: For each rule how many backups (C(count)) and C(bytes) it keeps.
      type: dict
    policy:
      description: The policy.
      type: dict
    cleared:
      description: What was, or in check mode would be, cleared that earlier runs had left.
      type: list
      elements: str
    warnings:
      description: Sentences for the operator.
      type: list
      elements: str
    backups:
      description: All its complete backups, newest first.
      type: list
      elements: dict
      contains:
        id:
          description: The backup.
          type: str
          sample: 20261122T151200Z
        node:
          description: The node that made it, which alone deletes it.
          type: str
        action:
          description: V(keep) or V(delete), as planned.
          type: str
          sample: keep
        result:
          description:
            - V(kept), V(deleted), V(planned), or V(elsewhere) if it is another node's to delete.
            - V(locked) by the bucket, V(held) meanwhile, and V(waiting) for its child, its copy in S3, or a backup that
              is perhaps built on it just now, are tried again by the next run. So is V(refused), if the virtual machine
              failed as a whole, and V(failed).
          type: str
          sample: kept
        reasons:
          description: Every rule that keeps it, or why it goes.
          type: list
          elements: str
          sample: [daily 2026-11-22, monthly 2026-11]
        message:
          description: Why it was not deleted. It tells the date of a lock.
          type: str
        size_bytes:
          description: Bytes of all its files.
          type: int
        copies:
          description: Where its disks lay, V(local) and V(s3).
          type: list
          elements: str
gone:
  description: With O(scope=s3), the copies that certainly are not in S3 any more. For O(gone) on the nodes.
  returned: always
  type: list
  elements: dict
reaped:
  description: What was, or in check mode would be, removed from S3 because nobody owns it.
  returned: always
  type: list
  elements: str
not_found:
  description: Those of O(vm) of which no node has anything.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module
from ansible_collections.vmforge.backup.plugins.module_utils._prune import prune_backups
from ansible_collections.vmforge.backup.plugins.module_utils._prune_options import PRUNE_ARGUMENTS


def main() -> None:
    """Run the module."""
    run_module(PRUNE_ARGUMENTS, prune_backups)


if __name__ == "__main__":
    main()
