# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup`` with ``state: absent``: delete one backup of one VM."""

from __future__ import annotations

from contextlib import closing, nullcontext
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._delete import (
    begin_deletion,
    find_backup,
    finish_deletion,
    refuse_deletion,
)
from ansible_collections.vmforge.backup.plugins.module_utils._deps import need
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, NotFoundError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import DELETING, BackupDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, canonical_uuid, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions, checked_id
from ansible_collections.vmforge.backup.plugins.module_utils._result import VmResult
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store


def remove_backup(request: Request) -> Outcome:
    """Delete a backup here and in S3, or say why it must stay.

    Raises:
        InputError: It must not be deleted; nothing was touched.
        S3Error: It was begun and could not be confirmed; the next run finishes it.
    """
    options = BackupOptions.from_params(dict(request.params, max_age=None))
    if len(options.vms) != 1:
        raise InputError("state: absent takes exactly one VM.")
    checked_id(request.params["id"])
    if options.s3 is not None:
        need("boto3")
    BackupDirectory(options.backup_dir).check(touch=not request.check_mode)
    vm = _find(options)
    if options.s3 is None:
        return _remove(request, options, vm, None)
    with closing(S3Store(options.s3)) as store:
        return _remove(request, options, vm, OffsiteVm(store, vm.uuid))


def _remove(request: Request, options: BackupOptions, vm: VmRef, offsite: OffsiteVm | None) -> Outcome:
    backup_id = checked_id(request.params["id"])
    directory = BackupDirectory(options.backup_dir).vm(vm.uuid)
    result = VmResult(vm)
    known = directory.path.is_dir() or find_backup(directory, offsite, backup_id) is not None
    # Neither a plan nor a mistyped UUID makes the directory that a lock needs.
    lock = directory.lock(timeout=options.lock_timeout) if known and not request.check_mode else nullcontext()
    with lock:
        manifest = find_backup(directory, offsite, backup_id)
        begun = directory.entry(backup_id, DELETING).is_dir()
        if manifest is None and not begun:
            result.settle("absent")
            return _outcome(result, changed=False)
        if manifest is not None:
            refuse_deletion(directory, offsite, manifest, vm=vm, now=utc_now())
        result.settle("deleted")
        if not request.check_mode:
            if manifest is not None:
                begin_deletion(directory, backup_id, offsite)
            finish_deletion(directory, backup_id, offsite, node=vm.node)
    return _outcome(result, changed=True, before=f"{vm.name}: backup {backup_id}\n")


def _find(options: BackupOptions) -> VmRef:
    """By UUID even when the domain is gone: its backups outlive it."""
    wanted = options.vms[0]
    try:
        domain = Hypervisor(options.uri).find(wanted)
        return VmRef(uuid=domain.uuid, name=domain.name, node=options.node)
    except NotFoundError:
        uuid = canonical_uuid(wanted)
        if uuid is None:
            raise
        return VmRef(uuid=uuid, name=wanted, node=options.node)


def _outcome(result: VmResult, *, changed: bool, before: str = "") -> Outcome:
    values: dict[str, Any] = {"backups": [result.as_dict()]}
    return Outcome(changed, values, diff={"before": before, "after": ""})
