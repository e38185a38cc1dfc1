# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks whose work goes on by itself on the node stay what they are for a playbook."""

from __future__ import annotations

from pathlib import Path

from tests.integration.roles.conftest import Play, Storage

TASKS = """
- hosts: localhost
  gather_facts: false
  vars:
    ansible_python_interpreter: /usr/bin/python3
    ansible_become: true
    ansible_become_method: ansible.builtin.su
    # HOME is another than root's here.
    ansible_async_dir: "{{ vmforge_backup_dir }}.async"
  module_defaults:
    vmforge.backup.vmforge_backup_verify:
      backup_dir: "{{ vmforge_backup_dir }}"
      level: manifest
  tasks:
    - name: Asynchronous by itself
      vmforge.backup.vmforge_backup_verify:
      async: 60
      poll: 1
      register: apart
    - name: Elsewhere
      vmforge.backup.vmforge_backup_verify:
      delegate_to: 127.0.0.1
      connection: local
      register: elsewhere
    - name: Planned
      vmforge.backup.vmforge_backup_verify:
      check_mode: true
      diff: true
      register: planned
    - name: Hidden
      vmforge.backup.vmforge_backup_verify:
        vm: nobody
      no_log: true
      register: hidden
    - name: Wrong
      vmforge.backup.vmforge_backup_verify:
        backup_dir: /nonexistent
      ignore_errors: true
      register: wrong
    - name: What goes on
      vmforge.backup.vmforge_backup_job:
      register: going
    - name: Nothing of that name
      vmforge.backup.vmforge_backup_job:
        job: nonsense
      ignore_errors: true
      register: unknown
    - name: Tell
      ansible.builtin.set_stats:
        data:
          told: >-
            {{ [apart.backups, apart.finished | bool, elsewhere.backups, planned.diff is defined, hidden.not_found,
                wrong.code, going.jobs, unknown.code] }}
"""


def test_tasks_stay_what_they_are(play_newest: Play, storage: Storage, tmp_path: Path) -> None:
    playbook = tmp_path / "tasks.yml"
    playbook.write_text(TASKS)
    run = play_newest(playbook)
    assert run.code == 0, run.text
    assert run.stats["told"] == [[], True, [], True, ["nobody"], "backup_dir_missing", [], "not_found"]
