# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook that is forked off a process with Ansible loaded, beside one that is started."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.bed.ansible import Ansible, found_cores

PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Say what it was given
      ansible.builtin.debug:
        msg: "{{ lookup('pipe', 'pwd; echo $SAID; cat') }} {{ said }} {{ ansible_verbosity }}"
    - name: End badly
      ansible.builtin.command:
        argv: [sleep, "{{ seconds }}"]
      failed_when: true
"""


@pytest.fixture
def playbook(tmp_path: Path) -> Path:
    path = tmp_path / "play.yml"
    path.write_text(PLAYBOOK)
    return path


def test_it_says_the_same_and_ends_alike(ansible: Ansible, playbook: Path) -> None:
    def run(*, anew: bool) -> tuple[int, str, str]:
        variables = {"said": "words", "seconds": 0}
        done = ansible.playbook(playbook, "-v", "-i", "nowhere", variables=variables, env={"SAID": "x"}, anew=anew)
        assert "x words 1" in done.stdout
        return done.returncode, done.stdout.split("TASK [End badly]")[0], done.stderr.split("Task failed")[0]

    started = run(anew=True)
    assert started[0] == 2
    # The second is forked off the same process.
    assert [run(anew=False), run(anew=False)] == [started] * 2


def running(argv: list[str]) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_text().split("\0")[:-1] == argv:
                return True
    return False


def test_what_takes_too_long_is_ended_and_the_next_runs(playbook: Path) -> None:
    newest, seconds = found_cores()[-1], str(1_000_000 + os.getpid())
    with pytest.raises(subprocess.TimeoutExpired):
        newest.playbook(playbook, variables={"said": "", "seconds": seconds}, timeout=8)
    # What was killed is gone soon.
    deadline = time.monotonic() + 120
    while running(["sleep", seconds]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert newest.playbook(playbook, variables={"said": "", "seconds": 0}).returncode == 2
