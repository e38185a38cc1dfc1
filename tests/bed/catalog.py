# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's tables in a private database, and listings to compare them with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._entry import unfinished_entry
from ansible_collections.vmforge.backup.plugins.module_utils._migrate import SCHEMA_ARGUMENTS, migrate
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id, format_time
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from tests.bed.mariadb import MariaDB

DIRECTORY = "/var/lib/vmforge/backups"
VM_INSTANCES = (
    "CREATE TABLE vm_instances (id INT AUTO_INCREMENT PRIMARY KEY, uuid VARCHAR(64) NOT NULL UNIQUE, "
    "name VARCHAR(190) NOT NULL, node_id INT NOT NULL DEFAULT 1, type ENUM('kvm','lxc') NOT NULL DEFAULT 'kvm') "
    "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
)


def prepare(server: MariaDB, vms: Mapping[str, str] | None = None) -> None:
    """Make the tables anew, as the migration makes them.

    Args:
        vms: UUID -> name of what the panel has.
    """
    server.reset(VM_INSTANCES)
    for uuid, name in (vms or {}).items():
        server.sql(f"INSERT INTO vm_instances (uuid, name) VALUES ('{uuid}', '{name}')")
    defaults = {name: argument.get("default") for name, argument in SCHEMA_ARGUMENTS.items()}
    migrate(Request({**defaults, **server.params()}))


def listed(uuid: str, second: int, *, node: str = "n1", **more: Any) -> dict[str, Any]:
    """A ready backup of that second of 2026, as ``vmforge_backup_info`` lists it."""
    at = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=second)
    backup_id = format_id(at)
    entry = unfinished_entry(uuid, backup_id, "ready", {}, path=f"{DIRECTORY}/{uuid}/{backup_id}")
    entry["vm"].update(name="web", node=node)
    entry.update(
        type="full",
        instant=format_time(at + timedelta(microseconds=250_000)),
        finished_at=format_time(at + timedelta(seconds=40)),
        consistency="quiesced",
        size_bytes=12_345_678,
        data_bytes=123_456_789,
        checksum_sha256=f"{second:064x}",
        copies=["local"],
        chain_local=True,
        disks=[
            {"target": "vda", "type": "full", "file": "vda.qcow2", "virtual_size": 10 << 30, "data_bytes": 123_456_789}
        ],
    )
    return {**entry, **more}
