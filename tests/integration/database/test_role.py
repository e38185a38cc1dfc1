# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role catalog and the modules' examples, run as people run them, against a real server."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bed import panel
from tests.bed.ansible import ROOT, Ansible, found_cores
from tests.bed.mariadb import MariaDB

USER, PASSWORD = "catalogue", "only-for-the-catalogue"
ROLE = {
    "hosts": "localhost",
    "connection": "local",
    "gather_facts": False,
    "roles": [{"role": "vmforge.backup.catalog"}],
}
Run = Callable[..., str]


@pytest.fixture
def server(server: MariaDB) -> MariaDB:
    """With a panel of the agent's age."""
    server.reset(*panel.PANEL, *panel.LEDGER, *panel.AGENT_SHAPE, *panel.AGENT_ROWS)
    return server


def play(core: Ansible, place: Path, plays: list[dict[str, Any]], *argv: str, code: int = 0, **variables: Any) -> str:
    """Run plays; what they printed. Variables come from a file, as secrets should."""
    (place / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    (place / "vars.json").write_text(json.dumps({"ansible_python_interpreter": "/usr/bin/python3", **variables}))
    done = core.playbook(place / "play.yml", "-e", f"@{place / 'vars.json'}", "-i", "localhost,", *argv)
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    return text


def variables(server: MariaDB, **more: Any) -> dict[str, Any]:
    return {
        "vmforge_backup_db_host": "127.0.0.1",
        "vmforge_backup_db_port": server.port,
        "vmforge_backup_db_user": USER,
        "vmforge_backup_db_password": PASSWORD,
        "vmforge_backup_db_admin_user": server.admin,
        "vmforge_backup_db_admin_password": server.admin_password,
        "vmforge_backup_manage_packages": False,
        **more,
    }


def changed(text: str) -> int:
    found = re.search(r"changed=(\d+)", text)
    assert found, text
    return int(found.group(1))


def test_a_database_over_tcp_and_tls(ansible: Ansible, server: MariaDB, tmp_path: Path) -> None:
    given = variables(server, vmforge_backup_db_ca=str(server.ca))
    planned = play(ansible, tmp_path, [ROLE], "--check", "--diff", "-vvv", **given)
    assert changed(planned) == 2
    assert "ALTER TABLE `backups` MODIFY COLUMN" in planned
    assert "INSERT INTO _migrations (filename) VALUES ('0024_backups_and_policies.sql');" in planned
    assert "GRANT SELECT, INSERT, UPDATE ON `vmforge`.`backups`" in planned
    assert "path" not in server.sql("SELECT * FROM backups")[0]

    first = play(ansible, tmp_path, [ROLE], "--diff", "-vvv", **given)
    assert changed(first) == 2
    again = play(ansible, tmp_path, [ROLE], "-vvv", **given)
    assert changed(again) == 0
    for text in (planned, first, again):
        assert PASSWORD not in text
        assert server.admin_password not in text
    assert {row["ssl_type"] for row in server.sql(f"SELECT ssl_type FROM mysql.user WHERE User = '{USER}'")} == {"ANY"}
    assert server.sql("SELECT path FROM backups WHERE id = 1")[0]["path"].startswith("/var/lib/vmforge/backups/")


def test_an_administrator_who_comes_over_the_socket(server: MariaDB, tmp_path: Path) -> None:
    core = found_cores()[-1]
    given = variables(server, vmforge_backup_db_admin_socket=server.socket)
    assert changed(play(core, tmp_path, [ROLE], **given)) == 2
    # All over the socket, where TLS is of no use.
    given = variables(
        server, vmforge_backup_db_host="", vmforge_backup_db_socket=server.socket, vmforge_backup_db_tls="required"
    )
    assert changed(play(core, tmp_path, [ROLE], **given)) == 0


def test_without_a_database_nothing_is_done(tmp_path: Path) -> None:
    text = play(found_cores()[-1], tmp_path, [ROLE])
    assert "backups work without a catalogue" in text
    assert changed(text) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"vmforge_backup_db_password": ""}, "Set vmforge_backup_db_password"),
        ({"vmforge_backup_db_admin_password": "wrong"}, "Check db_user, db_password"),
        ({"vmforge_backup_db_port": 1}, "Check db_host, db_port"),
        ({"vmforge_backup_db_name": "nothing"}, "Check db_name"),
        ({"vmforge_backup_db_user_hosts": ["192.0.2.1"]}, "Check db_user, db_password"),
    ],
)
def test_what_is_wrong_is_said(server: MariaDB, tmp_path: Path, more: dict[str, Any], words: str) -> None:
    text = play(found_cores()[-1], tmp_path, [ROLE], code=2, **variables(server, **more))
    assert words in " ".join(text.split())
    assert "Traceback" not in text


@pytest.mark.parametrize("name", ["vmforge_backup_schema", "vmforge_backup_db_user"])
def test_examples_run(server: MariaDB, tmp_path: Path, name: str) -> None:
    core = found_cores()[-1]
    # The examples of the second need what those of the first make.
    tasks = examples("vmforge_backup_schema") + (examples(name) if name != "vmforge_backup_schema" else [])
    names = {f"vmforge.backup.{module}" for module in ("vmforge_backup_schema", "vmforge_backup_db_user")}
    for task in tasks:
        (module,) = names & set(task)
        assert task[module]["db_host"] == "db.example.com"
        task[module].update(db_host="127.0.0.1", db_port=server.port)
    text = play(
        core,
        tmp_path,
        [{**ROLE, "roles": [], "tasks": tasks}],
        db_admin_password=server.admin_password,
        catalogue_password=PASSWORD,
    )
    assert changed(text) == (2 if name == "vmforge_backup_schema" else 5)
    assert "skipped=0" in text


def examples(name: str) -> list[dict[str, Any]]:
    for node in ast.parse((ROOT / "plugins" / "modules" / f"{name}.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "EXAMPLES":
            tasks: list[dict[str, Any]] = yaml.safe_load(ast.literal_eval(node.value))
            return tasks
    raise AssertionError(f"{name} has no examples")
