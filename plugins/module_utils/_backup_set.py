# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backups of one VM, as retention sees them, and their chains. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

# The reason for which a backup stays that no rule keeps, but that a kept one builds on.
ANCESTOR = "ancestor"


# Compared by identity: a hundred thousand of them are looked up many times.
@dataclass(frozen=True, eq=False)
class Backup:
    """One complete backup, wherever its copies lie.

    Attributes:
        id: As in its manifest.
        node: The node that made it; with ``id`` its identity.
        instant: Of its contents; aware.
        size: Bytes of all its files, counted once however many copies there are.
        flaw: Why it cannot be restored from, as far as is known; None for a good one.
        hold: Why somebody protects it now; None when nobody does.
        parent: Id of the backup that it builds on.
    """

    id: str
    node: str
    instant: datetime
    size: int
    flaw: str | None = None
    hold: str | None = None
    parent: str | None = None


class Chains:
    """Who builds on whom.

    Args:
        backups: Of one VM, each once.
    """

    def __init__(self, backups: Iterable[Backup]) -> None:
        self._by_id: dict[str, list[Backup]] = {}
        for backup in backups:
            self._by_id.setdefault(backup.id, []).append(backup)
        self._newest_first = sorted(self._by_id, reverse=True)
        self._broken: dict[Backup, str] = {}
        # Parents first: a parent's id is always the smaller one.
        for backup_id in reversed(self._newest_first):
            for backup in self._by_id[backup_id]:
                why = self._why_broken(backup)
                if why is not None:
                    self._broken[backup] = why

    def parents(self, backup: Backup) -> Sequence[Backup]:
        """The backup that it builds on; both where two nodes made one of the same id, for then both must stay."""
        if backup.parent is None or backup.parent >= backup.id:
            return ()
        return self._by_id.get(backup.parent, ())

    def flaw(self, backup: Backup) -> str | None:
        """Why nothing can be restored from it: its own flaw, or that of an ancestor. None for a good one."""
        return backup.flaw or self._broken.get(backup)

    def keep_ancestors(self, reasons: Mapping[Backup, list[str]]) -> None:
        """Give the ancestors of kept backups that reason, anew: those of none lose it."""
        for kept in reasons.values():
            kept[:] = [reason for reason in kept if not reason.startswith(ANCESTOR)]
        for backup_id in self._newest_first:
            for backup in self._by_id[backup_id]:
                if not reasons[backup]:
                    continue
                for parent in self.parents(backup):
                    if not any(reason.startswith(ANCESTOR) for reason in reasons[parent]):
                        reasons[parent].append(f"{ANCESTOR} of {backup.id}")

    def _why_broken(self, backup: Backup) -> str | None:
        if backup.parent is None:
            return None
        parents = self.parents(backup)
        if not parents:
            return f"its parent {backup.parent} is missing"
        for parent in parents:
            if parent.flaw is not None:
                return f"its ancestor {parent.id}: {parent.flaw}"
            if parent in self._broken:
                return self._broken[parent]
        return None
