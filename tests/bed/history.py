# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue of a panel that has run for long: many machines, many backups, and rows of more that are gone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from tests.bed.mariadb import MariaDB

# Nothing but places, or each row would be a statement of its own.
_INSERT = (
    "INSERT INTO backups (vm_uuid, created_at, size_bytes, checksum_sha256, path, meta, status) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


def uuid_of(number: int) -> str:
    """The UUID of a machine."""
    return str(UUID(int=(1 << 65) + number))


def fill(server: MariaDB, backups: list[int], *, gone: int = 0) -> None:
    """Add machines, each with so many backups; and as many rows of deleted ones, for each machine."""
    now = datetime.now(timezone.utc)
    rows = [row for number, count in enumerate(backups) for row in _rows(number, count, gone, now)]
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.executemany(
            "INSERT INTO vm_instances (uuid, node_id, name, type) VALUES (%s, %s, %s, %s)",
            [(uuid_of(number), 1, f"vm{number}", "kvm") for number in range(len(backups))],
        )
        done = cursor.executemany(_INSERT, rows)
    if done != len(rows):
        raise RuntimeError(f"{done} of {len(rows)} rows were inserted")


def _rows(number: int, count: int, gone: int, now: datetime) -> Iterator[tuple[Any, ...]]:
    uuid = uuid_of(number)
    for step in range(count + gone):
        at = now - timedelta(hours=7 * step, seconds=number)
        backup_id = at.strftime("%Y%m%dT%H%M%SZ")
        meta: dict[str, Any] = {"node": "node1", "id": backup_id, "vm_name": f"vm{number}", "state": "ready"}
        meta |= {"instant": at.isoformat(), "consistency": "quiesced", "hold": None, "verified": None, "parent": None}
        meta |= {"copies": ["local"], "finished_at": at.isoformat(), "error": None}
        if step >= count:
            meta["deleted_at"] = (at + timedelta(hours=7 * count)).isoformat()
        status = "ready" if step < count else "deleted"
        made = at.strftime("%Y-%m-%d %H:%M:%S")
        yield uuid, made, 1 << 30, "a" * 64, f"/srv/{uuid}/{backup_id}", json.dumps(meta), status
