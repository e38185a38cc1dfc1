# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory from the panel's tables, in a real server, with the rights of the user for every day."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bed.ansible import ROOT, found_cores
from tests.bed.mariadb import MariaDB
from tests.bed.panel import MAIL, PANEL, WEB

PASSWORD = "the-pass-word"
STATUS = (
    "ALTER TABLE nodes ADD status VARCHAR(20) DEFAULT 'online'",
    "INSERT INTO nodes VALUES (3, 'node3', 'https://10.0.0.3:8443', 's3cret', NOW(), 'offline')",
    f"UPDATE vm_instances SET name = '{{{{ 7 * 6 }}}}' WHERE uuid = '{MAIL}'",
)


def example(number: int) -> dict[str, Any]:
    """One of those in the documentation, but for its login and its cache."""
    for node in ast.parse((ROOT / "plugins" / "inventory" / "vmforge.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "EXAMPLES":
            found = list(yaml.safe_load_all(ast.literal_eval(node.value)))[number]
            return {name: value for name, value in found.items() if not name.startswith(("db_", "cache"))}
    raise AssertionError("there are no examples")


@pytest.fixture
def panel(server: MariaDB) -> MariaDB:
    """With a user that may read no more than it must."""
    server.reset(*PANEL)
    server.sql(
        f"CREATE USER reader@'%' IDENTIFIED BY '{PASSWORD}'",
        "GRANT SELECT (id, name, mgmt_url) ON vmforge.nodes TO reader@'%'",
        "GRANT SELECT (id, uuid, name, node_id, type) ON vmforge.vm_instances TO reader@'%'",
    )
    return server


def inventory(panel: MariaDB, place: Path, *argv: str, code: int = 0, password: str = PASSWORD, **more: Any) -> Any:
    """What ``ansible-inventory`` makes of it, or what it says if it fails."""
    source = place / "x.vmforge.yml"
    source.write_text(
        json.dumps({"plugin": "vmforge.backup.vmforge", "db_user": "reader", "db_port": panel.port, **more})
    )
    done = found_cores()[-1].run(
        "ansible-inventory",
        "-i",
        str(source),
        "--list",
        *argv,
        env={
            "VMFORGE_BACKUP_DB_HOST": "127.0.0.1",
            "VMFORGE_BACKUP_DB_PASSWORD": password,
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
        },
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == (code == 0), text
    assert PASSWORD not in text
    assert "s3cret" not in text
    return json.loads(done.stdout, object_hook=plain) if code == 0 else text


def plain(value: dict[str, Any]) -> Any:
    """Texts that are no templates, which Ansible marks in what it prints."""
    return value.get("__ansible_unsafe", value)


def test_an_older_panel_without_states(panel: MariaDB, tmp_path: Path) -> None:
    found = inventory(panel, tmp_path, **example(0))
    assert found["vmforge_nodes"]["hosts"] == ["node1", "node2"]
    assert found["vmforge_master"]["hosts"] == ["localhost"]
    hosts = found["_meta"]["hostvars"]
    assert hosts["node1"] == {
        "ansible_host": "node1",
        "vmforge_node_id": 1,
        "vmforge_vms": [{"name": "web1", "uuid": WEB, "type": "kvm"}],
    }
    assert hosts["localhost"]["ansible_connection"] == "local"


def test_groups_variables_and_states(panel: MariaDB, tmp_path: Path) -> None:
    panel.sql(*STATUS)
    panel.sql("GRANT SELECT (status) ON vmforge.nodes TO reader@'%'")
    options = example(1)
    options["compose"]["first"] = "vmforge_vms[0].name | default('none')"
    found = inventory(panel, tmp_path, master="node2", **options)
    assert found["status_offline"]["hosts"] == found["empty"]["hosts"] == ["node3"]
    assert found["status_online"]["hosts"] == ["node1", "node2"]
    assert found["vmforge_master"]["hosts"] == ["node2"]
    hosts = found["_meta"]["hostvars"]
    assert (hosts["node3"]["ansible_host"], hosts["node3"]["ansible_user"]) == ("10.0.0.3", "root")
    assert hosts["node2"]["first"] == "{{ 7 * 6 }}"
    found = inventory(panel, tmp_path, without_status=["offline", "maintenance"])
    assert found["vmforge_nodes"]["hosts"] == ["node1", "node2"]


def test_the_cache_has_no_password_and_is_used(panel: MariaDB, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(cache)}
    assert "node2" in inventory(panel, tmp_path, **options)["vmforge_nodes"]["hosts"]
    assert PASSWORD not in "".join(path.read_text() for path in cache.iterdir())
    assert "node2" in inventory(panel, tmp_path, password="wrong", **options)["vmforge_nodes"]["hosts"]
    inventory(panel, tmp_path, "--flush-cache", code=1, password="wrong", **options)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"db_name": "nothing"}, "The panel's nodes could not be read"),
        ({"db_socket": "/nonexistent"}, "Set either db_host or db_socket"),
        ({"db_password": "{{ 'wr' ~ 'ong' }}"}, "Access denied"),
    ],
)
def test_what_is_wrong_is_told(panel: MariaDB, tmp_path: Path, more: dict[str, Any], said: str) -> None:
    assert said in inventory(panel, tmp_path, code=1, **more)
