# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup``: resolve the VMs, then give each its turn in a process of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._compress import make_compressor
from ansible_collections.vmforge.backup.plugins.module_utils._deps import need
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._files import as_failures
from ansible_collections.vmforge.backup.plugins.module_utils._find_backups import open_store
from ansible_collections.vmforge.backup.plugins.module_utils._inspect import inspect
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm, check_access
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._processes import run_each
from ansible_collections.vmforge.backup.plugins.module_utils._programs import need_program, run_program
from ansible_collections.vmforge.backup.plugins.module_utils._remove import remove_backup
from ansible_collections.vmforge.backup.plugins.module_utils._result import VmResult
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._turn import plan_turn
from ansible_collections.vmforge.backup.plugins.module_utils._vm_run import VmRun

_IONICE_SECONDS = 10
_IONICE_CLASSES = {"idle": ["-c", "3"], "best-effort": ["-c", "2", "-n", "7"]}


def manage_backups(request: Request) -> Outcome:
    """Make a backup of each VM, or delete one.

    Raises:
        VMForgeError: The request itself cannot be carried out; nothing was touched.
    """
    if request.params["state"] == "absent":
        return remove_backup(request)
    options = BackupOptions.from_params(request.params)
    _check_libraries(options)
    BackupDirectory(options.backup_dir).check(touch=not request.check_mode)
    if options.s3 is not None:
        with closing(S3Store(options.s3)) as store:
            check_access(store, must_answer=options.delete_local)
    refs = _resolve(options)
    if request.check_mode:
        return _outcome([_plan(options, ref) for ref in refs])
    _be_nice(options)
    results = run_each(
        [functools.partial(_back_up, options, ref) for ref in refs],
        parallel=options.parallel,
        died=lambda index, reason: _died(refs[index], reason),
    )
    return _outcome(results)


def _back_up(options: BackupOptions, ref: VmRef) -> dict[str, Any]:
    return VmRun(options, ref).run()


def _check_libraries(options: BackupOptions) -> None:
    need(
        "libvirt", "nbd", *(["zstandard"] if options.compression == "zstd" else []), *(["boto3"] if options.s3 else [])
    )
    make_compressor(options.compression, options.level)


def _resolve(options: BackupOptions) -> list[VmRef]:
    """Look every VM up before any is touched. The connection is closed again: processes are forked after this."""
    hypervisor = Hypervisor(options.uri)
    try:
        hypervisor.check_backup_support()
        found = [hypervisor.find(name) for name in options.vms] if options.vms else hypervisor.domains()
        unique = {domain.uuid: domain for domain in found}
        return [VmRef(uuid=uuid, name=domain.name, node=options.node) for uuid, domain in unique.items()]
    finally:
        hypervisor.close()


def _plan(options: BackupOptions, ref: VmRef) -> dict[str, Any]:
    result = VmResult(ref)
    try:
        with as_failures("planning the backup"):
            _plan_turn(options, ref, result)
    except VMForgeError as error:
        result.fail(error, phase="planning")
    return result.as_dict()


def _plan_turn(options: BackupOptions, ref: VmRef, result: VmResult) -> None:
    domain = Hypervisor(options.uri).find(ref.uuid)
    directory = BackupDirectory(options.backup_dir).vm(ref.uuid)
    turn = plan_turn(directory, options, now=utc_now())
    result.warnings.extend(turn.warnings)
    uploads = [manifest.id for manifest in turn.uploads]
    if turn.fresh is not None and not uploads:
        result.found_fresh(turn.fresh, directory.entry(turn.fresh.id))
        return
    plan = None
    if turn.fresh is None:
        with open_store(options.s3) as store:
            offsite = OffsiteVm(store, ref.uuid) if store is not None else None
            plan = inspect(domain, directory, options, offsite).plan
    result.plan(uploads, plan)


def _be_nice(options: BackupOptions) -> None:
    """Let guests go first. Children inherit both."""
    os.nice(max(0, options.nice - os.nice(0)))
    if options.ionice in _IONICE_CLASSES:
        ionice = need_program("ionice", debian="util-linux", redhat="util-linux-core")
        done = run_program([ionice, *_IONICE_CLASSES[options.ionice], "-p", str(os.getpid())], timeout=_IONICE_SECONDS)
        if done.status:
            raise InputError(
                f"The I/O priority cannot be lowered: {done.errors.strip()}. Set ionice: none to go without."
            )


def _died(ref: VmRef, reason: str) -> dict[str, Any]:
    result = VmResult(ref)
    result.fail(VMForgeError(f"The backup of {ref.name!r} did not end: {reason}.", code="died"), phase="unknown")
    return result.as_dict()


def _outcome(results: list[dict[str, Any]]) -> Outcome:
    failed = [entry for entry in results if entry["error"] is not None]
    done = {"created", "uploaded", "planned"}
    # A backup whose offsite copy failed has an id: the local one was made.
    changed = any(
        entry["result"] in done or entry["id"] is not None and entry["result"] == "failed" for entry in results
    )
    failure = None
    if failed:
        failure = "; ".join(f"{entry['vm']['name']}: {entry['error']['message']}" for entry in failed)
    warnings = tuple(f"{entry['vm']['name']}: {text}" for entry in results for text in entry["warnings"])
    return Outcome(changed, {"backups": results}, diff=_diff(results), warnings=warnings, failure=failure)


def _diff(results: list[dict[str, Any]]) -> Mapping[str, Any]:
    """One line for every backup that is, or would be, there afterwards."""
    lines = []
    for entry in results:
        if entry["plan"] is not None:
            lines += [f"{entry['vm']['name']}: upload of backup {i} to S3\n" for i in entry["plan"]["uploads"]]
        if entry["plan"] is not None and entry["plan"]["disks"]:
            where = ", ".join(entry["plan"]["destinations"])
            size = entry["plan"]["estimated_stored_bytes"]
            lines.append(f"{entry['vm']['name']}: {entry['type']} backup, about {size} bytes, to {where}\n")
        elif entry["result"] in ("created", "uploaded"):
            lines.append(
                f"{entry['vm']['name']}: {entry['type']} backup {entry['id']} in {', '.join(entry['copies'])}\n"
            )
    return {"before": "", "after": "".join(lines)}
