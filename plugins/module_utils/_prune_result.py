# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a VM's backups, as the module returns it and as ``--diff`` shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import Backup
from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._prune_plan import Case

# Of a VM. ``unknown`` is told, and waits for a person; the others are failures.
GOOD = ("pruned", "planned", "unchanged", "unknown")
# Of a backup: it is deleted, or would be.
GONE = ("deleted", "planned")


class PruneResult:
    """Filled while a VM is pruned.

    Args:
        mine: Whether a backup is this call's to delete.
    """

    def __init__(self, case: Case, node: str, mine: Iterable[Backup]) -> None:
        self.case = case
        self.warnings: list[str] = []
        self.cleared: list[str] = []
        self._node = node
        self._mine = set(mine)
        self._result = "unchanged"
        self._is_asking = False
        self._code, self._message = case.code, case.message
        self._became: dict[Backup, tuple[str, str | None]] = {}
        if case.plan is None:
            self._result = {"missing_node": "skipped", "unknown_vm": "unknown"}.get(str(case.code), "failed")

    def note(self, backup: Backup, result: str, message: str | None = None) -> None:
        """Tell what became of a backup that the plan deletes."""
        self._became[backup] = (result, message)

    def fail(self, error: VMForgeError, *, result: str = "failed") -> None:
        """The VM failed as a whole."""
        self._result, self._code, self._message = result, error.code, error.message

    def ask(self, error: VMForgeError) -> None:
        """In check mode: a run would need a person's word first. That is told, and nothing has failed."""
        self.fail(error, result="confirm")
        self._is_asking = True

    def settle(self, *, check_mode: bool) -> None:
        """Draw the sum, unless it failed as a whole."""
        if self._result != "unchanged":
            return
        results = [result for result, _message in self._became.values()]
        failed = [f"{backup.id}: {text}" for backup, (result, text) in self._became.items() if result == "failed"]
        if failed:
            self._result, self._code, self._message = "failed", "not_deleted", "; ".join(failed)
        elif check_mode and ("planned" in results or self.cleared):
            self._result = "planned"
        elif "deleted" in results or self.cleared:
            self._result = "pruned"

    @property
    def changed(self) -> bool:
        """Whether anything was deleted or cleared, or would be."""
        return bool(self.cleared) or any(result in GONE for result, _text in self._became.values())

    @property
    def failure(self) -> str | None:
        """Why it failed."""
        return None if self._is_asking or self._result in GOOD else f"{self.case.listing.name}: {self._message}"

    def as_dict(self) -> dict[str, Any]:
        """The entry of the result."""
        rows = self._rows()
        kept = [row for row in rows if row["result"] not in GONE]
        gone = [row for row in rows if row["result"] in GONE]
        return {
            "vm": {"uuid": self.case.listing.uuid, "name": self.case.listing.name},
            "node": self._node,
            "result": self._result,
            "code": self._code,
            "message": self._message,
            "kept": len(kept),
            "kept_bytes": sum(row["size_bytes"] for row in kept),
            "deleted": len(gone),
            "deleted_bytes": sum(row["size_bytes"] for row in gone),
            "rules": self.case.plan.rules() if self.case.plan is not None else {},
            "policy": self.case.policy.values() if self.case.policy is not None else None,
            "cleared": list(self.cleared),
            "warnings": list(self.warnings),
            "backups": rows,
        }

    def diff(self) -> tuple[str, str]:
        """Before and after, a line for each backup."""
        lines = [(row, _line(self.case.listing.name, row)) for row in self._rows()]
        left = [line for row, line in lines if row["result"] not in GONE]
        return "".join(line for _row, line in lines), "".join(left)

    def _rows(self) -> list[dict[str, Any]]:
        plan = self.case.plan
        if plan is None:
            entries = self.case.listing.ready.values()
            newest_first = sorted(entries, key=lambda entry: str(entry["id"]), reverse=True)
            return [_row(entry, "keep", "kept", [str(self._message)]) for entry in newest_first]
        rows = []
        for decision in plan.decisions:
            backup = decision.backup
            entry = self.case.listing.ready[backup.id, backup.node]
            action = "keep" if decision.keep else "delete"
            otherwise = "kept" if decision.keep else "refused" if backup in self._mine else "elsewhere"
            result, message = self._became.get(backup, (otherwise, None))
            rows.append(_row(entry, action, result, list(decision.reasons), message))
        return rows


def _row(
    entry: Mapping[str, Any], action: str, result: str, reasons: list[str], message: str | None = None
) -> dict[str, Any]:
    return {
        "id": entry["id"],
        "node": entry["vm"]["node"],
        "action": action,
        "result": result,
        "reasons": reasons,
        "message": message,
        "size_bytes": int(entry.get("size_bytes") or 0),
        "copies": list(entry["copies"]),
    }


def _line(name: str, row: Mapping[str, Any]) -> str:
    return "{:<16} {} {:>10}  {:<6}  {}\n".format(
        name, row["id"], format_bytes(row["size_bytes"]), row["action"], ", ".join(row["reasons"])
    )
