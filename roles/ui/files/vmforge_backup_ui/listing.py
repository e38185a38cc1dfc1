# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What backups there are: from the list that the runner keeps, where there is no database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from vmforge_backup_ui.entries import Backup, Machine, backup_of_entry
from vmforge_backup_ui.errors import AwayError
from vmforge_backup_ui.history import History
from vmforge_backup_ui.reader import Page, select

_READ: dict[str, tuple[tuple[int, int], ListReader]] = {}


class ListReader:
    """Reads what ``playbooks/list.yml`` wrote.

    Args:
        entries: As that lists them.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self.queries = 0
        backups: dict[str, list[Backup]] = {}
        for entry in entries:
            backups.setdefault(str(entry["vm"]["uuid"]), []).append(backup_of_entry(entry))
        self._histories = {uuid: History(found) for uuid, found in backups.items()}

    def page(self, search: str, sort: str, first: int, count: int) -> Page:
        """See :class:`vmforge_backup_ui.reader.Reader`."""
        machines = [found for found in (self.machine(uuid) for uuid in self._histories) if found]
        return select(machines, search, sort, first, count)

    def machine(self, uuid: str) -> Machine | None:
        """The same."""
        backups = self.history(uuid).backups
        if not backups:
            return None
        ready = [backup for backup in backups if backup.status == "ready"]
        last = ready[0] if ready else None
        some = last or backups[0]
        return Machine(
            uuid,
            str(some.entry.get("vm_name") or some.entry["vm"].get("name") or uuid),
            node=str(some.entry["vm"].get("node") or some.entry.get("node") or ""),
            count=len(ready),
            size=sum(int(backup.entry.get("size_bytes") or 0) for backup in ready),
            newest=last.moment if last else None,
            last=last,
        )

    def history(self, uuid: str) -> History:
        """The same."""
        return self._histories.get(uuid) or History()

    def policy(self, _uuid: str) -> Mapping[str, Any] | None:
        """There are no rows; what holds are the variables."""
        return None

    def growth(self, _since: date) -> list[tuple[date, str, int]]:
        """A list tells of nothing that is gone."""
        return [
            (backup.moment.date(), backup.storage, int(backup.entry.get("size_bytes") or 0))
            for history in self._histories.values()
            for backup in history.backups
            if backup.status == "ready"
        ]

    def user(self, _email: str) -> Mapping[str, Any] | None:
        """There are no users but the one of the configuration."""
        return None


def open_list(path: Path) -> ListReader:
    """Read the file, again only if it has changed.

    Raises:
        AwayError: It cannot be read.
    """
    try:
        state = path.stat()
        stamp = (state.st_mtime_ns, state.st_size)
        known = _READ.get(str(path))
        if known is None or known[0] != stamp:
            known = (stamp, ListReader(json.loads(path.read_text(encoding="utf-8"))["backups"]))
            _READ[str(path)] = known
    except FileNotFoundError:
        return ListReader([])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AwayError(f"The list of backups, {path}, cannot be read: {error}.") from error
    return known[1]
