# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of what needs a database run as they are; only names and places are put in."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from tests.bed.ansible import ROOT, found_cores
from tests.bed.catalog import prepare
from tests.bed.mariadb import MariaDB

DOCUMENTED = [
    "modules/vmforge_backup_catalog",
    "modules/vmforge_backup_policy_info",
    "modules/vmforge_backup_policy",
    "filter/backup_ways",
    "filter/catalog_unrecorded",
    "filter/catalog_entries",
]
UUID = "7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed"
PASSWORD = "a-p4ssword-of-examples"


def examples(name: str) -> list[dict[str, Any]]:
    for node in ast.parse((ROOT / "plugins" / f"{name}.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "EXAMPLES":
            tasks: list[dict[str, Any]] = yaml.safe_load(ast.literal_eval(node.value))
            return tasks
    raise AssertionError(f"{name} has no examples")


def test_examples_run(server: MariaDB, tmp_path: Path) -> None:
    prepare(server, {UUID: "web1"})
    server.sql(
        f"CREATE USER vmforge_backup@'%' IDENTIFIED BY '{PASSWORD}'",
        "GRANT SELECT ON vmforge.vm_instances TO vmforge_backup@'%'",
        "GRANT SELECT, INSERT, UPDATE ON vmforge.backups TO vmforge_backup@'%'",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON vmforge.backup_policies TO vmforge_backup@'%'",
    )
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "/usr/bin/python3", "db_password": PASSWORD},
        "module_defaults": {
            "vmforge.backup.vmforge_backup_info": {"backup_dir": str(tmp_path)},
            **{
                f"vmforge.backup.{name.split('/')[1]}": {"db_port": server.port}
                for name in DOCUMENTED
                if name.startswith("modules/")
            },
        },
        "tasks": [task for name in DOCUMENTED for task in examples(name)],
    }
    text = yaml.safe_dump([play], sort_keys=False)
    assert "db.example.com" in text
    playbook = tmp_path / "examples.yml"
    playbook.write_text(text.replace("db.example.com", "127.0.0.1"))
    run = found_cores()[-1].playbook(playbook, "-vvv")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped=0 " in run.stdout
    assert PASSWORD not in run.stdout + run.stderr
