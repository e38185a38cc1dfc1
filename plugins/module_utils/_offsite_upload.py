# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a backup that lies here to S3: later, or the last step of one that was streamed there."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import read_json, write_json
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, OFFSITE
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest, decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import HOLD, VERIFIED


def is_pending(directory: Path) -> bool:
    """Whether a committed backup still lacks the offsite copy that was demanded of it."""
    try:
        return read_json(directory / OFFSITE).get("completed_at") is None
    except FileNotFoundError:
        return False


def upload_backup(place: OffsiteBackup, directory: Path, *, drop_local: bool) -> Manifest:
    """Bring a committed local backup to S3; every part is checked against the manifest before it is sent.

    Args:
        directory: Of the backup.
        drop_local: Remove the local disks once the copy is complete.

    Raises:
        S3Error: The upload failed; a later call begins again.
        StorageError: The local copy is damaged or unreadable.
    """
    data = (directory / MANIFEST).read_bytes()
    manifest = decode_manifest(data, where=str(directory / MANIFEST))
    place.refuse_taken(data)
    place.abort_unfinished()
    for record in manifest.files:
        path = directory / record.name
        if not path.is_file() or path.stat().st_size != record.size:
            raise StorageError(f"{path} is missing or has another size than its manifest says.", code="local_damaged")
        parts = [bytes.fromhex(part) for part in record.parts]
        stored = place.store.upload_file(
            place.key(record.name), str(path), part_size=record.part_size, part_sha256=parts, sha256=record.sha256
        )
        place.note(record.name, stored)
    finish_offsite(place, directory, data, local_kept=not drop_local)
    return manifest


def finish_offsite(place: OffsiteBackup, directory: Path, manifest: bytes, *, local_kept: bool) -> None:
    """Upload the manifest, which makes the copy complete, and write that down; drop the local disks if told so.

    A hold and what was verified meanwhile go before it: there is no moment at which the copy is complete and free.
    """
    for name in (HOLD, VERIFIED):
        if (directory / name).is_file():
            place.put(name, (directory / name).read_bytes())
    place.put_manifest(manifest)
    write_json(directory / OFFSITE, place.record(completed=True, local_kept=local_kept))
    if not local_kept:
        drop_disks(directory)


def drop_disks(directory: Path) -> None:
    """Remove the local disk images of a backup whose complete copy lies in S3; its small files stay."""
    manifest = decode_manifest((directory / MANIFEST).read_bytes(), where=str(directory / MANIFEST))
    for disk in manifest.disks:
        (directory / disk.file).unlink(missing_ok=True)
