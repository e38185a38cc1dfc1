# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM's entry in the result of ``vmforge_backup``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._files import read_json
from ansible_collections.vmforge.backup.plugins.module_utils._local import OFFSITE
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest, manifest_sha256
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef
from ansible_collections.vmforge.backup.plugins.module_utils._plan import BackupPlan

_NOTHING: dict[str, Any] = {
    "parent": None,
    "disks": [],
    "estimated_read_bytes": 0,
    "estimated_stored_bytes": 0,
    "destinations": [],
}


class VmResult:
    """Filled while a VM has its turn.

    Args:
        vm: Which.
    """

    def __init__(self, vm: VmRef) -> None:
        self._values: dict[str, Any] = {
            "vm": {"uuid": vm.uuid, "name": vm.name},
            "node": vm.node,
            "result": "failed",
            "id": None,
            "type": None,
            "full_reason": None,
            "parent": None,
            "consistency": None,
            "path": None,
            "s3_key": None,
            "copies": [],
            "checksum_sha256": None,
            "size_bytes": 0,
            "disks": [],
            "excluded": [],
            "error": None,
            "plan": None,
        }
        self.warnings: list[str] = []
        # Target -> why a disk of the new backup is stored in full.
        self.reasons: Mapping[str, str] = {}
        self.bytes_read = 0
        self.seconds = 0.0

    def describe(self, result: str, manifest: Manifest, *, path: Path | None, s3_key: str | None) -> None:
        """There is this backup, and this is what became of it."""
        has_local = path is not None and all((path / disk.file).exists() for disk in manifest.disks)
        self._values.update(
            result=result,
            id=manifest.id,
            type=manifest.type,
            full_reason=manifest.full_reason,
            parent=manifest.parent["id"] if manifest.parent is not None else None,
            consistency=manifest.consistency,
            path=str(path) if path is not None else None,
            s3_key=s3_key,
            copies=(["local"] if has_local else []) + (["s3"] if s3_key is not None else []),
            checksum_sha256=manifest_sha256(manifest.encode()),
            size_bytes=manifest.size,
            disks=[
                {
                    "target": disk.target,
                    "type": disk.type,
                    "full_reason": self.reasons.get(disk.target) if result == "created" else None,
                    "virtual_size": disk.virtual_size,
                    "bytes": disk.data_bytes,
                }
                for disk in manifest.disks
            ],
            excluded=[{"target": target, "reason": reason} for target, reason in manifest.excluded],
        )

    def warn(self, text: str) -> None:
        """Add a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def found_fresh(self, manifest: Manifest, path: Path) -> None:
        """This backup is young enough; one that was just uploaded keeps that word."""
        if self._values["result"] == "uploaded" and self._values["id"] == manifest.id:
            return
        try:
            offsite = read_json(path / OFFSITE)
        except FileNotFoundError:
            offsite = {}
        self.describe(
            "fresh", manifest, path=path, s3_key=offsite.get("prefix") if offsite.get("completed_at") else None
        )

    def plan(self, uploads: Sequence[str], plan: BackupPlan | None) -> None:
        """This is what would be done: uploads of earlier backups, and a new one unless ``plan`` is None."""
        self._values.update(
            result="planned", plan={"uploads": list(uploads), **(_NOTHING if plan is None else plan.as_result())}
        )
        if plan is not None:
            excluded = [{"target": target, "reason": reason} for target, reason in plan.excluded]
            self._values.update(type=plan.type, full_reason=plan.full_reason, parent=plan.parent, excluded=excluded)

    def settle(self, result: str) -> None:
        """Say what became of it without a backup: ``deleted`` or ``absent``."""
        self._values["result"] = result

    def fail(self, error: VMForgeError, *, phase: str) -> None:
        """It failed; what was described before stays, for that backup may exist all the same."""
        self._values.update(result="failed", error={"code": error.code, "message": error.message, "phase": phase})

    def as_dict(self) -> dict[str, Any]:
        """The entry."""
        return dict(self._values, warnings=self.warnings, bytes_read=self.bytes_read, seconds=self.seconds)
