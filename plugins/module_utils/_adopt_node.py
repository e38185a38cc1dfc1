# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_adopt``: the rows of the pack whose images one node can reach."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._adopt import PackRow, read_row
from ansible_collections.vmforge.backup.plugins.module_utils._adopt_vm import Surroundings, VmAdoption
from ansible_collections.vmforge.backup.plugins.module_utils._deps import need
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, NotFoundError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._files import as_failure
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import DEFAULT_URI, Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._options import DEFAULT_BACKUP_DIR
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._signals import cancelled_by_signals
from ansible_collections.vmforge.backup.plugins.module_utils._version import VERSION

ADOPT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "rows": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "row": {"type": "int", "required": True},
            "vm_uuid": {"type": "str", "required": True},
            "vm_name": {"type": "str"},
            "instant": {"type": "str", "required": True},
            "checksum_sha256": {"type": "str"},
            "path": {"type": "str"},
            # "s3_key" is an object's name here, nothing secret.
            "s3_key": {"type": "str", "no_log": False},
            "created_at": {"type": "str"},
            "ambiguous": {"type": "bool"},
            "size_bytes": {"type": "int"},
        },
    },
    "source_dirs": {"type": "list", "elements": "path", "default": []},
    "uri": {"type": "str", "default": DEFAULT_URI},
    "node": {"type": "str"},
    "backup_dir": {"type": "path", "default": DEFAULT_BACKUP_DIR},
    "offsite": {"type": "str", "choices": ["none", "s3"], "default": "none"},
    "lock_timeout": {"type": "int", "default": 0},
    **S3_ARGUMENTS,
}


def adopt_rows(request: Request) -> Outcome:
    """Adopt what lies here or in the bucket; what does not is told as missing, and left alone.

    Raises:
        InputError: An option is malformed.
        StorageError: The backup directory is not there.
        HypervisorError: libvirt cannot be asked, so that definitions would be left out in silence.
    """
    params = request.params
    rows = [read_row(value) for value in params["rows"]]
    if len({row.row for row in rows}) != len(rows):
        raise InputError("rows names a row twice.")
    config = S3Config.from_params(params) if params["offsite"] == "s3" else None
    BackupDirectory(params["backup_dir"]).check(touch=not request.check_mode)
    hypervisor = Hypervisor(params["uri"]) if params["uri"] else None
    versions = hypervisor.versions() if hypervisor is not None else {}
    around = Surroundings(
        source_dirs=params["source_dirs"] or [params["backup_dir"]], tool=dict(versions, collection=VERSION)
    )
    with cancelled_by_signals():
        if config is None:
            return _outcome(*_Run(request, hypervisor, None, around).adopt(rows))
        need("boto3")
        with closing(S3Store(config)) as store:
            return _outcome(*_Run(request, hypervisor, store, around).adopt(rows))


class _Run:
    """One call."""

    def __init__(
        self, request: Request, hypervisor: Hypervisor | None, store: S3Store | None, around: Surroundings
    ) -> None:
        self._params, self._check_mode = request.params, request.check_mode
        self._hypervisor, self._store, self._around = hypervisor, store, around
        self._results: list[dict[str, Any]] = []
        self._warnings: list[str] = []

    def adopt(self, rows: Iterable[PackRow]) -> tuple[list[dict[str, Any]], list[str]]:
        """Adopt VM by VM; the rows' results and warnings."""
        by_vm: dict[str, list[PackRow]] = {}
        for row in sorted(rows, key=lambda row: (row.instant, row.row)):
            by_vm.setdefault(row.uuid or "", []).append(row)
        for uuid, mine in by_vm.items():
            self._adopt_vm(uuid, mine)
        return self._results, self._warnings

    def _adopt_vm(self, uuid: str, rows: list[PackRow]) -> None:
        domain = self._domain(uuid)
        name = domain.name if domain is not None else rows[0].name
        vm = VmRef(uuid, name, self._params["node"] or socket.gethostname())
        directory = BackupDirectory(self._params["backup_dir"]).vm(uuid)
        offsite = OffsiteVm(self._store, uuid) if self._store is not None else None
        work = VmAdoption(vm, directory, offsite, self._surroundings(domain))
        nothing = not directory.path.exists() and not any(work.may_have(row) for row in rows)
        if self._check_mode or not uuid or nothing:
            self._results += [work.adopt(row, check_mode=True) for row in rows]
            return
        try:
            with directory.lock(timeout=self._params["lock_timeout"]):
                work.clear()
                self._results += [work.adopt(row, check_mode=False) for row in rows]
        except (VMForgeError, OSError) as error:
            self._results += [_failed(row, vm, as_failure(error, "adopting")) for row in rows]
        self._warnings += work.warnings

    def _domain(self, uuid: str) -> Domain | None:
        try:
            return self._hypervisor.find(uuid) if self._hypervisor is not None and uuid else None
        except NotFoundError:
            return None

    def _surroundings(self, domain: Domain | None) -> Surroundings:
        if domain is None:
            return self._around
        targets = [disk.target for disk in domain.spec().included]
        return replace(self._around, domain_xml=domain.xml(inactive=True).encode(), targets=targets or ["vda"])


def _failed(row: PackRow, vm: VmRef, error: VMForgeError) -> dict[str, Any]:
    return {
        "row": row.row,
        "vm": {"uuid": vm.uuid, "name": vm.name},
        "node": vm.node,
        "result": "failed",
        "changed": False,
        "id": None,
        "notes": [error.message],
    }


def _outcome(results: list[dict[str, Any]], warnings: list[str]) -> Outcome:
    lines = [
        f"row {item['row']}: {item['vm']['name']} -> {item['path']}\n"
        for item in results
        if item["changed"] and item["path"]
    ]
    failed = [item for item in results if item["result"] == "failed"]
    return Outcome(
        changed=any(item["changed"] for item in results),
        values={"rows": results},
        diff={"before": "", "after": "".join(lines)},
        warnings=tuple(warnings),
        failure=f"{len(failed)} of {len(results)} rows could not be adopted: {failed[0]['notes'][-1]}"
        if failed
        else None,
    )
