# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that died has left: finished where only the last step was missing, removed otherwise.

Called with the VM's lock held, so that whatever is found belongs to nobody any more.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._delete import finish_deletion
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    S3Error,
    VMForgeError,
    internal_errors,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    read_json,
    read_note,
    remove_tree,
    write_json,
)
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    DELETING,
    FAILED,
    MANIFEST,
    OFFSITE,
    PARTIAL,
    PROGRESS,
    VmDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest, decode_manifest, manifest_sha256
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_upload import drop_disks
from ansible_collections.vmforge.backup.plugins.module_utils._pull import end_job
from ansible_collections.vmforge.backup.plugins.module_utils._source import DISK_SOCKETS, PARENT_SOCKETS, RUN_DIRECTORY
from ansible_collections.vmforge.backup.plugins.module_utils._stale_bitmaps import StaleBitmaps


class Leftovers:
    """Clears one VM.

    Args:
        offsite: The VM's place in S3, or None when this run has no S3.
    """

    def __init__(self, vm: VmRef, directory: VmDirectory, offsite: OffsiteVm | None) -> None:
        self._vm, self._directory, self._offsite = vm, directory, offsite
        self.warnings: list[str] = []
        self._domain: Domain | None = None

    def clear_host(self, domain: Domain, scratch_dir: str) -> None:
        """End a dead run's libvirt job, scratch files and ``qemu-nbd`` processes."""
        self._domain = domain
        end_job(domain, scratch_dir, resume=True)
        for name in (DISK_SOCKETS, PARENT_SOCKETS):
            sockets = RUN_DIRECTORY / self._vm.uuid / name
            if sockets.exists():
                for pid in _servers_of(sockets):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                remove_tree(sockets)

    def clear_storage(self) -> None:
        """Finish or discard partial backups, finish deletions, drop local disks whose drop was interrupted."""
        for backup_id in self._directory.ids(DELETING):
            self._attempt(f"finish the deletion of {backup_id}", partial(self._finish_deletion, backup_id))
        for backup_id in self._directory.ids(PARTIAL):
            self._attempt(f"clear the unfinished {backup_id}", partial(self._clear_partial, backup_id))
        for backup_id in self._directory.ids():
            self._attempt(f"drop the local disks of {backup_id}", partial(self._finish_drop, backup_id))

    def _attempt(self, what: str, work: Callable[[], None]) -> None:
        """What cannot be cleared now is told, and never keeps a new backup from being made."""
        try:
            with internal_errors():
                work()
        except (VMForgeError, OSError) as error:
            self.warnings.append(f"It was not possible to {what}; the next run tries again: {error}")

    def _finish_deletion(self, backup_id: str) -> None:
        finish_deletion(self._directory, backup_id, self._offsite, node=self._vm.node)

    def _clear_partial(self, backup_id: str) -> None:
        path = self._directory.entry(backup_id, PARTIAL)
        state = read_note(path / PROGRESS)
        if state.get("node", self._vm.node) != self._vm.node:
            # Another node's, on shared storage: it is that node's to clear.
            return
        try:
            data = (path / MANIFEST).read_bytes()
            manifest = decode_manifest(data, where=str(path / MANIFEST))
        except (FileNotFoundError, FormatError):
            self._discard(backup_id, state)
            return
        if manifest.vm.node == self._vm.node:
            self._finish(backup_id, manifest, data)

    def _finish(self, backup_id: str, manifest: Manifest, data: bytes) -> None:
        """All data were safe when the manifest was written; only the last step is missing."""
        path = self._directory.entry(backup_id, PARTIAL)
        if manifest.parent is not None and not self._is_here(manifest.parent):
            gone = manifest.parent["id"]
            message = f"It was complete but for its last step, and backup {gone}, which it builds on, is gone."
            self._discard(backup_id, read_note(path / PROGRESS), code="parent_gone", message=message)
            return
        if not all((path / disk.file).exists() for disk in manifest.disks):
            if self._offsite is None:
                self.warnings.append(f"{path} waits for a run with S3 to be finished there.")
                return
            place = self._offsite.backup(backup_id)
            place.refuse_incomplete(manifest)
            place.put_manifest(data)
            write_json(path / OFFSITE, place.record(completed=True, local_kept=False))
        (path / PROGRESS).unlink(missing_ok=True)
        self._directory.commit(backup_id)
        # Of the run that could not take this last step.
        self._directory.entry(backup_id, FAILED).unlink(missing_ok=True)

    def _is_here(self, parent: Mapping[str, Any]) -> bool:
        """The manifest of a backup of this node always lies here; one whose disks do not must lie in S3 as well."""
        path = self._directory.entry(parent["id"])
        try:
            data = (path / MANIFEST).read_bytes()
        except FileNotFoundError:
            return False
        if manifest_sha256(data) != str(parent["manifest_sha256"]):
            return False
        manifest = decode_manifest(data, where=str(path / MANIFEST))
        if self._offsite is None or all((path / disk.file).exists() for disk in manifest.disks):
            return True
        return self._offsite.backup(manifest.id).complete()

    def _discard(
        self,
        backup_id: str,
        state: dict[str, Any],
        *,
        code: str = "interrupted",
        message: str = "The run ended without finishing: its process was killed, or the host went down. What it had "
        "written was removed by the next run.",
    ) -> None:
        if self._domain is not None:
            # Before what tells of it goes.
            disks = [disk for disk in self._domain.spec().disks if disk.excluded is None]
            self.warnings.extend(StaleBitmaps(self._domain, self._directory, disks).drop(backup_id))
        # First the room that it takes, then the record: the disk may be full.
        self.warnings.extend(discard(self._directory, backup_id, self._offsite))
        if not self._directory.entry(backup_id, FAILED).exists():
            record_failure(
                self._directory,
                self._vm,
                backup_id,
                started=state.get("started"),
                phase=str(state.get("phase", "unknown")),
                code=code,
                message=message,
            )

    def _finish_drop(self, backup_id: str) -> None:
        path = self._directory.entry(backup_id)
        try:
            offsite = read_json(path / OFFSITE)
        except FileNotFoundError:
            return
        if offsite.get("local") == "dropped" and offsite.get("completed_at"):
            drop_disks(path)


def discard(directory: VmDirectory, backup_id: str, offsite: OffsiteVm | None) -> list[str]:
    """Remove a partial backup, in S3 first. Returns what could not be removed there.

    While S3 cannot be reached, or when this run's S3 options do not lead to where it was begun, a directory with
    nothing but notes stays for the next run; where the keys may not clear up, what they left is reaped by age.
    """
    path = directory.entry(backup_id, PARTIAL)
    place = offsite.backup(backup_id) if offsite is not None else None
    # Where in S3 it was begun; empty when nowhere, or when the note was not written whole.
    noted = read_note(path / OFFSITE)
    where = f"bucket {noted.get('bucket')!r} at {noted.get('prefix')!r} ({noted.get('endpoint') or 'AWS'})"
    if noted and (place is None or not place.is_place_of(noted)):
        _keep_notes(path)
        text = f"The unfinished {backup_id} may have left data in {where}, where this run's S3 options do not lead."
        return [f"{text} A run with the options of that place removes them; if it is gone for good, remove {path}."]
    told = []
    try:
        if place is not None:
            place.discard()
    except S3Error as error:
        if error.code != "s3_denied":
            _keep_notes(path)
            return [f"What {backup_id} had left in S3 could not be removed now; the next run will: {error}"]
        told.append(f"What {backup_id} had left in S3 could not be removed by these keys; prune will: {error}")
    remove_tree(path)
    return told


def _keep_notes(path: Path) -> None:
    """Give back the room of a partial backup; what tells the next run of it stays."""
    for file in path.iterdir():
        if file.name not in (PROGRESS, OFFSITE):
            file.unlink()


def record_failure(
    directory: VmDirectory, vm: VmRef, backup_id: str, *, started: str | None, phase: str, code: str, message: str
) -> None:
    """Write ``<id>.failed.json``, for whoever asks why there is no backup."""
    write_json(
        directory.entry(backup_id, FAILED),
        {
            "schema": 1,
            "id": backup_id,
            "vm": {"uuid": vm.uuid, "name": vm.name},
            "node": vm.node,
            "started": started,
            "failed": format_time(utc_now()),
            "phase": phase,
            "code": code,
            "message": message,
        },
    )


def _servers_of(sockets: Path) -> list[int]:
    """Process ids of every ``qemu-nbd`` that was started with a socket in this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            # It ended meanwhile.
            continue
        ours = any(word.startswith(bytes(sockets) + b"/") for word in words)
        if ours and words[0].endswith(b"qemu-nbd"):
            found.append(int(entry.name))
    return found
