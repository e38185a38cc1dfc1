# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks leave for node_exporter, and that they do not fail for want of a place to put it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.roles.conftest import Hypervisor, Play, Storage, nodes


def metrics(path: Path, vm: str) -> dict[str, float]:
    """Of one machine, or of the node, by name."""
    label = f'name="{vm}"' if vm else ""
    found = re.findall(r"^vmforge_backup_(\w+)(\{.*\})? (\S+)$", path.read_text(), re.MULTILINE)
    return {name: float(value) for name, labels, value in found if (label in labels if vm else not labels)}


def test_backups_and_prunes_are_told_of(play_newest: Play, hypervisor: Hypervisor, storage: Storage) -> None:
    place = storage.place / "textfile"
    place.mkdir()
    told = {"vmforge_backup_metrics_dir": str(place)}
    web, db, file = hypervisor.web.name, hypervisor.db.name, place / "vmforge_backup.prom"
    run = play_newest("backup.yml", vm=db, inventory=nodes("good"), **told)
    assert run.code == 0, run.text
    [manifest] = storage.manifests()
    first = metrics(file, db)
    assert (first["missing"], first["good"], first["last_attempt_success"]) == (0, 1, 1)
    assert first["stored_bytes"] == sum(item["size"] for item in manifest["files"])
    assert first["last_attempt_duration_seconds"] > 0
    assert metrics(file, web)["missing"] == 1
    assert "last_attempt_success" not in metrics(file, web)
    run = play_newest(
        "backup.yml", vm=[db, web], inventory=nodes("good"), vmforge_backup_scratch_dir="/nonexistent", **told
    )
    assert run.code == 2
    assert metrics(file, web)["last_attempt_success"] == 0
    assert metrics(file, db)["last_success_timestamp_seconds"] >= first["last_success_timestamp_seconds"]
    run = play_newest("prune.yml", inventory=nodes("good"), **told)
    assert run.code == 0, run.text
    node = metrics(file, "")
    # Of two backups of one day the older one.
    assert (node["last_prune_success"], node["last_prune_deleted"], metrics(file, db)["good"]) == (1, 1, 1)
    assert metrics(file, web)["last_attempt_success"] == 0
    with file.open() as stream:
        subprocess.run(["promtool", "check", "metrics"], stdin=stream, check=True)


@pytest.mark.exhaustive
def test_a_check_tells_nothing(play_newest: Play, hypervisor: Hypervisor, storage: Storage) -> None:
    run = play_newest(
        "backup.yml",
        "--check",
        vm=hypervisor.db.name,
        inventory=nodes("good"),
        vmforge_backup_metrics_dir=str(storage.place),
    )
    assert (run.code, list(storage.place.glob("*.prom"))) == (0, [])


@pytest.mark.exhaustive
def test_a_place_that_is_not_there_fails_no_backup(play_newest: Play, hypervisor: Hypervisor) -> None:
    db = hypervisor.db.name
    run = play_newest("backup.yml", vm=db, inventory=nodes("good"), vmforge_backup_metrics_dir="/nonexistent/dir")
    assert (run.code, run.rows) == (0, [(db, "good", "created")])
    assert "/nonexistent/dir" in run.text
