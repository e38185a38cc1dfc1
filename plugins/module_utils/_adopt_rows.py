# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pack's rows in the panel's table: read as they are meant, and turned into the rows of the adopted backups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo

from ansible_collections.vmforge.backup.plugins.module_utils._adopt import is_of_pack, utc_instants
from ansible_collections.vmforge.backup.plugins.module_utils._catalog_sync import LOCK
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, format_time, parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import DATABASE_ARGUMENTS, Database, DatabaseConfig
from ansible_collections.vmforge.backup.plugins.module_utils._options import checked_names

ADOPT_INFO_ARGUMENTS: dict[str, dict[str, Any]] = {
    "panel_timezone": {"type": "str", "required": True},
    "vm": {"type": "list", "elements": "str"},
    **DATABASE_ARGUMENTS,
}
_ADOPTED_OPTIONS: dict[str, dict[str, Any]] = {
    "row": {"type": "int", "required": True},
    "node": {"type": "str", "required": True},
    "id": {"type": "str", "required": True},
    "instant": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    # An object's name, nothing secret.
    "s3_key": {"type": "str", "no_log": False},
    "copies": {"type": "list", "elements": "str", "choices": ["local", "s3"], "required": True},
    "checksum_sha256": {"type": "str", "required": True},
    "size_bytes": {"type": "int", "required": True},
    "vm": {"type": "dict"},
    "result": {"type": "str"},
    "changed": {"type": "bool"},
    "notes": {"type": "list", "elements": "str"},
}
ADOPT_RECORD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "adopted": {"type": "list", "elements": "dict", "required": True, "options": _ADOPTED_OPTIONS},
    **DATABASE_ARGUMENTS,
}

_LOCK_SECONDS = 60
_SELECT = (
    "SELECT id, vm_uuid, created_at, size_bytes, checksum_sha256, storage, path, s3_key, meta, status FROM backups "
    "WHERE status = 'ready' ORDER BY id"
)
_UPDATE = (
    "UPDATE backups SET created_at = %s, type = 'full', size_bytes = %s, checksum_sha256 = %s, storage = %s, "
    "path = %s, s3_key = %s, meta = %s WHERE id = %s"
)
_RETIRE = "UPDATE backups SET status = 'deleted', meta = %s WHERE id = %s"
_KEPT = ("path", "s3_key", "checksum_sha256")

Record = Mapping[str, Any]


def list_pack_rows(request: Request) -> Outcome:
    """The rows that can be adopted, oldest first, with their times in UTC.

    Raises:
        InputError: The time zone is not known.
        DatabaseError: The database is away, or has another form.
    """
    params = request.params
    zone = _zone(params["panel_timezone"])
    wanted = set(checked_names(params["vm"]))
    with Database(DatabaseConfig.from_params(params)) as database:
        names = _names(database)
        # What the panel sees is what it wrote: a column of the type TIMESTAMP is shown in the zone of the session.
        database.execute("SET SESSION time_zone = @@GLOBAL.time_zone")
        records = [record for record in database.query(_SELECT) if is_of_pack(record, _meta(record))]
    rows = sorted(_described(records, names, zone), key=lambda row: (row["instant"], row["row"]))
    uuids = {canonical_uuid(name) for name in wanted} - {None}
    chosen = [row for row in rows if not wanted or row["vm_name"] in wanted or canonical_uuid(row["vm_uuid"]) in uuids]
    return Outcome(changed=False, values={"rows": chosen})


def record_adopted(request: Request) -> Outcome:
    """Make each row of the pack that of the backup that it became, in one transaction.

    A backup has one row. If another one is there already, made while nobody knew where it came from, the pack's row is
    marked deleted and names it.

    Raises:
        InputError: An adopted backup is malformed; nothing was changed.
        DatabaseError: The database is away or refuses; nothing was changed.
    """
    adopted = [_checked(value) for value in request.params["adopted"]]
    changes: list[dict[str, Any]] = []
    if adopted:
        config = DatabaseConfig.from_params(request.params)
        with Database(config) as database, database.lock(LOCK, _LOCK_SECONDS), database.transaction():
            changes = _record(database, adopted, check_mode=request.check_mode)
    lines = [f"row {change['row']}: {change['before']} -> {change['after']}\n" for change in changes]
    return Outcome(bool(changes), {"changes": changes}, diff={"before": "", "after": "".join(lines)})


def _record(database: Database, adopted: Iterable[Record], *, check_mode: bool) -> list[dict[str, Any]]:
    records = {record["id"]: record for record in database.query(_SELECT)}
    owners = {
        (meta["node"], record["path"]): key
        for key, record in records.items()
        if (meta := _meta(record)).get("node") and record["path"]
    }
    changes = []
    for backup in adopted:
        record = records.get(backup["row"])
        place = (backup["node"], backup["path"])
        if record is None or not is_of_pack(record, _meta(record)):
            # Done by an earlier run, or deleted in the panel meanwhile.
            continue
        owner = owners.setdefault(place, record["id"])
        if not check_mode:
            _write(database, record, backup, owner)
        after = backup["path"] if owner == record["id"] else f"deleted, the same backup as row {owner}"
        changes.append({"row": record["id"], "before": record["path"] or record["s3_key"], "after": after})
    return changes


def _write(database: Database, record: Record, backup: Record, owner: int) -> None:
    meta = _meta(record)
    # Where it came from, for whoever looks for it by its old name.
    was = {name: record[name] for name in _KEPT}
    if owner != record["id"]:
        database.execute(_RETIRE, (json.dumps({**meta, "adopted_as": owner}, sort_keys=True), record["id"]))
        return
    meta = {**meta, "node": backup["node"], "id": backup["id"], "instant": backup["instant"], "adopted": was}
    copies = backup["copies"]
    storage = "hybrid" if len(copies) > 1 else "s3" if copies == ["s3"] else "local"
    created = parse_time(backup["instant"]).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    database.execute(
        _UPDATE,
        (
            created,
            backup["size_bytes"],
            backup["checksum_sha256"],
            storage,
            backup["path"],
            backup["s3_key"],
            json.dumps(meta, sort_keys=True),
            record["id"],
        ),
    )


def _checked(value: Record) -> Record:
    try:
        parse_time(value["instant"])
    except ValueError as error:
        raise InputError(f"adopted: row {value['row']} has the instant {value['instant']!r}: {error}.") from error
    if not value["copies"]:
        raise InputError(f"adopted: row {value['row']} has no copy.")
    return value


def _described(records: Iterable[Record], names: Mapping[str, str], zone: ZoneInfo) -> list[dict[str, Any]]:
    by_vm: dict[str, list[Record]] = {}
    for record in records:
        by_vm.setdefault(record["vm_uuid"], []).append(record)
    described = []
    for uuid, mine in by_vm.items():
        times = utc_instants([_wall(record) for record in mine], zone)
        for record, (instant, ambiguous) in zip(mine, times):
            described.append(
                {
                    "row": record["id"],
                    "vm_uuid": uuid,
                    "vm_name": names.get(uuid.lower()) or uuid,
                    "created_at": str(record["created_at"]),
                    "instant": format_time(instant),
                    "ambiguous": ambiguous,
                    "size_bytes": record["size_bytes"],
                    "checksum_sha256": record["checksum_sha256"],
                    "path": record["path"],
                    "s3_key": record["s3_key"],
                }
            )
    return described


def _wall(record: Record) -> datetime:
    wall = record["created_at"]
    if not isinstance(wall, datetime):
        # PyMySQL gives what it cannot read, such as 0000-00-00, as it is.
        raise InputError(f"Row {record['id']} of backups was made at {wall!r}, which is no time. Correct it there.")
    return wall


def _names(database: Database) -> dict[str, str]:
    return {str(row["uuid"]).lower(): row["name"] for row in database.query("SELECT uuid, name FROM vm_instances")}


def _meta(record: Record) -> dict[str, Any]:
    try:
        meta = json.loads(record["meta"] or "null")
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InputError(
            f"panel_timezone: {name!r} is no time zone known on this host, such as Europe/Berlin or UTC. Where none is "
            "known, the package tzdata is missing.",
            code="timezone",
        ) from error
