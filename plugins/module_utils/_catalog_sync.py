# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_catalog``: make a node's rows match what it has, all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._catalog import (
    COLUMNS,
    DELETE,
    DELETED_AT,
    INSERT,
    UPDATE,
    CatalogPlan,
    Change,
    Row,
    plan_sync,
    row_of,
)
from ansible_collections.vmforge.backup.plugins.module_utils._catalog_listing import Listing
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import DATABASE_ARGUMENTS, Database, DatabaseConfig
from ansible_collections.vmforge.backup.plugins.module_utils._options import DEFAULT_BACKUP_DIR

CATALOG_ARGUMENTS: dict[str, dict[str, Any]] = {
    "node": {"type": "str", "required": True},
    "backups": {"type": "list", "elements": "dict", "required": True},
    "bucket_backups": {"type": "list", "elements": "dict"},
    "vms": {"type": "list", "elements": "str"},
    "backup_dir": {"type": "path", "default": DEFAULT_BACKUP_DIR},
    **DATABASE_ARGUMENTS,
}

LOCK = "catalog"
_LOCK_SECONDS = 60
_AT_ONCE = 1000
_NAMES = ", ".join(COLUMNS)
_SELECT = f"SELECT id, {_NAMES} FROM backups WHERE JSON_UNQUOTE(JSON_EXTRACT(meta, '$.node')) = %s"
_INSERT = f"INSERT INTO backups ({_NAMES}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
# One statement for many rows: an UPDATE for each would take minutes over a slow line.
_UPDATE = (
    f"INSERT INTO backups (id, {_NAMES}) VALUES (%s, {', '.join(['%s'] * len(COLUMNS))}) "
    f"ON DUPLICATE KEY UPDATE {', '.join(f'{name} = VALUES({name})' for name in COLUMNS)}"
)
# Some servers would set a TIMESTAMP to now.
_DELETE = (
    "UPDATE backups SET status = 'deleted', created_at = created_at, "
    f"meta = JSON_SET(meta, '$.{DELETED_AT}', %s) WHERE id IN"
)


def sync_catalog(request: Request) -> Outcome:
    """Compare, and change in one transaction what differs.

    Raises:
        InputError: The listing is not sound; nothing was changed.
        DatabaseError: The database is away or refuses; nothing was changed.
    """
    listing = _listing(request.params)
    config = DatabaseConfig.from_params(request.params)
    with Database(config) as database, database.lock(LOCK, _LOCK_SECONDS), database.transaction():
        plan = plan_sync(read_rows(database, listing.node), listing)
        if not request.check_mode:
            write_changes(database, plan)
    return Outcome(
        changed=bool(plan.changes),
        values={
            "node": listing.node,
            "inserted": len(plan.rows(INSERT)),
            "updated": len(plan.rows(UPDATE)),
            "deleted": len(plan.rows(DELETE)),
            "unchanged": plan.unchanged,
            "uncertain": list(plan.uncertain),
            "changes": [_told(change) for change in plan.changes],
        },
        diff=_diff(plan, listing.node) if request.diff_mode else None,
        unechoed=("backups", "bucket_backups"),
    )


def read_rows(database: Database, node: str) -> list[Row]:
    """The rows of a node that this collection wrote."""
    # The database may compare names more loosely than nodes are told apart.
    rows = (row_of(record, node) for record in database.query(_SELECT, (node,)))
    return [row for row in rows if row is not None]


def write_changes(database: Database, plan: CatalogPlan) -> None:
    """Execute a plan; the caller holds the lock and the transaction."""
    database.executemany(_INSERT, [_values(row) for row in plan.rows(INSERT)])
    database.executemany(_UPDATE, [[row.key, *_values(row)] for row in plan.rows(UPDATE)])
    keys, now = [row.key for row in plan.rows(DELETE)], format_time(utc_now().replace(microsecond=0))
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        database.execute(f"{_DELETE} ({', '.join(['%s'] * len(some))})", [now, *some])


def _listing(params: Mapping[str, Any]) -> Listing:
    if not params["node"].strip():
        raise InputError("node is empty: the name under which the node makes its backups.")
    return Listing(
        node=params["node"],
        backups=tuple(params["backups"]),
        vms=_uuids(params["vms"]) if params["vms"] is not None else None,
        bucket=tuple(params["bucket_backups"]) if params["bucket_backups"] is not None else None,
        backup_dir=params["backup_dir"].rstrip("/"),
    )


def _uuids(names: Iterable[str]) -> frozenset[str]:
    uuids = {name: canonical_uuid(name) for name in names}
    wrong = [name for name, uuid in uuids.items() if uuid is None]
    if wrong:
        raise InputError(f"vms takes UUIDs, and these are none: {', '.join(wrong)}.")
    return frozenset(uuid for uuid in uuids.values() if uuid)


def _values(row: Row) -> Sequence[Any]:
    values = row.values()
    return [values[name] for name in COLUMNS]


def _told(change: Change) -> dict[str, Any]:
    after = change.after
    return {
        "action": change.action,
        "vm_uuid": after.vm_uuid,
        "id": after.meta.get("id"),
        "path": after.path,
        "status": after.status,
        "before": change.before.status if change.before else None,
    }


def _diff(plan: CatalogPlan, node: str) -> dict[str, str]:
    changes = sorted(plan.changes, key=lambda change: (change.after.path, change.after.key or 0))
    return {
        "before_header": f"backups of {node}",
        "after_header": f"backups of {node}",
        "before": "".join(_line(change.before) for change in changes if change.before),
        "after": "".join(_line(change.after) for change in changes),
    }


def _line(row: Row) -> str:
    parts = [row.status, row.type, row.storage, f"{row.size_bytes} bytes", f"sha256 {row.checksum_sha256}"]
    meta = [f"{name} {row.meta[name]}" for name in ("hold", "verified", "error") if row.meta.get(name)]
    return f"{row.path}: {', '.join(parts + meta)}\n"
