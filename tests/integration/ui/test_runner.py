# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner without a panel keeps the list that the pages read, tells why a playbook failed, and believes nobody."""

from __future__ import annotations

import json
import socket
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bed.backups import NODE, UUID, make_backup
from tests.integration.ui.conftest import Bed
from vmforge_backup_ui.config import RunnerConfig
from vmforge_backup_ui.listing import open_list
from vmforge_backup_ui.runner import Service
from vmforge_backup_ui.wire import receive, send

ID = "20261122T151200Z"


@pytest.fixture
def config(bed: Bed, tmp_path: Path) -> RunnerConfig:
    """Of a runner on a host with another directory of backups, and no database."""
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "vmforge_backup_dir": str(tmp_path / "backups"),
        "vmforge_backup_env_path": "",
    }
    (tmp_path / "hosts.yml").write_text(json.dumps({"vmforge_nodes": {"hosts": {NODE: host}}}))
    known = (bed.place / "ansible.cfg").read_text().replace(str(bed.place), str(tmp_path))
    (tmp_path / "ansible.cfg").write_text(known)
    found = RunnerConfig.read(bed.place / "runner.json")
    return replace(
        found,
        state=str(tmp_path),
        ansible_config=str(tmp_path / "ansible.cfg"),
        list=str(tmp_path / "list.json"),
    )


def finished(service: Service, asked: dict[str, Any]) -> dict[str, Any]:
    """Start it, and wait for its end."""
    answer = service.answer({"do": "start", "by": "me", **asked})
    assert "job" in answer, answer
    deadline = time.monotonic() + 900
    while (job := service.answer({"do": "job", "job": answer["job"]})["job"])["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return dict(job)


def test_the_list_is_kept_and_failures_are_told(config: RunnerConfig, tmp_path: Path) -> None:
    service = Service(config)
    place = tmp_path / "backups" / UUID / ID
    make_backup(place, {"vda.qcow2": b"x" * 70_000})
    job = finished(service, {"action": "list", "vm": "", "values": {}})
    assert job["state"] == "done", job["log"]
    assert stat.S_IMODE((tmp_path / "list.json").stat().st_mode) == 0o640
    [backup] = open_list(tmp_path / "list.json").history(UUID).backups
    assert backup.id == ID
    # No variable of a job is left behind.
    assert not list((tmp_path / "jobs").glob("*/env"))
    asked = {"action": "delete", "vm": UUID, "values": {"ids": ["20200101T000000Z"]}}
    job = finished(service, asked)
    assert (job["state"], "20200101T000000Z" in job["message"] + job["log"]) == ("failed", True)
    assert place.is_dir()


def test_it_takes_nothing_else(config: RunnerConfig) -> None:
    service = Service(config)
    for asked in (
        {},
        {"do": "run", "playbook": "x"},
        {"do": "start", "action": "site", "vm": UUID, "by": "me", "values": {}},
        {"do": "start", "action": "backup", "vm": "-e@/etc/passwd", "by": "me", "values": {}},
        {"do": "start", "action": "backup", "vm": UUID, "by": "", "values": {}},
        {"do": "start", "action": "hold", "vm": UUID, "by": "me", "values": {"id": "x", "reason": "x"}},
        {"do": "start", "action": "backup", "vm": UUID, "by": "me", "values": {"vmforge_backup_dir": "/"}},
        {"do": "job", "job": "../../etc"},
    ):
        assert set(service.answer(asked)) == {"error", "message"}, asked
    assert service.answer({"do": "jobs"}) == {"jobs": []}


def test_its_socket_is_for_one_group_and_survives_noise(bed: Bed) -> None:
    path = bed.place / "runner.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    for noise in (b"", b"x\n", b"[]\n", b'{"do": "start"}'):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(path))
            line.sendall(noise)
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        send(line, {"do": "jobs"})
        assert "jobs" in receive(line)
