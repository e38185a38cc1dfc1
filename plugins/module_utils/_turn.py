# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one VM's turn consists of: the uploads that are missing, and whether a new backup is needed at all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError
from ansible_collections.vmforge.backup.plugins.module_utils._files import read_note
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, OFFSITE, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import (
    Manifest,
    check_place,
    decode_manifest,
    manifest_sha256,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import MAX_CLOCK_AHEAD, parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_upload import is_pending
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import VERIFIED
from ansible_collections.vmforge.backup.plugins.module_utils._verified import bad_copies


@dataclass(frozen=True)
class Turn:
    """The plan of a turn; check mode prints it, a run carries it out.

    Attributes:
        uploads: Backups whose copy in S3 is missing and demanded, oldest first.
        fresh: The newest backup that ``max_age`` calls young enough (once its upload is done); None means: make one.
        warnings: What was passed over.
    """

    uploads: tuple[Manifest, ...]
    fresh: Manifest | None
    warnings: tuple[str, ...]


def plan_turn(directory: VmDirectory, options: BackupOptions, *, now: datetime) -> Turn:
    """Decide from what lies here. Only manifests of this node count."""
    warnings: list[str] = []
    uploads: list[Manifest] = []
    fresh: Manifest | None = None
    for backup_id in directory.ids():
        manifest = _read_manifest(directory, backup_id, warnings)
        if manifest is None or manifest.vm.node != options.node:
            continue
        age = now - parse_time(manifest.instant)
        # One from the future tells of a clock that was wrong, not of a fresh backup.
        young = options.max_age is not None and -MAX_CLOCK_AHEAD <= age <= options.max_age
        path = directory.entry(backup_id)
        # Demanded when it was made, or now of one that would make a new backup unnecessary.
        if options.s3 is not None and (_is_pending(path, warnings) or (young and not (path / OFFSITE).exists())):
            uploads.append(manifest)
        if young:
            problem = _problem(directory, manifest)
            if problem is None:
                fresh = manifest
            else:
                warnings.append(f"Backup {backup_id} is young, but it cannot be restored: {problem}.")
    return Turn(tuple(uploads), fresh, tuple(warnings))


def _problem(directory: VmDirectory, manifest: Manifest) -> str | None:
    """What is known to be wrong with a backup or one that it builds on, without reading any data."""
    here: Manifest | None = manifest
    wanted = None
    while here is not None:
        path = directory.entry(here.id)
        data = (path / MANIFEST).read_bytes()
        if wanted not in (None, manifest_sha256(data)):
            return f"{here.id} is not the one that it was made on"
        if not _good_copies(path, here, manifest_sha256(data)):
            return f"no copy of {here.id} is good"
        if here.parent is None:
            return None
        above, wanted = here.parent["id"], here.parent["manifest_sha256"]
        here = _read_manifest(directory, above, []) if above < here.id else None
    return f"{above} is missing"


def _good_copies(path: Path, manifest: Manifest, digest: str) -> set[str]:
    """Copies that ought to be whole and of which no verification has said otherwise."""
    offsite, verified = read_note(path / OFFSITE), read_note(path / VERIFIED)
    copies = {"s3"} if offsite.get("completed_at") else set()
    if all((path / disk.file).exists() for disk in manifest.disks):
        copies.add("local")
    return copies - bad_copies([verified], digest)


def _is_pending(path: Path, warnings: list[str]) -> bool:
    try:
        return is_pending(path)
    except FormatError as error:
        warnings.append(error.message)
        return False


def _read_manifest(directory: VmDirectory, backup_id: str, warnings: list[str]) -> Manifest | None:
    """A damaged manifest is no backup: told, and no reason not to make new ones."""
    path = directory.entry(backup_id) / MANIFEST
    try:
        manifest = decode_manifest(path.read_bytes(), where=str(path))
        check_place(manifest, directory.uuid, backup_id, where=str(path))
    except FileNotFoundError:
        return None
    except FormatError as error:
        warnings.append(error.message)
        return None
    return manifest
