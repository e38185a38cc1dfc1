# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``playbooks/site.yml``: a hypervisor made ready."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.roles.conftest import DEAD, Play, Storage, nodes

# Tests run where ``make deps`` has installed them.
INSTALLED = {"vmforge_backup_manage_packages": False}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.exhaustive
def test_directories_are_made_and_libvirt_is_asked(play_newest: Play, storage: Storage) -> None:
    below = storage.place / "new" / "deep"
    where = {"vmforge_backup_dir": str(below / "backups"), "vmforge_backup_scratch_dir": str(below / "scratch")}
    run = play_newest("site.yml", "--check", **where, **INSTALLED)
    assert run.code == 0, run.text
    assert not below.parent.exists()
    run = play_newest("site.yml", **where)
    assert run.code == 0, run.text
    assert (mode(below.parent), mode(below)) == (0o755, 0o755)
    assert (mode(below / "backups"), mode(below / "scratch")) == (0o700, 0o711)
    assert "with QEMU" in run.text
    below.chmod(0o751)
    (below / "backups").chmod(0o755)
    run = play_newest("site.yml", **where, **INSTALLED)
    assert run.code == 0, run.text
    assert "changed=1 " in run.text
    assert (mode(below), mode(below / "backups")) == (0o751, 0o700)


@pytest.mark.exhaustive
def test_a_libvirt_that_does_not_answer_or_cannot_back_up_is_a_clear_error(play_newest: Play) -> None:
    run = play_newest("site.yml", vmforge_backup_uri="test:///nowhere", **INSTALLED)
    assert run.code == 2
    assert "Cannot reach libvirt at test:///nowhere" in run.text
    run = play_newest("site.yml", vmforge_backup_uri="test:///default", **INSTALLED)
    assert run.code == 2
    assert "QEMU" in run.text
    assert "Traceback" not in run.text


@pytest.mark.exhaustive
def test_one_after_the_other_and_a_broken_one_stops_none(play_newest: Play) -> None:
    hosts = nodes(DEAD, "broken vmforge_backup_uri=test:///nowhere", "good")
    run = play_newest("rollout.yml", inventory=hosts, vmforge_backup_serial=1, **INSTALLED)
    assert run.code == 2
    assert run.text.count("PLAY [Make hypervisors ready for backups]") == 3
    assert re.search(r"ok: \[good\] => \{[^}]*answers", run.text), run.text
    assert "dead is not ready" in run.text
    assert re.search("broken is not ready.*Cannot reach libvirt", run.text)
    assert "good is not ready" not in run.text
