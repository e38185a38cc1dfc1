# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook that is forked off a process with Ansible loaded, beside one that is started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.bed.ansible import Ansible

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
    def run(said: str, *, anew: bool) -> tuple[int, str, str]:
        variables = {"said": said, "seconds": 0}
        done = ansible.playbook(playbook, "-v", "-i", "nowhere", variables=variables, env={"SAID": "x"}, anew=anew)
        assert f"x {said} 1" in done.stdout
        return done.returncode, done.stdout.split("TASK [End badly]")[0], done.stderr.split("Task failed")[0]

    # The second is forked off the same process.
    assert [run(said, anew=False) for said in "ab"] == [run(said, anew=True) for said in "ab"]
    assert run("a", anew=False)[0] == 2


def test_what_takes_too_long_is_ended_and_the_next_runs(ansible: Ansible, playbook: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        ansible.playbook(playbook, variables={"said": "", "seconds": 3600}, timeout=10)
    assert ansible.playbook(playbook, variables={"said": "", "seconds": 0}).returncode == 2
