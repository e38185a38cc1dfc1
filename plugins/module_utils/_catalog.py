# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change in the table ``backups`` so that one node's rows say what it has. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._catalog_listing import (
    Entry,
    Listing,
    directory,
    kind,
    moment,
)

COLUMNS = (
    "vm_uuid",
    "created_at",
    "type",
    "size_bytes",
    "checksum_sha256",
    "storage",
    "path",
    "s3_key",
    "meta",
    "status",
)
INSERT, UPDATE, DELETE = "insert", "update", "delete"
# In the meta of a deleted row: when it was seen that its backup is gone.
DELETED_AT = "deleted_at"
_UNFINISHED = {
    "deleting": "Its deletion was begun and is not finished; the next prune finishes it.",
    "partial": "Its manifest is missing or damaged.",
}


@dataclass(frozen=True)
class Row:
    """One row of ``backups``.

    Attributes:
        key: The column ``id``; None for one that is not there yet.
        created_at: ``2026-11-22 15:12:00``, in UTC.
        meta: Ours and whatever others put in.
    """

    key: int | None
    vm_uuid: str
    created_at: str
    type: str
    size_bytes: int | None
    checksum_sha256: str | None
    storage: str
    path: str
    s3_key: str | None
    meta: Mapping[str, Any]
    status: str

    def values(self) -> dict[str, Any]:
        """The columns, as a database takes them."""
        return {**{name: getattr(self, name) for name in COLUMNS}, "meta": json.dumps(self.meta, sort_keys=True)}


@dataclass(frozen=True)
class Change:
    """One row that is not as it should be.

    Attributes:
        action: ``insert``, ``update`` or ``delete``; what is deleted keeps its row, with that status.
        before: None for one that is inserted.
    """

    action: str
    before: Row | None
    after: Row


@dataclass(frozen=True)
class CatalogPlan:
    """All changes of one node.

    Attributes:
        unchanged: Rows that are right.
        uncertain: VMs with backups that are not on the node any more and may be in S3, where nobody looked: rows stay.
    """

    changes: tuple[Change, ...]
    unchanged: int
    uncertain: tuple[str, ...]

    def rows(self, action: str) -> list[Row]:
        """The rows as they will be, of one action."""
        return [change.after for change in self.changes if change.action == action]


def row_of(record: Mapping[str, Any], node: str) -> Row | None:
    """A row as the database gave it; None for one that is not this node's, or that another tool wrote."""
    try:
        meta = json.loads(record["meta"] or "null")
    except ValueError:
        return None
    if not isinstance(meta, dict) or meta.get("node") != node or not record["path"]:
        return None
    values = {name: record[name] for name in COLUMNS}
    return Row(key=record["id"], **{**values, "meta": meta, "created_at": str(record["created_at"])[:19]})


def plan_sync(rows: Iterable[Row], listing: Listing) -> CatalogPlan:
    """Compare a node's rows with what it has.

    Args:
        rows: All of that node. Those of VMs outside the listing's scope are passed over.
    """
    mine = [row for row in rows if listing.covers(row.vm_uuid)]
    wanted = {row.path: row for row in _wanted(listing, _paths(mine))}
    unfinished = {directory(entry, listing): entry for entry in listing.unfinished()}
    changes: list[Change] = []
    uncertain: set[str] = set()
    seen: set[str] = set()
    for row in sorted(mine, key=lambda row: row.key or 0):
        if row.path in seen:
            changes += _gone(row)
        elif row.path in wanted:
            changes += _changed(row, wanted[row.path])
        elif row.path in unfinished and row.status != "deleted":
            changes += _changed(row, _spoilt(row, unfinished[row.path]))
        elif row.status != "deleted" and row.s3_key and not listing.knows_s3(row.vm_uuid, row.meta.get("id")):
            uncertain.add(row.vm_uuid)
        else:
            changes += _gone(row)
        seen.add(row.path)
    changes += [Change(INSERT, None, row) for path, row in wanted.items() if path not in seen]
    untouched = len(mine) - sum(change.action != INSERT for change in changes)
    return CatalogPlan(tuple(changes), untouched, tuple(sorted(uncertain)))


def _paths(rows: Iterable[Row]) -> dict[tuple[str, Any], str]:
    """Where a backup was when its row was written: what lies in S3 alone has no directory any more."""
    return {(row.vm_uuid, row.meta.get("id")): row.path for row in rows if row.status == "ready"}


def _wanted(listing: Listing, known: Mapping[tuple[str, Any], str]) -> list[Row]:
    rows = []
    for entry in listing.complete():
        path = entry["path"] or (known.get((entry["vm"]["uuid"], entry["id"])) if kind(entry) == "backup" else None)
        rows.append(_row(entry, path or directory(entry, listing), listing.node))
    return rows


def _row(entry: Entry, path: str, node: str) -> Row:
    copies: Sequence[str] = entry["copies"]
    failed = entry["status"] == "failed"
    error = entry["error"]
    if not failed and not copies:
        failed, error = True, error or "None of its copies is complete."
    meta = {name: entry[name] for name in ("id", "instant", "finished_at", "consistency", "parent", "hold", "verified")}
    return Row(
        key=None,
        vm_uuid=entry["vm"]["uuid"],
        created_at=moment(entry),
        type=entry["type"] or "full",
        size_bytes=entry["size_bytes"] or 0,
        checksum_sha256=entry["checksum_sha256"],
        storage="hybrid" if len(copies) > 1 else "s3" if copies == ["s3"] else "local",
        path=path,
        s3_key=entry["s3_key"],
        meta={
            **meta,
            "node": node,
            "vm_name": entry["vm"]["name"],
            "copies": list(copies),
            "error": error,
            "state": entry["status"],
        },
        status="failed" if failed else "ready",
    )


def _spoilt(row: Row, entry: Entry) -> Row:
    """A backup that is none any more, or not yet gone: whoever reads its row must not count on it."""
    error = entry["error"] or _UNFINISHED[entry["status"]]
    return replace(row, status="failed", meta={**row.meta, "state": entry["status"], "error": error})


def _changed(row: Row, wanted: Row) -> list[Change]:
    others = {name: value for name, value in row.meta.items() if name != DELETED_AT}
    after = replace(wanted, key=row.key, meta={**others, **wanted.meta})
    return [] if after == row else [Change(UPDATE, row, after)]


def _gone(row: Row) -> list[Change]:
    return [] if row.status == "deleted" else [Change(DELETE, row, replace(row, status="deleted"))]
