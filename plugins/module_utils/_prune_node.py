# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prunes one VM on its node: clears what earlier runs left, then deletes what the plan says, each by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import Backup
from ansible_collections.vmforge.backup.plugins.module_utils._delete import (
    begin_deletion,
    find_backup,
    finish_deletion,
    refuse_deletion,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    FormatError,
    InputError,
    StorageError,
    VMForgeError,
    internal_errors,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import as_failure, read_json
from ansible_collections.vmforge.backup.plugins.module_utils._leftovers import Leftovers
from ansible_collections.vmforge.backup.plugins.module_utils._listing import list_entries
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    DELETING,
    FAILED,
    OFFSITE,
    PARTIAL,
    BackupDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, parse_id, parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._prune_bucket import delete_copy
from ansible_collections.vmforge.backup.plugins.module_utils._prune_options import PruneOptions
from ansible_collections.vmforge.backup.plugins.module_utils._prune_plan import Case
from ansible_collections.vmforge.backup.plugins.module_utils._prune_record import NAME, PolicyRecord
from ansible_collections.vmforge.backup.plugins.module_utils._prune_result import PruneResult

FAILURES_KEPT = timedelta(days=30)
# What keeps a backup for now, without anything being wrong.
_WAITS = {"held": "held", "s3_locked": "locked"}


class NodePrune:
    """One VM's turn on a node.

    Args:
        offsite: The VM's place in S3; None where this call leaves S3 alone or there is none.
    """

    def __init__(self, options: PruneOptions, case: Case, offsite: OffsiteVm | None, *, now: datetime) -> None:
        self._options, self._case, self._offsite, self._now = options, case, offsite, now
        self._vm = VmRef(case.listing.uuid, case.listing.name, options.node)
        self._directory = BackupDirectory(options.backup_dir).vm(self._vm.uuid)
        self._record = PolicyRecord(self._directory.path / NAME)
        doomed = case.plan.deleted if case.plan is not None else ()
        self._doomed = [backup for backup in doomed if self._is_mine(backup)]
        self.result = PruneResult(case, options.node, self._doomed)
        self._children: dict[str, set[str]] = {}
        self._finished: set[str] = set()

    def run(self, *, check_mode: bool) -> PruneResult:
        """Do it, or in check mode tell what would be done; failures are in the result, not raised."""
        try:
            with internal_errors():
                if check_mode:
                    self._look()
                else:
                    self._work()
        except (VMForgeError, OSError) as error:
            failure = as_failure(error, "pruning")
            self.result.fail(failure, result="confirm" if failure.code == "confirm" else "failed")
        self.result.settle(check_mode=check_mode)
        return self.result

    def _is_mine(self, backup: Backup) -> bool:
        """Its own, and for this scope: what lies in the bucket alone is the master's where S3 has keys of its own."""
        local = self._case.listing.ready[backup.id, backup.node]["local"]
        own = backup.node == self._options.node and (local or self._options.scope == "all")
        return own or self._is_left_behind(backup)

    def _is_left_behind(self, backup: Backup) -> bool:
        """In the bucket alone, by a node that is gone for good: one node deletes these for all."""
        copies = self._case.listing.ready[backup.id, backup.node]["copies"]
        return self._options.takes_over and backup.node in self._options.ignored and copies == ["s3"]

    def _work(self) -> None:
        with self._directory.lock(timeout=self._options.lock_timeout):
            self._clear()
            self._prune()

    def _look(self) -> None:
        self.result.cleared = self._leftovers()
        for backup in self._doomed:
            self.result.note(backup, "planned")
        if self._case.plan is not None and self._case.policy is not None:
            try:
                self._record.check(self._case.plan, self._case.policy, confirmed=self._options.confirm)
            except InputError as error:
                self.result.ask(error)

    def _leftovers(self) -> list[str]:
        """What earlier runs left, in words. What a live run is at work on is none of it."""
        if not self._directory.path.is_dir():
            return []
        listed = self._directory.entries()
        found = [f"failure record of {i}" for i in self._expired(self._directory.ids(FAILED, entries=listed))]
        try:
            with self._directory.lock():
                found += [f"unfinished deletion of {i}" for i in self._directory.ids(DELETING, entries=listed)]
                found += [f"unfinished backup {i}" for i in self._directory.ids(PARTIAL, entries=listed)]
        except BusyError:
            pass
        return found

    def _clear(self) -> None:
        before = self._leftovers_now()
        for backup_id in self._expired(self._directory.ids(FAILED)):
            self._directory.entry(backup_id, FAILED).unlink(missing_ok=True)
            self.result.cleared.append(f"failure record of {backup_id}")
        if self._options.scope == "local":
            self._finish_local_deletions()
        leftovers = Leftovers(self._vm, self._directory, self._offsite)
        leftovers.clear_storage()
        self.result.warnings += leftovers.warnings
        gone = before - self._leftovers_now()
        self._finished = {backup_id for backup_id, suffix in gone if suffix == DELETING}
        words = {DELETING: "unfinished deletion of", PARTIAL: "unfinished backup"}
        self.result.cleared += [f"{words[suffix]} {backup_id}" for backup_id, suffix in sorted(gone)]

    def _leftovers_now(self) -> set[tuple[str, str]]:
        return {(i, suffix) for suffix in (DELETING, PARTIAL) for i in self._directory.ids(suffix)}

    def _expired(self, backup_ids: Iterable[str]) -> list[str]:
        """Failure records that nobody needs any more. One that does not say when, by its id."""
        found = []
        for backup_id in backup_ids:
            try:
                failed = parse_time(read_json(self._directory.entry(backup_id, FAILED))["failed"])
            except (FileNotFoundError, FormatError, KeyError, TypeError, ValueError, AttributeError):
                failed = parse_id(backup_id)
            if self._now - failed > FAILURES_KEPT:
                found.append(backup_id)
        return found

    def _finish_local_deletions(self) -> None:
        """Those whose copy in S3 the master has deleted meanwhile; the others keep waiting for it."""
        for backup_id in self._directory.ids(DELETING):
            if self._copy_is_gone(self._directory.entry(backup_id, DELETING), backup_id):
                finish_deletion(self._directory, backup_id, None, node=self._vm.node, copy_is_gone=True)

    def _prune(self) -> None:
        plan, policy = self._case.plan, self._case.policy
        if plan is None:
            return
        if policy is not None:
            self._record.check(plan, policy, confirmed=self._options.confirm)
        self._read_again()
        for backup in self._doomed:
            self._attempt(backup, partial(self._delete, backup))
        if policy is not None:
            self._record.write(policy)

    def _read_again(self) -> None:
        """The listing is some minutes old: what the plan keeps here must still be there, and children be known."""
        entries = list_entries(Path(self._options.backup_dir), None, (self._vm.uuid,))
        ready = {entry["id"]: entry for entry in entries if entry["status"] == "ready"}
        self._children = self._find_children(ready)
        kept = self._case.plan.kept if self._case.plan is not None else ()
        here = [backup for backup in kept if self._case.listing.ready[backup.id, backup.node]["local"]]
        lost = {backup.id for backup in here if backup.node == self._vm.node and backup.id not in ready}
        # Its copy in S3 went along, when its deletion was finished just now.
        lost |= {backup.id for backup in kept} & self._finished
        # What a person named is deleted whatever became of the others.
        if lost and self._case.policy is not None:
            raise StorageError(
                f"Nothing was deleted, for {', '.join(sorted(lost))}, which the plan keeps, has gone since it was "
                "listed. List and plan anew.",
                code="changed",
            )

    def _find_children(self, here: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
        """Id of a parent -> those that build on it, be they here or in S3 alone; what the master has deleted apart."""
        gone = {backup_id for uuid, backup_id, *_where in self._options.gone if uuid == self._vm.uuid}
        there = [entry for (i, _node), entry in self._case.listing.ready.items() if i not in here and i not in gone]
        found: dict[str, set[str]] = {}
        for entry in (*here.values(), *there):
            # One that was here and has gone since is nobody's child any more.
            if entry["parent"] is not None and (entry["id"] in here or not entry.get("local")):
                found.setdefault(entry["parent"]["id"], set()).add(entry["id"])
        return found

    def _attempt(self, backup: Backup, delete: Callable[[], tuple[str, str | None]]) -> None:
        children = self._children.get(backup.id)
        if children:
            # What holds its child back holds it back too, and was told there.
            self.result.note(backup, "waiting", f"{', '.join(sorted(children))} builds on it, and is still there.")
            return
        try:
            result, message = delete()
        except (VMForgeError, OSError) as error:
            failure = as_failure(error, "pruning")
            result, message = _WAITS.get(failure.code, "failed"), failure.message
        if result == "deleted" and backup.parent is not None:
            self._children.get(backup.parent, set()).discard(backup.id)
        self.result.note(backup, result, message)

    def _delete(self, backup: Backup) -> tuple[str, str | None]:
        if self._offsite is not None and self._is_left_behind(backup):
            sums = self._case.listing.ready[backup.id, backup.node]["sums"]
            delete_copy(self._offsite.backup(backup.id), backup, sums, now=self._now)
            return "deleted", None
        path = self._directory.entry(backup.id)
        manifest = find_backup(self._directory, self._offsite, backup.id)
        if manifest is None:
            return "deleted", "It was gone already."
        is_gone = self._options.scope == "local"
        if is_gone and not self._copy_is_gone(path, backup.id):
            return "waiting", _still_there(read_json(path / OFFSITE))
        refuse_deletion(
            self._directory,
            self._offsite,
            manifest,
            vm=self._vm,
            now=self._now,
            copy_is_gone=is_gone,
            children=(),
        )
        begin_deletion(self._directory, backup.id, self._offsite)
        finish_deletion(self._directory, backup.id, self._offsite, node=self._vm.node, copy_is_gone=is_gone)
        return "deleted", None

    def _copy_is_gone(self, path: Path, backup_id: str) -> bool:
        """Whether it has no copy in S3, or the master has confirmed that it is deleted."""
        try:
            noted = read_json(path / OFFSITE)
        except FileNotFoundError:
            return True
        where = (str(noted.get("endpoint") or ""), str(noted.get("bucket")), str(noted.get("prefix")))
        return (self._vm.uuid, backup_id, *where) in self._options.gone


def _still_there(noted: Mapping[str, Any]) -> str:
    return (
        f"Its copy in S3, {noted.get('prefix')} in bucket {noted.get('bucket')} at {noted.get('endpoint') or 'AWS'}, "
        "is still there, or was not looked for. If the bucket was pruned at that very server under another name, tell "
        "it in s3_same_endpoints (with the playbook: vmforge_backup_s3_same_endpoints)."
    )
