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
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._copies import Copy, LocalCopy, OffsiteCopy
from ansible_collections.vmforge.backup.plugins.module_utils._define import (
    define_domain,
    find_domain,
    secret_xml,
)
from ansible_collections.vmforge.backup.plugins.module_utils._domain_sockets import (
    make_socket_directory,
    socket_directory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError
from ansible_collections.vmforge.backup.plugins.module_utils._files import remove_tree, storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._instant_fill import Filling
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
        record.phase, record.runtime = PULLING, Domain(self.hypervisor, record.uuid, record.name).runtime_id()
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
            filling = Filling(record, self.hypervisor, self.warnings)
            filling.attach()
            filling.pull(progress)
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
