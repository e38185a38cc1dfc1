# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines and backups as the pages show them, from rows of the catalogue or from a list. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import (
    canonical_uuid,
    is_id,
    parse_id,
    parse_time,
    parse_utc,
)

_STATES = ("ready", "failed", "partial", "deleting")


@dataclass(frozen=True)
class Machine:
    """One machine, with what is known of its backups.

    Attributes:
        uuid: Canonical.
        known: Whether the panel has it; True where there is no panel.
        newest: The moment of its newest complete backup.
        size: Bytes of all its complete backups.
        last: The newest backup itself, where it was asked for.
    """

    uuid: str
    name: str
    node: str = ""
    known: bool = True
    count: int = 0
    size: int = 0
    newest: datetime | None = None
    last: Backup | None = None


@dataclass(frozen=True)
class Backup:
    """One backup, or what is left of one.

    Attributes:
        id: None for a row that another tool wrote; nothing can be done with it here.
        entry: As ``vmforge_backup_info`` lists it.
        moment: Of its contents, aware.
        storage: ``local``, ``s3`` or ``hybrid``.
    """

    id: str | None
    entry: Mapping[str, Any]
    moment: datetime
    storage: str

    @property
    def status(self) -> str:
        """``ready``, ``failed``, ``partial`` or ``deleting``."""
        return str(self.entry["status"])

    @property
    def parent(self) -> str | None:
        """The id of the backup that it builds on."""
        parent = self.entry.get("parent")
        return str(parent["id"]) if isinstance(parent, Mapping) and parent.get("id") else None

    @property
    def hold(self) -> Mapping[str, Any] | None:
        """Why and by whom it is held; None when it is not."""
        hold = self.entry.get("hold")
        return hold if isinstance(hold, Mapping) else None

    @property
    def checks(self) -> list[Mapping[str, Any]]:
        """What its verifications said, each with ``copy``, ``ok``, ``at``, ``level``."""
        verified = self.entry.get("verified")
        found = verified.get("results") if isinstance(verified, Mapping) else None
        return [item for item in found or () if isinstance(item, Mapping)]

    @property
    def verified(self) -> str:
        """``good``, ``bad`` or ``never``."""
        if not self.checks:
            return "never"
        return "good" if all(item.get("ok") for item in self.checks) else "bad"


def entry_of_row(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of a listing that a row of ``backups`` was made of; None for a row of another tool."""
    meta = _json(row["meta"])
    if not isinstance(meta.get("id"), str) or not is_id(meta["id"]) or not meta.get("node"):
        return None
    uuid = canonical_uuid(str(row["vm_uuid"]))
    if uuid is None:
        return None
    status = row["status"]
    if status != "ready" and meta.get("state") in _STATES:
        status = meta["state"]
    return {
        "vm": {"uuid": uuid, "name": meta.get("vm_name"), "node": str(meta["node"])},
        "id": meta["id"],
        "status": status,
        "type": row["type"],
        "instant": meta.get("instant"),
        "finished_at": meta.get("finished_at"),
        "consistency": meta.get("consistency"),
        "parent": meta.get("parent"),
        "size_bytes": int(row["size_bytes"] or 0),
        "checksum_sha256": row["checksum_sha256"],
        "copies": list(meta.get("copies") or ()),
        "hold": meta.get("hold"),
        "verified": meta.get("verified"),
        "error": meta.get("error"),
    }


def backup_of_row(row: Mapping[str, Any]) -> Backup:
    """A row of ``backups`` as it is shown."""
    entry = entry_of_row(row)
    if entry is None:
        foreign = {
            "vm": {"node": None},
            "status": row["status"],
            "type": row["type"],
            "size_bytes": row["size_bytes"] or 0,
        }
        values = {**foreign, "label": str(row["label"] or "unknown"), "copies": []}
        return Backup(None, values, parse_utc(row["made"]), str(row["storage"]))
    return Backup(str(entry["id"]), entry, _moment(entry), str(row["storage"]))


def backup_of_entry(entry: Mapping[str, Any]) -> Backup:
    """An entry of a listing as it is shown."""
    copies = entry.get("copies") or []
    storage = "hybrid" if len(copies) > 1 else "s3" if copies == ["s3"] else "local"
    return Backup(str(entry["id"]), entry, _moment(entry), storage)


def newest_first(backups: Iterable[Backup]) -> list[Backup]:
    """In the order of the tables."""
    return sorted(backups, key=lambda backup: (backup.moment, backup.id or ""), reverse=True)


def depths(backups: Sequence[Backup]) -> dict[str, int]:
    """How many backups each one builds on, for showing chains. A parent that is missing ends the count."""
    parents = {backup.id: backup.parent for backup in backups if backup.id}
    found: dict[str, int] = {}
    for backup_id in sorted(parents, key=str):
        parent = parents[backup_id]
        # A parent's id is always the smaller one.
        found[str(backup_id)] = found.get(parent, 0) + 1 if parent and parent < str(backup_id) else 0
    return found


def dependants(backups: Sequence[Backup], backup_id: str) -> list[Backup]:
    """Everything that builds on a backup, over any number of steps, newest first."""
    wanted, found = {backup_id}, []
    for backup in sorted(backups, key=lambda item: item.id or ""):
        if backup.id and backup.parent in wanted and backup.id not in wanted:
            wanted.add(backup.id)
            found.append(backup)
    return list(reversed(found))


def _moment(entry: Mapping[str, Any]) -> datetime:
    try:
        return parse_time(str(entry.get("instant")))
    except ValueError:
        return parse_id(str(entry["id"]))


def _json(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text or "null")
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
