# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prunes one VM's copies in S3 with keys that nodes do not have; and reaps what nobody in a bucket owns any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import Backup
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    InputError,
    S3Error,
    VMForgeError,
    internal_errors,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import as_failure
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST
from ansible_collections.vmforge.backup.plugins.module_utils._model import is_id, parse_id
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup, OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._prune_options import PruneOptions
from ansible_collections.vmforge.backup.plugins.module_utils._prune_plan import Case, VmListing
from ansible_collections.vmforge.backup.plugins.module_utils._prune_record import PolicyRecord
from ansible_collections.vmforge.backup.plugins.module_utils._prune_result import PruneResult
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import DENIED
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import Unfinished
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import HOLD, is_over

ABANDONED = timedelta(days=1)
# Where no node that was listed has anything of the VM: one that was not listed may be at work on it.
ABANDONED_BY_STRANGERS = timedelta(days=7)
_WAITS = {"held": "held", "s3_locked": "locked"}


class BucketPrune:
    """One VM's turn in the bucket, from a machine that has none of its directories."""

    def __init__(self, options: PruneOptions, case: Case, offsite: OffsiteVm, *, now: datetime) -> None:
        self._options, self._case, self._offsite, self._now = options, case, offsite, now
        self._record = PolicyRecord(Path(options.state_dir) / f"{case.listing.uuid}.json")
        doomed = case.plan.deleted if case.plan is not None else ()
        self._doomed = [b for b in doomed if "s3" in case.listing.ready[b.id, b.node]["copies"]]
        self.result = PruneResult(case, options.node, self._doomed)
        # A node locks its directories, never the bucket. What a person names is deleted all the same.
        self._bases = _bases(case.listing, options.ignored) if not options.ids else {}
        self.gone: list[dict[str, str]] = []
        # Ids of what was to be deleted, and is still there.
        self._left: set[str] = set()

    def run(self, *, check_mode: bool) -> PruneResult:
        """Do it, or in check mode tell what would be done; failures are in the result, not raised."""
        try:
            with internal_errors():
                self._prune(check_mode)
        except (VMForgeError, OSError) as error:
            failure = as_failure(error, "pruning")
            self.result.fail(failure, result="confirm" if failure.code == "confirm" else "failed")
        self.result.settle(check_mode=check_mode)
        return self.result

    def _prune(self, check_mode: bool) -> None:
        listing, plan, policy = self._case.listing, self._case.plan, self._case.policy
        begun: dict[str, set[str]] = {}
        for node, entry in listing.unfinished:
            if node is not None and entry["status"] == "deleting":
                begun.setdefault(str(entry["id"]), set()).update({node, str(entry["vm"]["node"])})
        for backup_id, nodes in begun.items():
            self._finish(backup_id, nodes, check_mode)
        if plan is None:
            return
        if check_mode:
            for backup in plan.deleted:
                if not self._must_wait(backup) and backup in self._doomed:
                    self.result.note(backup, "planned")
        try:
            if policy is not None:
                self._record.check(plan, policy, confirmed=self._options.confirm)
        except InputError as error:
            if not check_mode:
                raise
            self.result.ask(error)
        if check_mode:
            return
        for backup in plan.deleted:
            self._attempt(backup)
        if policy is not None:
            self._record.write(policy)

    def _finish(self, backup_id: str, nodes: Collection[str], check_mode: bool) -> None:
        """A node began to delete it, and must be told that its copy is gone."""
        place = self._offsite.backup(backup_id)
        is_other = place.is_of_another(nodes)
        if not is_other and backup_id in (self._case.listing.in_bucket or ()):
            self.result.cleared.append(f"unfinished deletion of {backup_id} in S3")
        if not check_mode:
            if not is_other:
                place.delete_all()
            self._confirm(backup_id, place)

    def _attempt(self, backup: Backup) -> None:
        place = self._offsite.backup(backup.id)
        if self._must_wait(backup):
            return
        try:
            if backup in self._doomed:
                delete_copy(place, backup, self._case.listing.ready[backup.id, backup.node]["sums"], now=self._now)
                self.result.note(backup, "deleted")
            if backup.id not in self._still_owned(backup):
                self._confirm(backup.id, place)
        except (VMForgeError, OSError) as error:
            failure = as_failure(error, "pruning")
            self._left.add(backup.id)
            self.result.note(backup, _WAITS.get(failure.code, "failed"), failure.message)

    def _must_wait(self, backup: Backup) -> bool:
        """Whether it is held back for another's sake; that is noted."""
        child = self._child_left(backup)
        if child is not None:
            why = f"{child} builds on it, and is still there."
        elif backup in self._doomed and self._bases.get(backup.node) == backup.id and backup.flaw is None:
            why = f"The next backup of {backup.node} may build on it, and may be under way."
        else:
            return False
        self._left.add(backup.id)
        if backup in self._doomed:
            self.result.note(backup, "waiting", why)
        return True

    def _child_left(self, backup: Backup) -> str | None:
        """One that builds on it and could not be restored any more: held back, or with a copy on a node alone."""
        ready = self._case.listing.ready
        is_local = "local" in ready[backup.id, backup.node]["copies"]
        for (child_id, _node), child in ready.items():
            is_child = child["parent"] is not None and child["parent"]["id"] == backup.id
            if is_child and (child_id in self._left or ("local" in child["copies"] and not is_local)):
                return child_id
        return None

    def _still_owned(self, backup: Backup) -> set[str]:
        """Ids of which the bucket has something that this plan does not delete."""
        listed = self._case.listing.in_bucket or set()
        return set() if backup in self._doomed else listed

    def _confirm(self, backup_id: str, place: OffsiteBackup) -> None:
        """Under every name of the server, for nodes may know it by another."""
        where = {"bucket": place.bucket, "prefix": place.prefix}
        for endpoint in place.store.config.endpoints:
            self.gone.append({"uuid": self._offsite.uuid, "id": backup_id, "endpoint": endpoint or "", **where})


def _bases(listing: VmListing, ignored: Collection[str]) -> dict[str, str]:
    """What the next backup of each node that is alive may build on: its newest one with a checkpoint."""
    newest: dict[str, str] = {}
    for backup_id, node in sorted(listing.ready):
        if listing.ready[backup_id, node].get("checkpoint") and node not in ignored:
            newest[node] = backup_id
    return newest


def delete_copy(place: OffsiteBackup, backup: Backup, sums: Collection[str], *, now: datetime) -> None:
    """Delete a backup in the bucket, from a machine that has nothing of it.

    Args:
        sums: Of its manifest, as it was listed.

    Raises:
        InputError: It is held, or another backup took its place after the listing.
        S3Error: It is locked, or something is still there.
    """
    _refuse_held(backup, place, now)
    if all(place.is_of_another({backup.node}, checksum) for checksum in sums):
        raise InputError(f"What lies in S3 as {backup.id} is not the backup that was listed.", code="changed")
    place.refuse_locked()
    place.delete_all()


def _refuse_held(backup: Backup, place: OffsiteBackup, now: datetime) -> None:
    """A hold that came after the listing. Keys that may only delete cannot see it."""
    try:
        hold = place.read_json(HOLD)
    except S3Error as error:
        if error.code != DENIED:
            raise
        return
    if hold is not None and not is_over(hold, now):
        raise InputError(f"Backup {backup.id} is held ({hold.get('reason') or 'no reason given'}).", code="held")


class Reaper:
    """Removes uploads that nobody will ever finish: objects without a manifest, and multipart uploads.

    Args:
        listings: Of all VMs and all nodes: what any of them knows of is never reaped, however old.
    """

    def __init__(self, store: S3Store, listings: Iterable[VmListing], *, now: datetime) -> None:
        self._store, self._now = store, now
        self._owned = {
            (vm.uuid, str(entry["id"]))
            for vm in listings
            for entry in (*vm.ready.values(), *(entry for node, entry in vm.unfinished if node is not None))
        }

    def reap(self, vm: VmListing, *, check_mode: bool) -> list[str]:
        """Reap one VM's; what was or would be removed, in words. Raises ``S3Error`` when something is still there."""
        offsite = OffsiteVm(self._store, vm.uuid)
        orphans = [str(e["id"]) for node, e in vm.unfinished if node is None and self._is_abandoned(vm, str(e["id"]))]
        done = []
        for backup_id in orphans:
            place = offsite.backup(backup_id)
            objects = self._store.list(place.prefix + "/")
            # One with a manifest that cannot be read here is whole, perhaps, for a newer version.
            if any(found.key == place.key(MANIFEST) for found in objects):
                continue
            if any(self._now - found.last_modified < _patience(vm) for found in objects):
                continue
            if check_mode or place.discard():
                done.append(f"unfinished upload of {backup_id} in S3")
        prefix = self._store.config.key(vm.uuid) + "/"
        old = [upload for upload in self._store.list_multiparts(prefix) if self._is_old(vm, prefix, upload)]
        if old and not check_mode:
            self._store.abort_uploads(prefix, old)
        return done + [f"abandoned multipart upload of {key[len(prefix) :]}" for key, _upload, _begun in old]

    def _is_abandoned(self, vm: VmListing, backup_id: str) -> bool:
        return (vm.uuid, backup_id) not in self._owned and self._now - parse_id(backup_id) > _patience(vm)

    def _is_old(self, vm: VmListing, prefix: str, upload: Unfinished) -> bool:
        key, _upload_id, begun = upload
        backup_id = key[len(prefix) :].split("/", 1)[0]
        if not is_id(backup_id):
            return False
        return self._now - begun > _patience(vm) and self._is_abandoned(vm, backup_id)


def _patience(vm: VmListing) -> timedelta:
    return ABANDONED if vm.listed_by else ABANDONED_BY_STRANGERS
