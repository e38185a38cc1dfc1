# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What backups there are: from the panel's database, which is only read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timezone
from typing import Any, Protocol

from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import Database, DatabaseConfig
from vmforge_backup_ui.entries import Backup, Machine, backup_of_row
from vmforge_backup_ui.errors import AwayError
from vmforge_backup_ui.history import History
from vmforge_backup_ui.kept import Kept

_VMS = (
    "SELECT v.uuid AS uuid, v.name AS name, n.name AS node FROM vm_instances v LEFT JOIN nodes n ON n.id = v.node_id "
    "WHERE v.type = 'kvm'"
)
_TOTALS = (
    "SELECT vm_uuid, COUNT(*) AS count, SUM(size_bytes) AS size, MAX(created_at) AS newest FROM backups "
    "WHERE status = 'ready' GROUP BY vm_uuid"
)
# Only what is shown: each column of ten thousand rows takes time, and to make a time of a text most.
_COLUMNS = (
    "vm_uuid, CAST(created_at AS CHAR) AS made, type, size_bytes, checksum_sha256, storage, meta, status, "
    "IF(JSON_EXTRACT(meta, '$.id') IS NULL, COALESCE(NULLIF(snapshot_name, ''), path, location, id), NULL) AS label"
)
_OF_VM = f"SELECT {_COLUMNS} FROM backups WHERE vm_uuid IN (%s, %s) AND status <> 'deleted'"
_GROWTH = (
    "SELECT DATE(created_at) AS day, storage, SUM(size_bytes) AS size FROM backups WHERE status = 'ready' "
    "GROUP BY DATE(created_at), storage"
)
_GONE = (
    "SELECT DATE(created_at) AS day, LEFT(JSON_UNQUOTE(JSON_EXTRACT(meta, '$.deleted_at')), 10) AS gone, storage, "
    "SUM(size_bytes) AS size FROM backups WHERE status = 'deleted' GROUP BY day, gone, storage HAVING gone >= %s"
)
# Asked before what takes long: whether it is as it was.
_STATE_OF_VM = (
    "SELECT COUNT(*) AS total, BIT_XOR(CRC32(CONCAT_WS('|', id, created_at, type, size_bytes, checksum_sha256, "
    "storage, status, meta))) AS state FROM backups WHERE vm_uuid IN (%s, %s) AND status <> 'deleted'"
)
_STATE_OF_GONE = "SELECT COUNT(*) AS total, MAX(id) AS newest FROM backups WHERE status = 'deleted'"
_HISTORIES: Kept[History] = Kept(4)
_GROWTHS: Kept[list[tuple[date, str, int]]] = Kept(1)
_USER = ("email", "password_hash", "totp_secret", "failed_logins", "locked_until", "role")


@dataclass(frozen=True)
class Page:
    """Some machines of all that match."""

    machines: Sequence[Machine]
    matching: int
    all: int


class Reader(Protocol):
    """Where the pages take what they show from."""

    queries: int

    def page(self, search: str, sort: str, first: int, count: int) -> Page:
        """Machines whose name, node or UUID has a text in it; ``sort`` is ``name``, ``age`` or ``size``."""

    def machine(self, uuid: str) -> Machine | None:
        """One machine; None where neither the panel nor a backup knows it."""

    def history(self, uuid: str) -> History:
        """All that there is of it."""

    def policy(self, uuid: str) -> Mapping[str, Any] | None:
        """Its row in ``backup_policies``; None without one."""

    def growth(self, since: date) -> list[tuple[date, str, int]]:
        """Day, storage and bytes of what was made and, below 0, of what was deleted; without what was gone before."""

    def user(self, email: str) -> Mapping[str, Any] | None:
        """The panel's user of that address; only the columns that there are."""


def select(machines: Sequence[Machine], search: str, sort: str, first: int, count: int) -> Page:
    """The part of a list that a page shows."""
    text = search.strip().lower()
    found = [item for item in machines if text in item.name.lower() or text in item.node.lower() or text in item.uuid]
    if sort == "age":
        # Those without any first, for they need somebody.
        found.sort(key=lambda item: (item.newest is not None, item.newest.timestamp() if item.newest else 0, item.name))
    elif sort == "size":
        found.sort(key=lambda item: (-item.size, item.name))
    else:
        found.sort(key=lambda item: (item.name.lower(), item.uuid))
    return Page(found[first : first + count], len(found), len(machines))


class DatabaseReader:
    """Reads the panel's database over one connection.

    Attributes:
        queries: How many statements it has sent.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._place = database.config.where
        self.queries = 0

    def _query(self, sql: str, args: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        self.queries += 1
        return self._database.query(sql, args)

    def page(self, search: str, sort: str, first: int, count: int) -> Page:
        """See :class:`Reader`."""
        page = select(self._machines(), search, sort, first, count)
        last = self._newest([item for item in page.machines if item.newest])
        shown = []
        for item in page.machines:
            newest = last.get(item.uuid)
            shown.append(replace(item, last=newest, node=item.node or _node(newest)))
        return replace(page, machines=shown)

    def machine(self, uuid: str) -> Machine | None:
        """See :class:`Reader`."""
        sql = f"{_VMS} AND v.uuid IN (%s, %s)"
        for row in self._query(sql, (uuid, uuid.replace("-", ""))):
            return Machine(uuid, str(row["name"]), node=str(row["node"] or ""))
        name = self._names([uuid]).get(uuid)
        return Machine(uuid, name, known=False) if name else None

    def history(self, uuid: str) -> History:
        """See :class:`Reader`."""
        forms = _forms(uuid)
        return _HISTORIES.get(
            (self._place, uuid),
            self._query(_STATE_OF_VM, forms),
            lambda: History(backup_of_row(row) for row in self._query(_OF_VM, forms)),
        )

    def policy(self, uuid: str) -> Mapping[str, Any] | None:
        """See :class:`Reader`."""
        sql = "SELECT * FROM backup_policies WHERE vm_uuid IN (%s, %s)"
        rows = self._query(sql, (uuid, uuid.replace("-", "")))
        return rows[0] if rows else None

    def growth(self, since: date) -> list[tuple[date, str, int]]:
        """See :class:`Reader`."""
        found = [(row["day"], str(row["storage"]), int(row["size"] or 0)) for row in self._query(_GROWTH)]
        stamp = (since, self._query(_STATE_OF_GONE))
        return found + _GROWTHS.get(self._place, stamp, lambda: self._gone(since))

    def _gone(self, since: date) -> list[tuple[date, str, int]]:
        found = []
        for row in self._query(_GONE, (since.isoformat(),)):
            size = int(row["size"] or 0)
            found += [(row["day"], row["storage"], size), (date.fromisoformat(row["gone"]), row["storage"], -size)]
        return found

    def user(self, email: str) -> Mapping[str, Any] | None:
        """See :class:`Reader`."""
        rows = self._query(
            "SELECT COLUMN_NAME AS name FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() "
            "AND TABLE_NAME = 'users'"
        )
        there = {str(row["name"]) for row in rows}
        if not {"email", "password_hash"} <= there:
            return None
        columns = ", ".join(name for name in _USER if name in there)
        found = self._query(f"SELECT {columns} FROM users WHERE email = %s", (email,))
        # The database may compare more loosely than people sign in.
        same = [row for row in found if str(row["email"]).lower() == email.lower()]
        return same[0] if len(same) == 1 else None

    def _machines(self) -> list[Machine]:
        totals = {}
        for row in self._query(_TOTALS):
            uuid = canonical_uuid(str(row["vm_uuid"]))
            if uuid:
                totals[uuid] = row
        machines = []
        for row in self._query(_VMS):
            uuid = canonical_uuid(str(row["uuid"]))
            if uuid:
                machines.append(
                    _with(Machine(uuid, str(row["name"]), node=str(row["node"] or "")), totals.pop(uuid, None))
                )
        names = self._names(list(totals)) if totals else {}
        machines += [_with(Machine(uuid, names.get(uuid, uuid), known=False), row) for uuid, row in totals.items()]
        return machines

    def _names(self, uuids: Sequence[str]) -> dict[str, str]:
        """As backups call machines that the panel does not have."""
        rows = self._query(
            "SELECT vm_uuid, MAX(JSON_UNQUOTE(JSON_EXTRACT(meta, '$.vm_name'))) AS name FROM backups "
            "WHERE vm_uuid IN %s AND status <> 'deleted' GROUP BY vm_uuid",
            (tuple(uuids),),
        )
        return {str(row["vm_uuid"]).lower(): str(row["name"] or row["vm_uuid"]) for row in rows}

    def _newest(self, machines: Sequence[Machine]) -> dict[str, Backup]:
        if not machines:
            return {}
        pairs = [
            (form, item.newest.replace(tzinfo=None)) for item in machines if item.newest for form in _forms(item.uuid)
        ]
        sql = f"SELECT {_COLUMNS} FROM backups WHERE status = 'ready' AND (vm_uuid, created_at) IN %s"
        rows = self._query(sql, (tuple(pairs),))
        return {str(canonical_uuid(str(row["vm_uuid"]))): backup_of_row(row) for row in rows}


@contextmanager
def open_database(settings: Mapping[str, Any]) -> Iterator[DatabaseReader]:
    """Connect for the length of a block.

    Raises:
        AwayError: It does not answer, or refuses.
    """
    try:
        with Database(DatabaseConfig.from_params(settings), answer_seconds=30) as database:
            yield DatabaseReader(database)
    except VMForgeError as error:
        raise AwayError(f"The panel's database cannot be read: {error.message}", code=error.code) from error


def _with(machine: Machine, total: Mapping[str, Any] | None) -> Machine:
    if total is None:
        return machine
    newest = total["newest"].replace(tzinfo=timezone.utc)
    return replace(machine, count=int(total["count"]), size=int(total["size"] or 0), newest=newest)


def _forms(uuid: str) -> tuple[str, str]:
    return uuid, uuid.replace("-", "")


def _node(backup: Backup | None) -> str:
    return str(backup.entry["vm"].get("node") or "") if backup else ""
