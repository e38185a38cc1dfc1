# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a new backup of one VM: plan, reserve an id, capture, commit; or leave nothing but a record of the failure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ansible_collections.vmforge.backup.plugins.module_utils._capture import Capture
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    S3Error,
    SourceChangedError,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import as_failures, write_json
from ansible_collections.vmforge.backup.plugins.module_utils._freeze import ThawWatchdog
from ansible_collections.vmforge.backup.plugins.module_utils._inspect import Inspection, inspect
from ansible_collections.vmforge.backup.plugins.module_utils._leftovers import discard, record_failure
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    MANIFEST,
    OFFSITE,
    PARTIAL,
    PROGRESS,
    VmDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_upload import finish_offsite
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._parent import ParentLostError, refuse_lost
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._pull import PullSource
from ansible_collections.vmforge.backup.plugins.module_utils._result import VmResult
from ansible_collections.vmforge.backup.plugins.module_utils._source import Since, Source
from ansible_collections.vmforge.backup.plugins.module_utils._stale_bitmaps import StaleBitmaps
from ansible_collections.vmforge.backup.plugins.module_utils._stopped import StoppedSource
from ansible_collections.vmforge.backup.plugins.module_utils._target import BackupTarget

_ATTEMPTS = 3


@dataclass
class NewBackup:
    """Makes one backup, with the VM's lock held.

    Attributes:
        damaged: Ids of backups whose local copy was just found to be damaged: nothing is built on those.
        phase: Where it is, for whoever reports a failure.
    """

    options: BackupOptions
    vm: VmRef
    domain: Domain
    directory: VmDirectory
    offsite: OffsiteVm | None
    watchdog: ThawWatchdog | None
    tool: Mapping[str, str]
    result: VmResult
    damaged: Collection[str] = ()
    phase: str = "planning"

    def make(self) -> None:
        """Make it; a source that changed under the reader is read again from the start.

        Raises:
            VMForgeError: No backup was made; nothing is left but ``<id>.failed.json``.
            S3Error: A local backup was made and its copy in S3 was not.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._attempt(again=attempt < _ATTEMPTS - 1)
                return
            except SourceChangedError as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                self.result.warnings.append(f"{error.message} What was read is discarded, and taken again.")

    def _attempt(self, *, again: bool) -> None:
        self.phase = "planning"
        inspection = inspect(self.domain, self.directory, self.options, self.offsite, damaged=self.damaged)
        self._bitmaps = StaleBitmaps(self.domain, self.directory, inspection.disks)
        self.result.warnings.extend(self._bitmaps.clear(inspection.images))
        unreachable, known = self._offsite_ids()
        backup_id, started = "", format_time(utc_now())
        try:
            with as_failures():
                backup_id = self.directory.reserve(known)
                target = self._target(backup_id, unreachable)
                manifest, data = self._capture(backup_id, inspection, target)
                self.phase = "committing"
                if manifest.parent is not None and inspection.parent is not None:
                    refuse_lost(inspection.parent, self.offsite)
                self._commit(backup_id, target, data)
                self.result.warnings.extend(self._bitmaps.clear(inspection.images))
        except VMForgeError as error:
            if backup_id:
                self._give_up(backup_id, error, started, again=again)
            raise
        self._finish(backup_id, target, manifest, data)

    def _target(self, backup_id: str, unreachable: S3Error | None) -> BackupTarget:
        place = self.offsite.backup(backup_id) if self.offsite is not None else None
        partial = self.directory.entry(backup_id, PARTIAL)
        target = BackupTarget(partial, keep_local=not self.options.delete_local, offsite=place)
        target.offsite_error = unreachable
        return target

    def _give_up(self, backup_id: str, error: VMForgeError, started: str, *, again: bool) -> None:
        """Undo what was done, and put on record why there is no backup.

        A manifest in the partial directory means that all is safe but the last step: the next run takes it.
        """
        if self.directory.entry(backup_id).exists():
            # A signal behind the rename: it is a backup.
            return
        message = error.message
        is_whole = (self.directory.entry(backup_id, PARTIAL) / MANIFEST).exists()
        if is_whole and not isinstance(error, ParentLostError):
            message += " All of it was read and is safe; the next run takes the last step."
        else:
            self._discard(backup_id)
            if again and isinstance(error, SourceChangedError):
                return
        failure = {"started": started, "phase": self.phase, "code": error.code, "message": message}
        try:
            record_failure(self.directory, self.vm, backup_id, **failure)
        except (StorageError, OSError) as lost:
            self.result.warn(f"The failure could not be put on record: {lost}")

    def _discard(self, backup_id: str) -> None:
        try:
            self.result.warnings.extend(self._bitmaps.drop(backup_id))
            self.result.warnings.extend(discard(self.directory, backup_id, self.offsite))
        except (VMForgeError, OSError) as error:
            self.result.warn(f"What {backup_id} had left could not be removed; the next run tries again: {error}")

    def _offsite_ids(self) -> tuple[S3Error | None, list[str]]:
        """Ids that S3 knows; an S3 that cannot be reached spoils only the copy there, if there is a local one."""
        if self.offsite is None:
            return None, []
        try:
            return None, self.offsite.ids() or []
        except S3Error as error:
            if self.options.delete_local:
                raise
            return error, []

    def _capture(self, backup_id: str, inspection: Inspection, target: BackupTarget) -> tuple[Manifest, bytes]:
        facts = {"id": backup_id, "vm": {"uuid": self.vm.uuid, "name": self.vm.name}, "node": self.vm.node}
        progress = Progress(target.directory / PROGRESS, facts)
        progress.write()
        if target.offsite is not None:
            # Before the manifest: a run that is killed behind it must not forget that a copy in S3 was demanded.
            self._note_offsite(target, completed=False)
        source = self._source(backup_id, inspection)
        capture = Capture(
            options=self.options,
            domain=self.domain,
            vm=self.vm,
            backup_id=backup_id,
            spec=inspection.spec,
            plan=inspection.plan,
            disks=inspection.disks,
            basis=inspection.basis,
            parent=inspection.parent,
            target=target,
            progress=progress,
            tool=self.tool,
        )
        try:
            return capture.run(source)
        finally:
            self.phase = progress.phase
            self.result.warnings.extend([*source.warnings, *capture.warnings])
            self.result.reasons = dict(capture.basis.reasons)
            self.result.bytes_read = progress.read + capture.compared

    def _source(self, backup_id: str, inspection: Inspection) -> Source:
        basis = inspection.basis
        since = Since(basis.parent.checkpoint, basis.changed) if basis.parent is not None else None
        if not inspection.running:
            return StoppedSource(
                self.domain, inspection.disks, inspection.paths, clients=self.options.readers + 4, since=since
            )
        return PullSource(
            domain=self.domain,
            backup_id=backup_id,
            disks=inspection.disks,
            left_out=inspection.left_out,
            scratch_dir=self.options.scratch_dir,
            scratch_max=self.options.scratch_max,
            watchdog=self.watchdog,
            require_quiesce=self.options.quiesce == "required",
            freeze_timeout=self.options.freeze_timeout,
            since=since,
            tracked=tuple(basis.tracked),
            files={target: image.file for target, image in inspection.images.items() if image.file is not None},
        )

    def _commit(self, backup_id: str, target: BackupTarget, data: bytes) -> None:
        """Make it a backup: by its manifest in S3 if it lies only there, then by the rename."""
        place = target.offsite
        if place is not None:
            if not target.keep_local:
                place.put_manifest(data)
            self._note_offsite(target, completed=not target.keep_local)
        (target.directory / PROGRESS).unlink()
        self.directory.commit(backup_id)

    def _note_offsite(self, target: BackupTarget, *, completed: bool) -> None:
        if target.offsite is not None:
            record = target.offsite.record(completed=completed, local_kept=target.keep_local)
            write_json(target.directory / OFFSITE, record)

    def _finish(self, backup_id: str, target: BackupTarget, manifest: Manifest, data: bytes) -> None:
        path, place = self.directory.entry(backup_id), target.offsite
        if place is None or not target.keep_local:
            self.result.describe("created", manifest, path=path, s3_key=place.prefix if place is not None else None)
            return
        self.result.describe("created", manifest, path=path, s3_key=None)
        self.phase = "uploading"
        if target.offsite_error is None:
            try:
                finish_offsite(place, path, data, local_kept=True)
            except S3Error as error:
                target.offsite_error = error
        if target.offsite_error is not None:
            raise _copy_missing(backup_id, path, target.offsite_error)
        self.result.describe("created", manifest, path=path, s3_key=place.prefix)


def _copy_missing(backup_id: str, path: object, error: S3Error) -> S3Error:
    return S3Error(
        f"Backup {backup_id} was made in {path}, but its copy in S3 was not: {error.message} "
        "The next run completes it before anything else.",
        code=error.code,
    )
