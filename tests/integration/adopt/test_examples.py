# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of the modules and filters that adopt run as they are; only places and passwords are put in."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bed.ansible import ROOT, found_cores
from tests.integration.adopt.conftest import Pack

DOCUMENTED = [
    "modules/vmforge_backup_adopt_info",
    "modules/vmforge_backup_adopt",
    "filter/adoption_rest",
    "filter/adoption_report",
    "modules/vmforge_backup_adopt_record",
]


def examples(name: str) -> list[dict[str, Any]]:
    for node in ast.parse((ROOT / "plugins" / f"{name}.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "EXAMPLES":
            tasks: list[dict[str, Any]] = yaml.safe_load(ast.literal_eval(node.value))
            return tasks
    raise AssertionError(f"{name} has no examples")


@pytest.mark.usefixtures("libvirt_daemon")
def test_examples_run(pack: Pack, tmp_path: Path) -> None:
    number = pack.row("2025-07-01 12:00:00", path=pack.image("web1.qcow2"))
    server = pack.database
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "/usr/bin/python3", "db_password": server.admin_password},
        "module_defaults": {
            "vmforge.backup.vmforge_backup_adopt": {"backup_dir": str(pack.backups), "node": "node1"},
            "group/vmforge.backup.all": {},
        },
        "tasks": [task for name in DOCUMENTED for task in examples(name)],
    }
    text = yaml.safe_dump([play], sort_keys=False)
    for sample, real in (
        ("db_host: db.example.com", f"db_host: 127.0.0.1\n      db_port: {server.port}"),
        ("db_user: vmforge_backup", f"db_user: {server.admin}"),
        ("- /var/lib/vmforge/backups", f"- {pack.backups}"),
        ("row: 17", f"row: {number}"),
    ):
        assert sample in text
        text = text.replace(sample, real)
    playbook = tmp_path / "examples.yml"
    playbook.write_text(text)
    done = found_cores()[-1].playbook(playbook)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped=0" in done.stdout
    # Adopted and recorded; the last example finds its row changed already.
    assert "changed=2 " in done.stdout
    assert [entry["status"] for entry in pack.listing()] == ["ready"]
    assert pack.table()[0]["path"] == pack.listing()[0]["path"]
