# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_restore``: find the backup, plan, refuse what cannot be, and do it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._define import find_domain
from ansible_collections.vmforge.backup.plugins.module_utils._deps import need
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import parse_domain
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    FormatError,
    InputError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._find_backups import open_store
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import GoodParts
from ansible_collections.vmforge.backup.plugins.module_utils._instant import InstantRestore
from ansible_collections.vmforge.backup.plugins.module_utils._instant_record import (
    InstantRecord,
    find_record,
    of_record,
    read_record,
)
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._restore_check import refuse
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Host
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_plan import (
    RestorePlan,
    new_uuid,
    plan_restore,
)
from ansible_collections.vmforge.backup.plugins.module_utils._restore_run import DeadRun, RestoreRun, open_journal
from ansible_collections.vmforge.backup.plugins.module_utils._restore_source import find_source
from ansible_collections.vmforge.backup.plugins.module_utils._restore_xml import as_written
from ansible_collections.vmforge.backup.plugins.module_utils._signals import cancelled_by_signals
from ansible_collections.vmforge.backup.plugins.module_utils._source import RUN_DIRECTORY
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain

_DEFINITION = "domain.xml"


def restore_backup(request: Request) -> Outcome:
    """Restore one machine, or disks of it.

    Raises:
        VMForgeError: It was not restored; all is as it was.
    """
    options = RestoreOptions.from_params(request.params)
    need("libvirt")
    hypervisor = Hypervisor(options.uri)
    try:
        with open_store(options.s3) as store:
            chain, warnings = find_source(options, store)
            unfinished = find_record(options.state_dir, uuid=chain.head.manifest.vm.uuid, name=options.to)
            if unfinished is not None and options.instant:
                # It goes on with the backup that it was begun with.
                options = of_record(options, unfinished)
                chain, warnings = find_source(options, store)
            return _Restore(options, hypervisor, chain, warnings).outcome(request)
    finally:
        hypervisor.close()


class _Restore:
    """One request."""

    def __init__(
        self, options: RestoreOptions, hypervisor: Hypervisor, chain: StoredChain, warnings: list[str]
    ) -> None:
        self._options, self._hypervisor, self._chain, self._warnings = options, hypervisor, chain, warnings
        self._backup = chain.head
        manifest = self._backup.manifest
        self._uuid = manifest.vm.uuid
        if options.to is not None:
            self._uuid = new_uuid(manifest, options.node, options.to)
        self._state = options.state_dir / self._uuid
        self._began = time.monotonic()
        self._kept: list[str] = []

    def outcome(self, request: Request) -> Outcome:
        """Plan, and do it unless that is all that is wanted."""
        if request.check_mode:
            plan = self._plan()
            if plan is None:
                return self._present()
            return _done(plan, "planned", self._warnings, changed=True)
        with self._locks():
            self._undo_what_was_interrupted()
            instant = InstantRestore(self._chain, self._options, self._hypervisor, self._state)
            record = self._unfinished(instant)
            if record is not None and self._options.instant:
                return self._filled(instant, record, None)
            plan = self._plan()
            if plan is None:
                return self._present()
            with storage_errors(f"creating {self._state}"):
                self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._options.instant:
                with cancelled_by_signals():
                    started = instant.start(plan)
                return self._filled(instant, *started)
            run = RestoreRun(plan, self._options, self._hypervisor, self._state)
            with cancelled_by_signals():
                run.run()
            if record is not None:
                instant.drop(record)
                self._warnings += instant.warnings
        damages = [(member.manifest.id, damage) for member in self._chain.members for damage in member.damages]
        damages += run.maker.damages
        more = {
            "kept": [*self._kept, *run.maker.kept, *run.kept],
            "started": self._options.start,
            "sources": run.maker.sources,
            "damages": [{"id": backup_id, **damage.as_dict()} for backup_id, damage in damages],
            "seconds": round(time.monotonic() - self._began, 1),
        }
        told = [f"Passed over in {backup_id}: {damage}." for backup_id, damage in damages]
        return _done(plan, "restored", [*self._warnings, *run.warnings, *told], changed=True, **more)

    def _unfinished(self, instant: InstantRestore) -> InstantRecord | None:
        """An earlier restore whose disks are still being filled; what is only left of one is cleared away.

        Raises:
            InputError: It is in the way.
        """
        record = read_record(self._options.state_dir, self._uuid)
        if record is not None and not instant.is_under_way(record):
            instant.drop(record)
            return None
        if record is not None and self._options.to is not None and not self._options.instant:
            raise InputError(
                f"{record.name!r} runs already, but its disks are still being filled. Set instant: true to go on with "
                "that; or stop and undefine it, to begin anew.",
                code="incomplete",
            )
        return record

    def _filled(self, instant: InstantRestore, record: InstantRecord, run: RestoreRun | None) -> Outcome:
        """Fill the disks of a machine that runs."""
        with cancelled_by_signals():
            instant.finish(record)
        values = {
            "result": "restored",
            "mode": record.mode,
            "vm": {"uuid": record.uuid, "name": record.name},
            "source": self._source(),
            "id": self._chain.head.manifest.id,
            "instant": self._chain.head.manifest.instant,
            "chain": [member.manifest.id for member in self._chain.members],
            "disks": [disk.as_result(target) for target, disk in record.disks.items()],
            **_NOTHING,
            "kept": record.kept,
            "started": True,
            "sources": {target: disk.source for target, disk in record.disks.items()},
            "running_after": instant.running_after,
            "seconds": round(time.monotonic() - self._began, 1),
        }
        more = run.warnings if run is not None else []
        warnings = tuple(dict.fromkeys([*self._warnings, *more, *instant.warnings]))
        return Outcome(changed=True, values=values, warnings=warnings)

    def _source(self) -> dict[str, str]:
        vm = self._chain.head.manifest.vm
        return {"uuid": vm.uuid, "name": vm.name, "node": vm.node}

    def _plan(self) -> RestorePlan | None:
        """None where the new machine is there already, from this very backup."""
        if self._options.to is not None:
            domain = find_domain(self._hypervisor, self._uuid)
            if domain is not None and domain.name == self._options.to:
                return None
        definition = self._read_definition(self._backup.manifest)
        plan = plan_restore(self._chain, definition, self._options, self._look())
        refuse(plan, self._options, self._hypervisor)
        return plan

    def _read_definition(self, manifest: Manifest) -> str:
        record = next((record for record in manifest.files if record.name == _DEFINITION), None)
        if record is None:
            raise FormatError(f"Backup {manifest.id} of {manifest.vm.name!r} has no {_DEFINITION}.")
        with GoodParts(record, self._backup.copies) as good:
            data = b"".join(bytes(good.read(number)) for number in range(1, len(record.parts) + 1))
        return data.decode(errors="replace")

    def _look(self) -> Host:
        domain = find_domain(self._hypervisor, self._uuid)
        return Host(
            current=domain.xml(inactive=True) if domain is not None else None,
            running=domain is not None and domain.state().active,
            volumes=_volumes(domain) if domain is not None else {},
            exists=os.path.lexists,
            is_device=Path.is_block_device,
            now=format_id(utc_now()),
            state=self._state,
        )

    @contextmanager
    def _locks(self) -> Iterator[None]:
        """That of the machine; in place that of its backups too, so that none is made of half a machine."""
        options = self._options
        with storage_errors(f"creating {RUN_DIRECTORY}"):
            RUN_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        with ExitStack() as stack:
            directory = BackupDirectory(str(options.backup_dir)).vm(self._uuid)
            if options.to is None and directory.path.is_dir():
                stack.enter_context(directory.lock(timeout=options.lock_timeout))
            stack.enter_context(VmDirectory(RUN_DIRECTORY / self._uuid).lock(timeout=options.lock_timeout))
            yield

    def _undo_what_was_interrupted(self) -> None:
        if not self._state.is_dir():
            return
        dead = DeadRun(self._state, format_id(utc_now()))
        journal = open_journal(self._hypervisor, self._state, dead)
        if journal.load():
            domain = find_domain(self._hypervisor, self._uuid)
            if domain is not None and domain.state().active and not self._options.force:
                raise BusyError(
                    f"An earlier restore of {domain.name!r} was interrupted and has to be undone first, but it runs. "
                    "Stop it, or set force: true (with the playbook: vmforge_backup_restore_force).",
                    code="domain_running",
                )
            left = journal.undo()
            self._kept = dead.kept
            told = "".join(f" What its machine may have worked on is {path} now." for path in dead.kept)
            if left is not None:
                raise VMForgeError(
                    f"An earlier restore was interrupted, and what it did cannot be undone: {left}{told}",
                    code="not_undone",
                )
            told += "".join(
                f" The block device {path} was overwritten by it, wholly or in part." for path in dead.overwritten
            )
            self._warnings.append(f"An earlier restore that was interrupted was undone first.{told}")

    def _present(self) -> Outcome:
        manifest = self._backup.manifest
        values = {
            "result": "present",
            "mode": "new",
            "vm": {"uuid": self._uuid, "name": self._options.to},
            "source": self._source(),
            "id": manifest.id,
            "instant": manifest.instant,
            "chain": [member.manifest.id for member in self._chain.members],
            "disks": [],
            **_NOTHING,
        }
        return Outcome(changed=False, values=values, warnings=tuple(self._warnings))


_NOTHING: Mapping[str, Any] = {
    "kept": [],
    "started": False,
    "sources": {},
    "damages": [],
    "seconds": 0.0,
    "running_after": None,
}


def _volumes(domain: Domain) -> dict[str, str]:
    disks = parse_domain(domain.xml(inactive=True)).disks
    return {disk.target: domain.source_path(disk) for disk in disks if disk.type in ("file", "block", "volume")}


def _done(plan: RestorePlan, result: str, warnings: list[str], *, changed: bool, **more: Any) -> Outcome:
    values = {"result": result, **plan.as_result(), **_NOTHING, **more}
    diff = {
        "before": as_written(plan.before),
        "after": plan.after,
        "before_header": "definition in the backup" if plan.mode == "new" else "definition now",
        "after_header": f"definition of {plan.name}",
    }
    return Outcome(
        changed=changed, values=values, diff=diff, warnings=tuple(dict.fromkeys([*plan.warnings, *warnings]))
    )
