# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One VM's turn: clear what a dead run left, complete what is missing, then make a new backup unless one is fresh."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    S3Error,
    VMForgeError,
    internal_errors,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import as_failures, storage_error
from ansible_collections.vmforge.backup.plugins.module_utils._freeze import ThawWatchdog
from ansible_collections.vmforge.backup.plugins.module_utils._inspect import inspect
from ansible_collections.vmforge.backup.plugins.module_utils._leftovers import Leftovers
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._new_backup import NewBackup
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm, is_passing
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_upload import upload_backup
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._result import VmResult
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._signals import ignore_signals
from ansible_collections.vmforge.backup.plugins.module_utils._source import RUN_DIRECTORY
from ansible_collections.vmforge.backup.plugins.module_utils._turn import Turn, plan_turn
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
        self._damaged: set[str] = set()
        self._result = VmResult(vm)
        self._began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            The VM's entry of the module's result; failures are in it, not raised.
        """
        try:
            with as_failures():
                self._locked_run()
                # What was done is to be told.
                ignore_signals()
        except VMForgeError as error:
            ignore_signals()
            self._result.fail(error, phase=self._new.phase if self._new is not None else self._phase)
        finally:
            if self._watchdog is not None and not self._watchdog.close():
                self._result.warn(
                    f"The agent of {self._vm.name!r} does not answer, so it is not certain that its file systems are "
                    f"thawed. Look at the guest; if it hangs: virsh domfsthaw {self._vm.uuid}"
                )
        self._result.seconds = round(time.monotonic() - self._began, 1)
        return self._result.as_dict()

    def _locked_run(self) -> None:
        options = self._options
        hypervisor = Hypervisor(options.uri)
        hypervisor.check_backup_support()
        self._domain = Domain(hypervisor, self._vm.uuid, self._vm.name)
        self._tool = dict(hypervisor.versions(), collection=VERSION)
        self._offsite = OffsiteVm(S3Store(options.s3), self._vm.uuid) if options.s3 is not None else None
        if not self._directory.path.exists():
            # The first backup of a VM: what cannot be backed up leaves no directory either.
            inspect(self._domain, self._directory, options)
        RUN_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        # The second lock is the host's: it holds also where another run uses another backup_dir.
        with (
            self._directory.lock(timeout=options.lock_timeout),
            VmDirectory(RUN_DIRECTORY / self._vm.uuid).lock(timeout=options.lock_timeout),
        ):
            leftovers = Leftovers(self._vm, self._directory, self._offsite)
            leftovers.clear_host(self._domain, options.scratch_dir)
            leftovers.clear_storage()
            self._result.warnings.extend(leftovers.warnings)
            turn = plan_turn(self._directory, options, now=utc_now())
            self._result.warnings.extend(turn.warnings)
            upload_error = self._complete_uploads(turn)
            if turn.fresh is not None:
                self._result.found_fresh(turn.fresh, self._directory.entry(turn.fresh.id))
            else:
                self._refuse_foreign_job()
                self._back_up()
            if upload_error is not None:
                raise upload_error

    def _complete_uploads(self, turn: Turn) -> VMForgeError | None:
        """Upload what earlier runs could not; a failure is told only after the new backup is safe."""
        if self._offsite is None:
            return None
        self._phase = "uploading"
        first: VMForgeError | None = None
        for manifest in turn.uploads:
            place, path = self._offsite.backup(manifest.id), self._directory.entry(manifest.id)
            try:
                with internal_errors():
                    upload_backup(place, path, drop_local=self._options.delete_local)
            except (VMForgeError, OSError) as error:
                failure = error if isinstance(error, VMForgeError) else storage_error(f"uploading {path}", error)
                text = f"The copy of {manifest.id} in S3 is still missing: {failure.message}"
                first = first or S3Error(text, code=failure.code)
                if failure.code == "local_damaged":
                    self._damaged.add(manifest.id)
                if is_passing(failure):
                    # S3 is away: the others would fail alike, after long waits.
                    break
                continue
            self._result.describe("uploaded", manifest, path=path, s3_key=place.prefix)
        return first

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
            damaged=self._damaged,
        )
        self._new.make()
