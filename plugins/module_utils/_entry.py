# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One entry of a listing. Small: never the hashes of the parts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest, manifest_sha256


def _entry(uuid: str, backup_id: str, status: str) -> dict[str, Any]:
    return {
        "vm": {"uuid": uuid, "name": None, "node": None},
        "id": backup_id,
        "status": status,
        "type": None,
        "instant": None,
        "finished_at": None,
        "consistency": None,
        "parent": None,
        "checkpoint": None,
        "size_bytes": None,
        "data_bytes": None,
        "checksum_sha256": None,
        "path": None,
        "s3_key": None,
        "copies": [],
        "chain_local": False,
        "disks": [],
        "excluded": [],
        "hold": None,
        "verified": None,
        "offsite_pending": False,
        "offsite_place": None,
        "error": None,
    }


def ready_entry(
    manifest: Manifest,
    data: bytes,
    *,
    path: str | None,
    s3_key: str | None,
    copies: Sequence[str],
    hold: Mapping[str, Any] | None,
    verified: Mapping[str, Any] | None,
    offsite_pending: bool,
    offsite_place: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A complete backup.

    Args:
        data: The manifest's bytes, for its checksum.
        copies: ``local``, ``s3``.
        offsite_place: Where its node says that the copy in S3 lies.
    """
    entry = _entry(manifest.vm.uuid, manifest.id, "ready")
    entry["vm"].update(name=manifest.vm.name, node=manifest.vm.node)
    entry.update(
        type=manifest.type,
        instant=manifest.instant,
        finished_at=manifest.finished_at,
        consistency=manifest.consistency,
        parent=dict(manifest.parent) if manifest.parent is not None else None,
        checkpoint=manifest.checkpoint,
        size_bytes=manifest.size,
        data_bytes=manifest.data_bytes,
        checksum_sha256=manifest_sha256(data),
        path=path,
        s3_key=s3_key,
        copies=list(copies),
        disks=[
            {
                "target": disk.target,
                "type": disk.type,
                "file": disk.file,
                "virtual_size": disk.virtual_size,
                "data_bytes": disk.data_bytes,
            }
            for disk in manifest.disks
        ],
        excluded=[{"target": target, "reason": reason} for target, reason in manifest.excluded],
        hold=dict(hold) if hold is not None else None,
        verified=dict(verified) if verified is not None else None,
        offsite_pending=offsite_pending,
        offsite_place=dict(offsite_place) if offsite_place is not None else None,
    )
    return entry


def unfinished_entry(
    uuid: str,
    backup_id: str,
    status: str,
    progress: Mapping[str, Any],
    *,
    path: str | None = None,
    s3_key: str | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """A ``partial`` or ``deleting`` one; who it belongs to is known from its progress only."""
    entry = _entry(uuid, backup_id, status)
    entry["vm"].update(name=progress.get("vm", {}).get("name"), node=progress.get("node"))
    entry.update(path=path, s3_key=s3_key, error=error)
    return entry


def failed_entry(uuid: str, backup_id: str, failure: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run that made no backup."""
    entry = _entry(uuid, backup_id, "failed")
    entry["vm"].update(name=failure.get("vm", {}).get("name"), node=failure.get("node"))
    entry.update(
        finished_at=failure.get("failed"),
        error=f"{failure.get('message', 'unknown')} (phase {failure.get('phase')}, code {failure.get('code')})",
    )
    return entry
