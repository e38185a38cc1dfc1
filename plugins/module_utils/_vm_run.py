# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One VM's turn: clear what a dead run left, complete what is missing, then make a new backup unless one is fresh."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    FormatError,
    S3Error,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._freeze import ThawWatchdog
from ansible_collections.vmforge.backup.plugins.module_utils._leftovers import Leftovers
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    MANIFEST,
    OFFSITE,
    BackupDirectory,
    VmDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest, decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, parse_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._new_backup import NewBackup
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm, is_pending, upload_backup
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._result import VmResult
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._source import RUN_DIRECTORY
from ansible_collections.vmforge.backup.plugins.module_utils._version import VERSION


class VmRun:
    """Backs up one VM, in a process of its own that has no thread and no connection yet.

    Args:
        options: Of the call.
        vm: Which; resolved already.
    """

    def __init__(self, options: BackupOptions, vm: VmRef) -> None:
        self._options, self._vm = options, vm
        # Before any thread, connection or lock of this process.
        self._watchdog: ThawWatchdog | None = None
        if options.quiesce != "never":
            self._watchdog = ThawWatchdog(options.uri, vm.uuid, deadline=options.freeze_timeout)
        self._directory: VmDirectory = BackupDirectory(options.backup_dir).vm(vm.uuid)
        self._phase = "starting"
        self._new: NewBackup | None = None
        self._result = VmResult(vm)
        self._began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            The VM's entry of the module's result; failures are in it, not raised.
        """
        try:
            self._locked_run()
        except VMForgeError as error:
            self._result.fail(error, phase=self._new.phase if self._new is not None else self._phase)
        finally:
            if self._watchdog is not None:
                self._watchdog.close()
        self._result.seconds = round(time.monotonic() - self._began, 1)
        return self._result.as_dict()

    def _locked_run(self) -> None:
        options = self._options
        hypervisor = Hypervisor(options.uri)
        hypervisor.check_backup_support()
        self._domain = Domain(hypervisor, self._vm.uuid, self._vm.name)
        self._tool = dict(hypervisor.versions(), collection=VERSION)
        self._offsite = OffsiteVm(S3Store(options.s3), self._vm.uuid) if options.s3 is not None else None
        RUN_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        # The second lock is the host's: it holds also where another run uses another backup_dir.
        with self._directory.lock(timeout=options.lock_timeout), VmDirectory(RUN_DIRECTORY / self._vm.uuid).lock():
            leftovers = Leftovers(self._vm, self._directory, self._offsite)
            leftovers.clear_host(self._domain, options.scratch_dir)
            leftovers.clear_storage()
            self._result.warnings.extend(leftovers.warnings)
            upload_error = self._complete_uploads()
            if not self._is_fresh():
                self._refuse_foreign_job()
                self._back_up()
            if upload_error is not None:
                raise upload_error

    def _complete_uploads(self) -> S3Error | None:
        """Upload what earlier runs could not, oldest first; a failure is told only after the new backup is safe."""
        if self._offsite is None:
            return None
        self._phase = "uploading"
        for backup_id in self._directory.ids():
            path = self._directory.entry(backup_id)
            manifest = self._own_manifest(backup_id)
            if manifest is None or not self._lacks_copy(backup_id, manifest):
                continue
            try:
                upload_backup(self._offsite.backup(backup_id), path, drop_local=self._options.delete_local)
            except S3Error as error:
                return S3Error(f"The copy of {backup_id} in S3 is still missing: {error.message}", code=error.code)
            self._result.describe("uploaded", manifest, path=path, s3_key=self._offsite.backup(backup_id).prefix)
        return None

    def _lacks_copy(self, backup_id: str, manifest: Manifest) -> bool:
        """Whether a copy was demanded when it was made, or is now of a backup that would count as fresh."""
        path = self._directory.entry(backup_id)
        return is_pending(path) or (self._young(manifest) and not (path / OFFSITE).exists())

    def _young(self, manifest: Manifest) -> bool:
        max_age = self._options.max_age
        return max_age is not None and utc_now() - parse_time(manifest.instant) <= max_age

    def _is_fresh(self) -> bool:
        for backup_id in reversed(self._directory.ids()):
            manifest = self._own_manifest(backup_id)
            if manifest is None or not self._young(manifest):
                continue
            if self._offsite is not None and self._lacks_copy(backup_id, manifest):
                continue
            self._result.found_fresh(manifest, self._directory.entry(backup_id))
            return True
        return False

    def _own_manifest(self, backup_id: str) -> Manifest | None:
        path = self._directory.entry(backup_id) / MANIFEST
        try:
            manifest = decode_manifest(path.read_bytes(), where=str(path))
        except FileNotFoundError:
            return None
        except FormatError as error:
            self._result.warn(error.message)
            return None
        return manifest if manifest.vm.node == self._vm.node else None

    def _refuse_foreign_job(self) -> None:
        socket = self._domain.backup_socket()
        if socket is not None:
            raise BusyError(
                f"Another program's backup job is running on {self._vm.name!r}. Wait for it, or end it with: "
                f"virsh domjobabort {self._vm.name}",
                code="foreign_job",
            )

    def _back_up(self) -> None:
        self._new = NewBackup(
            options=self._options,
            vm=self._vm,
            domain=self._domain,
            directory=self._directory,
            offsite=self._offsite,
            watchdog=self._watchdog,
            tool=self._tool,
            result=self._result,
        )
        self._new.make()
