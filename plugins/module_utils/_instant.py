# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that runs at once: on overlays over its backup, which are filled while it runs.

Nothing is called done before the disks need nothing else and all that was read is proved. Whatever stops this process,
the machine runs on; the next call goes on where this one ended.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._copies import Copy, LocalCopy, OffsiteCopy
from ansible_collections.vmforge.backup.plugins.module_utils._define import (
    define_domain,
    destroy_domain,
    find_domain,
    secret_xml,
    start_domain,
)
from ansible_collections.vmforge.backup.plugins.module_utils._domain_sockets import (
    make_socket_directory,
    socket_directory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    CancelledError,
    HypervisorError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import remove_tree, storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._instant_domain import (
    begin_pull,
    pulled_bytes,
    reads_from,
)
from ansible_collections.vmforge.backup.plugins.module_utils._instant_hold import hold, release
from ansible_collections.vmforge.backup.plugins.module_utils._instant_proof import prove, seen
from ansible_collections.vmforge.backup.plugins.module_utils._instant_record import (
    PULLING,
    InstantDisk,
    InstantRecord,
    record_directory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._instant_serve import (
    IncompleteError,
    OverlayMaker,
    is_open,
    refuse_devices,
    serve,
)
from ansible_collections.vmforge.backup.plugins.module_utils._instant_xml import (
    error_policies,
    on_exports,
    on_its_own,
)
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import PROGRESS, BackupDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_plan import RestorePlan
from ansible_collections.vmforge.backup.plugins.module_utils._restore_run import RestoreRun
from ansible_collections.vmforge.backup.plugins.module_utils._services import Service, Services
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain
from ansible_collections.vmforge.backup.plugins.module_utils._stored_export import plan_helpers

_CLIENTS = 4
_POLL_SECONDS, _TELL_SECONDS, _RESUME_SECONDS = 0.2, 1.0, 5.0
# Without any progress: an S3 that is away is waited for about as long by what serves it.
_PATIENCE = 900.0


@dataclass
class InstantRestore:
    """One machine, with its locks held.

    Args:
        state: The directory of its restore's notes, for the progress.

    Attributes:
        warnings: What people should know.
        running_after: Seconds until the machine ran; None where it did so before.
    """

    chain: StoredChain
    options: RestoreOptions
    hypervisor: Hypervisor
    state: Path

    def __post_init__(self) -> None:
        self.warnings: list[str] = []
        self.running_after: float | None = None

    def start(self, plan: RestorePlan) -> tuple[InstantRecord, RestoreRun]:
        """Have the machine run.

        Raises:
            InputError: It cannot run on overlays.
            VMForgeError: It does not run; all is as it was.
        """
        began = time.monotonic()
        refuse_devices(plan)
        record = self._plan_record(plan)
        services = Services(record.directory)
        try:
            self.warnings += hold(record, self.chain, self.options)
            record.write()
            sockets = {target: disk.socket for target, disk in record.disks.items()}
            # What is put aside goes when all is whole, and not before.
            options = replace(self.options, start=True, keep_old=True)
            run = RestoreRun(
                replace(plan, after=on_exports(plan.after, sockets)),
                options,
                self.hypervisor,
                self.state,
                make=functools.partial(OverlayMaker, record, services),
            )
            run.run()
        except BaseException:
            with shielded():
                self.drop(record)
            raise
        kept = record.kept if self.options.keep_old else record.remove
        kept += run.kept
        record.phase = PULLING
        record.write()
        self.running_after = round(time.monotonic() - began, 1)
        return record, run

    def finish(self, record: InstantRecord) -> None:
        """Fill the disks, prove what they were filled from, and let go of the backup.

        Raises:
            IncompleteError: The machine's disks are not whole, and its helpers or itself have stopped.
            FormatError: What it was filled from is damaged.
        """
        facts = {"id": record.backup["id"], "vm": {"uuid": record.uuid, "name": record.name}, "node": self.options.node}
        with storage_errors(f"creating {self.state}"):
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        progress = Progress(self.state / PROGRESS, facts)
        try:
            self._attach(record)
            self._pull(record, progress)
            prove(record, self.chain, parallel=self.options.parallel, progress=progress)
        except CancelledError as error:
            raise IncompleteError(record.name, f"{error.message.rstrip('.')}, and it runs on") from error
        with shielded():
            domain = Domain(self.hypervisor, record.uuid, record.name)
            policies = {target: disk.policies for target, disk in record.disks.items()}
            define_domain(self.hypervisor, on_its_own(secret_xml(domain), policies), record.name)
            for text in record.remove:
                path = Path(text)
                if path.is_dir():
                    remove_tree(path)
                else:
                    path.unlink(missing_ok=True)
            self.drop(record)
            remove_tree(self.state)

    def drop(self, record: InstantRecord) -> None:
        """End what serves it, free the backup, and forget it."""
        services = Services(record.directory)
        for disk in record.disks.values():
            for service in reversed(disk.services):
                services.stop(service)
        directory = socket_directory(record.name)
        if directory.is_dir() and not os.listdir(directory):
            directory.rmdir()
        self.warnings += release(record, self._copies(record))
        record.discard()

    def _copies(self, record: InstantRecord) -> list[Copy]:
        """Of the backup that it was begun with, which need not be the one that is restored now."""
        uuid, backup_id = record.backup["uuid"], record.backup["id"]
        found: list[Copy] = [LocalCopy(BackupDirectory(str(self.options.backup_dir)).vm(uuid).entry(backup_id))]
        for copy in self.chain.head.copies:
            if isinstance(copy, OffsiteCopy):
                found.append(OffsiteCopy(OffsiteVm(copy.place.store, uuid).backup(backup_id)))
        return found

    def is_under_way(self, record: InstantRecord) -> bool:
        """Whether its machine runs, or ran, on overlays; otherwise it was killed before it came to that."""
        if find_domain(self.hypervisor, record.uuid) is None:
            return False
        if record.phase == PULLING:
            return all(disk.path.is_file() for disk in record.disks.values())
        return all(disk.path.is_file() and is_open(disk) for disk in record.disks.values())

    def _plan_record(self, plan: RestorePlan) -> InstantRecord:
        head = self.chain.head
        directory = record_directory(self.options.state_dir, plan.uuid)
        remove_tree(directory)
        backup = {"id": head.manifest.id, "sha256": head.sha256, "uuid": head.manifest.vm.uuid}
        record = InstantRecord(directory, plan.uuid, plan.name, backup, plan.mode)
        policies = error_policies(plan.after, {image.disk.target: image for image in plan.images})
        place = make_socket_directory(plan.name)
        for image in plan.images:
            target = image.disk.target
            private = directory / target
            with storage_errors(f"creating {private}"):
                private.mkdir(mode=0o700, parents=True)
            helpers = plan_helpers(
                image.layers,
                directory=private,
                socket=place / f"{plan.uuid[:8]}-{target}",
                clients=_CLIENTS,
                s3=self.options.s3,
            )
            services = [
                Service(
                    f"vmforge-instant-{plan.uuid}-{target}-{number}",
                    helper.argv,
                    helper.socket,
                    private / f"{number}.log",
                    # QEMU cannot connect to a disk's server a second time.
                    revived=number < len(helpers) - 1,
                )
                for number, helper in enumerate(helpers)
            ]
            sources = tuple(seen(layer) for layer in image.layers)
            record.disks[target] = InstantDisk(
                image.path, image.disk.virtual_size, tuple(services), sources, policies.get(target, {}), image.kept
            )
        return record

    def _attach(self, record: InstantRecord) -> None:
        """Have all run that is needed, after whatever has happened."""
        open_disks = [disk for disk in record.disks.values() if is_open(disk)]
        if not open_disks:
            return
        make_socket_directory(record.name)
        services, cut_off = Services(record.directory), False
        for disk in open_disks:
            for number, service in enumerate(disk.services):
                if not services.running(service):
                    cut_off = cut_off or service == disk.services[-1]
                    serve(services, disk, number)
        domain = Domain(self.hypervisor, record.uuid, record.name)
        if cut_off and domain.state().active:
            self.warnings.append(f"{record.name!r} was cut off from the backup, and had to be started anew.")
            destroy_domain(self.hypervisor, record.uuid, record.name)
        if not domain.state().active:
            # One that stopped just when a disk was whole may still be defined with what was under it.
            whole = {target: disk.policies for target, disk in record.disks.items() if disk not in open_disks}
            define_domain(self.hypervisor, on_its_own(secret_xml(domain), whole), record.name)
            start_domain(self.hypervisor, record.uuid, record.name)

    def _pull(self, record: InstantRecord, progress: Progress) -> None:
        domain = Domain(self.hypervisor, record.uuid, record.name)
        left = {target: disk for target, disk in record.disks.items() if is_open(disk)}
        progress.enter("pulling", total=sum(disk.size for disk in left.values()))
        at: dict[str, int] = dict.fromkeys(left, 0)
        why, told, resumed, moved = "its disks were not filled", 0.0, 0.0, time.monotonic()
        while left:
            now = time.monotonic()
            if self._look_after(domain, record, left) and now - resumed > _RESUME_SECONDS:
                resumed = now
                domain.resume()
            for target, disk in list(left.items()):
                try:
                    position = pulled_bytes(domain, target)
                    if position is None and is_open(disk):
                        begin_pull(domain, target)
                    elif position is None and not reads_from(domain, disk.socket):
                        del left[target]
                        position = disk.size
                except HypervisorError as error:
                    # The job is ending just now, or the machine is; the next turn knows.
                    why, position = error.message.rstrip("."), None
                if position is not None and position > at[target]:
                    progress.advance(position - at[target])
                    at[target], moved = position, now
            if now - moved > _PATIENCE:
                raise IncompleteError(record.name, f"nothing has moved for {_PATIENCE:.0f} seconds ({why})")
            if now - told > _TELL_SECONDS:
                told = now
                progress.write()
            time.sleep(_POLL_SECONDS if left else 0)

    def _look_after(self, domain: Domain, record: InstantRecord, left: Mapping[str, InstantDisk]) -> bool:
        """Keep its helpers alive; whether the machine waits for a disk."""
        if find_domain(self.hypervisor, record.uuid) is None:
            raise IncompleteError(record.name, "it is not defined any more")
        state = domain.state()
        if not state.active:
            raise IncompleteError(record.name, "it was stopped before all of its disks were there")
        services = Services(record.directory)
        for disk in left.values():
            for number, service in enumerate(disk.services):
                if services.running(service):
                    continue
                if not service.revived:
                    raise IncompleteError(record.name, f"what serves its disk {disk.path} has died")
                serve(services, disk, number)
        return state.io_error
