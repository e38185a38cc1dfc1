# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting one backup: refused first, then begun by a rename, so that the next run can finish it."""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    read_json,
    remove_tree,
    storage_errors,
    sync_directory,
    write_json,
)
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    DELETING,
    MANIFEST,
    OFFSITE,
    PARTIAL,
    VmDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import (
    Manifest,
    check_place,
    decode_manifest,
    manifest_sha256,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import MAX_MANIFEST_SIZE, OffsiteBackup, OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import HOLD, is_over


def find_backup(directory: VmDirectory, offsite: OffsiteVm | None, backup_id: str) -> Manifest | None:
    """The manifest of a backup that lies here or in S3; None when it is in neither."""
    path = directory.entry(backup_id) / MANIFEST
    if path.is_file():
        data, where = path.read_bytes(), str(path)
    else:
        place = offsite.backup(backup_id) if offsite is not None else None
        if place is None or not place.complete():
            return None
        where = place.key(MANIFEST)
        data = place.store.get(where, max_size=MAX_MANIFEST_SIZE)
    manifest = decode_manifest(data, where=where)
    check_place(manifest, directory.uuid, backup_id, where=where)
    return manifest


def refuse_deletion(
    directory: VmDirectory,
    offsite: OffsiteVm | None,
    manifest: Manifest,
    *,
    vm: VmRef,
    now: datetime,
    copy_is_gone: bool = False,
    children: Collection[str] | None = None,
) -> None:
    """Raise ``InputError`` if a backup must not be deleted; nothing is touched here.

    It must not while a child builds on it, a hold protects it, S3 holds it locked, it is another node's, or its copy in
    S3 could not be deleted along with it.

    Args:
        copy_is_gone: Whether its copy in S3 is known to be deleted.
        children: Ids of those that build on it, where that is known; else all newer manifests here and in S3 are read.
    """
    name = f"Backup {manifest.id} of {manifest.vm.name!r}"
    if manifest.vm.node != vm.node:
        raise InputError(f"{name} belongs to node {manifest.vm.node!r}; delete it there.", code="other_node")
    path = directory.entry(manifest.id)
    if (path / OFFSITE).is_file() and offsite is None and not copy_is_gone:
        raise InputError(
            f"{name} has a copy in S3; give the S3 options too, or that copy would be orphaned.", code="offsite"
        )
    if offsite is not None:
        _refuse_other_place(path, offsite.backup(manifest.id), name)
    for hold in _holds(directory, offsite, manifest.id):
        if not is_over(hold, now):
            raise InputError(f"{name} is held ({hold.get('reason') or 'no reason given'}); free it first.", code="held")
    found = children if children is not None else _children(directory, offsite, manifest.id)
    if found:
        raise InputError(
            f"{name} is the parent of {', '.join(sorted(found))}, which could not be restored without it. Delete "
            "what builds on it first.",
            code="has_child",
        )
    if offsite is not None:
        offsite.backup(manifest.id).refuse_locked()


def begin_deletion(directory: VmDirectory, backup_id: str, offsite: OffsiteVm | None) -> None:
    """Rename the backup, which from now on is none; one that lies only in S3 gets a directory with a note of where."""
    source, target = directory.entry(backup_id), directory.entry(backup_id, DELETING)
    with storage_errors(f"renaming {source}"):
        if source.is_dir():
            os.rename(source, target)
        else:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            if offsite is not None:
                write_json(target / OFFSITE, offsite.backup(backup_id).record(completed=True, local_kept=False))
        sync_directory(directory.path)


def finish_deletion(
    directory: VmDirectory, backup_id: str, offsite: OffsiteVm | None, *, node: str, copy_is_gone: bool = False
) -> None:
    """Delete in S3, the manifest first, and confirm; then the local files. Another node's is left to that node.

    So is another node's copy in S3, which may have taken the place of this one's.

    Args:
        copy_is_gone: Whether its copy in S3 is known to be deleted; only the local files are left then.

    Raises:
        InputError: Its copy lies in another place than these S3 options lead to.
        S3Error: Something is still there; the directory keeps its name, and the next run goes on.
    """
    path = directory.entry(backup_id, DELETING)
    if _node_of(path, node) != node:
        return
    has_copy = (path / OFFSITE).is_file()
    if offsite is not None:
        place = offsite.backup(backup_id)
        _refuse_other_place(path, place, f"The deleted backup {backup_id}")
        if not place.is_of_another({node}, _sha256_of(path)):
            place.delete_all()
    elif has_copy and not copy_is_gone:
        raise S3Error(f"{path} has a copy in S3 that can only be deleted with the S3 options.", code="s3_options")
    remove_tree(path)


def _node_of(path: Path, default: str) -> str:
    """The node that made a backup whose deletion was begun; its manifest may be gone or damaged already."""
    try:
        return decode_manifest((path / MANIFEST).read_bytes(), where=str(path)).vm.node
    except (FileNotFoundError, FormatError):
        return default


def _sha256_of(path: Path) -> str | None:
    """Of the manifest of a backup whose deletion was begun; None where it is gone, damaged or was never here."""
    try:
        data = (path / MANIFEST).read_bytes()
        decode_manifest(data, where=str(path))
    except (FileNotFoundError, FormatError):
        return None
    return manifest_sha256(data)


def _refuse_other_place(path: Path, place: OffsiteBackup, name: str) -> None:
    """Its copy must lie where these options lead to, or it would be orphaned there."""
    try:
        noted = read_json(path / OFFSITE)
    except FileNotFoundError:
        return
    if not place.is_place_of(noted):
        raise InputError(
            f"{name} has its copy in bucket {noted.get('bucket')!r} at {noted.get('prefix')!r} "
            f"({noted.get('endpoint') or 'AWS'}), but the S3 options lead to {place.prefix!r} in {place.bucket!r} "
            f"({place.endpoint or 'AWS'}); with these that copy would be orphaned. If it is one server under two "
            "names, tell the other in s3_same_endpoints (with the playbooks: vmforge_backup_s3_same_endpoints).",
            code="offsite",
        )


def _holds(directory: VmDirectory, offsite: OffsiteVm | None, backup_id: str) -> list[dict[str, Any]]:
    try:
        found = [read_json(directory.entry(backup_id) / HOLD)]
    except FileNotFoundError:
        found = []
    if offsite is not None:
        copy = offsite.backup(backup_id).read_json(HOLD)
        found += [copy] if copy is not None else []
    return found


def _children(directory: VmDirectory, offsite: OffsiteVm | None, backup_id: str) -> list[str]:
    ids = set(directory.ids()) | set((offsite.ids() if offsite is not None else None) or ())
    found = []
    # A child is always newer.
    for other in sorted(one for one in ids if one > backup_id):
        manifest = find_backup(directory, offsite, other)
        if manifest is not None and manifest.parent is not None and manifest.parent["id"] == backup_id:
            found.append(other)
    return found + _unfinished_children(directory, backup_id)


def _unfinished_children(directory: VmDirectory, backup_id: str) -> list[str]:
    """Of those with a manifest only the last step is missing, which the next run takes."""
    found = []
    for other in directory.ids(PARTIAL):
        path = directory.entry(other, PARTIAL) / MANIFEST
        try:
            manifest = decode_manifest(path.read_bytes(), where=str(path))
        except (FileNotFoundError, FormatError):
            continue
        if manifest.parent is not None and manifest.parent["id"] == backup_id:
            found.append(other)
    return found
