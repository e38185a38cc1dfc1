# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that outlives the playbook, is found again by the same call, and tells how far it is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed.ansible import ROOT, SYSTEM_PATH, found_cores
from tests.bed.guest import MIB, Disk, Guest
from tests.integration.roles.conftest import Hypervisor, Play, Storage

# How fast it is, and how long it will take, is told as soon as something was read.
LINE = re.compile(r"^(\S+)  \d+ %  [\d.]+ of [\d.]+ [KMG]iB(  [\d.]+ [KMG]?i?B/s  \d+:\d\d left)?$", re.MULTILINE)
SECRET = "s3cret-that-nobody-uses"


def begin(hypervisor: Hypervisor, place: Path, variables: dict[str, Any]) -> subprocess.Popen[str]:
    """Start a backup as somebody does whose terminal is about to break."""
    core, file = found_cores()[-1], place / "given.json"
    file.write_text(json.dumps(variables))
    return subprocess.Popen(
        hypervisor.libvirt.argv(
            [str(core.bin / "ansible-playbook"), str(ROOT / "playbooks" / "backup.yml"), "-e", f"@{file}"]
        ),
        env={
            "HOME": str(place),
            "LANG": "C.UTF-8",
            "PATH": f"{core.bin}:{SYSTEM_PATH}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            # Ansible leaves it to Python when a pipe gets what was written.
            "PYTHONUNBUFFERED": "1",
            **core.env,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def full(hypervisor: Hypervisor, storage: Storage) -> Iterator[Guest]:
    """A machine that takes a while; it is off."""
    image = storage.place / "full.raw"
    image.write_bytes(os.urandom(12 * MIB))
    guest = Guest("full", storage.place, [Disk(image, format="raw")], run=hypervisor.libvirt.run)
    guest.define()
    try:
        yield guest
    finally:
        guest.undefine()


def test_a_backup_goes_on_without_its_playbook_and_is_found_again(
    play_newest: Play, hypervisor: Hypervisor, full: Guest, storage: Storage, tmp_path: Path
) -> None:
    variables = {
        "vm": full.name,
        "vmforge_backup_rate_limit": "300K",
        "vmforge_backup_progress_interval": 1,
        "vmforge_backup_s3_secret_key": SECRET,
        "vmforge_backup_env_path": "",
    }
    with begin(hypervisor, tmp_path, {**storage.variables, **variables}) as first:
        try:
            said = "".join(until_progress(first))
            found = LINE.search(said)
            assert found, said
            assert found[1] == full.name
            # What is on the node meanwhile has no secret, neither in files nor in arguments.
            [begun] = work_going_on(hypervisor)
            assert (begun["module"], begun["vm"]) == ("vmforge.backup.vmforge_backup", [full.uuid])
            places = ["/run/vmforge-backup", str(tmp_path / ".ansible"), f"/proc/{begun['pid']}/cmdline"]
            leak = hypervisor.libvirt.argv(["grep", "-rlsa", SECRET, *places])
            assert subprocess.run(leak, capture_output=True, check=False).stdout == b""
        finally:
            os.killpg(first.pid, signal.SIGKILL)
    assert list(storage.backups.glob("*/*.partial"))

    again = play_newest("backup.yml", **variables)
    assert (again.code, again.rows) == (0, [(full.name, "localhost", "created")]), again.text
    assert f"begun at {begun['begun']} by an earlier call" in again.text.replace("\n", " ")
    assert LINE.search(again.text), again.text
    assert len(storage.manifests()) == 1
    assert work_going_on(hypervisor) == []


def until_progress(process: subprocess.Popen[str]) -> Iterator[str]:
    """Its lines up to the first that tells how far it is."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if LINE.search(line):
            return


def work_going_on(hypervisor: Hypervisor) -> list[dict[str, Any]]:
    """What is noted of work on the node; only one piece of it is ever made at a time here."""
    find = (
        "for job in /run/vmforge-backup/jobs/*/; do flock -nE 9 ${job}lock true; [ $? = 9 ] && cat ${job}job.json; done"
    )
    deadline = time.monotonic() + 180
    while True:
        text = subprocess.run(
            hypervisor.libvirt.argv(["sh", "-c", find]), capture_output=True, text=True, check=False
        ).stdout
        if text.count("{") <= 1 or time.monotonic() > deadline:
            return [json.loads(text)] if text.strip() else []


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
