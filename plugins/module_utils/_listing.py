# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_info``: what a host and a bucket really have. A listing that fails is an error."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._chain_marks import mark_chains
from ansible_collections.vmforge.backup.plugins.module_utils._deps import need
from ansible_collections.vmforge.backup.plugins.module_utils._entry import (
    failed_entry,
    ready_entry,
    unfinished_entry,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._files import read_json, read_note
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    DELETING,
    FAILED,
    MANIFEST,
    OFFSITE,
    PARTIAL,
    PROGRESS,
    BackupDirectory,
    VmDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import check_place, decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_listing import OffsiteListing
from ansible_collections.vmforge.backup.plugins.module_utils._options import (
    DEFAULT_BACKUP_DIR,
    checked_id,
    checked_names,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import HOLD, VERIFIED

STATUSES = ("ready", "partial", "failed", "deleting")

INFO_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vm": {"type": "list", "elements": "str"},
    "id": {"type": "str"},
    "status": {"type": "list", "elements": "str", "choices": list(STATUSES)},
    "backup_dir": {"type": "path", "default": DEFAULT_BACKUP_DIR},
    "offsite": {"type": "str", "choices": ["none", "s3"], "default": "none"},
    **S3_ARGUMENTS,
}


def list_backups(request: Request) -> Outcome:
    """List what there is, newest first.

    Raises:
        InputError: An option is malformed.
        StorageError: The directory cannot be listed.
        S3Error: The bucket cannot be listed whole.
    """
    params = request.params
    wanted = checked_names(params["vm"])
    backup_id = checked_id(params["id"]) if params["id"] else None
    path = Path(params["backup_dir"])
    if params["offsite"] == "s3":
        config = S3Config.from_params(params)
        need("boto3")
        with closing(S3Store(config)) as store:
            entries = list_entries(path, OffsiteListing(store), wanted)
    else:
        entries = list_entries(path, None, wanted)
    statuses = params["status"] or STATUSES
    chosen = [
        entry
        for entry in entries
        if _is_wanted(entry, wanted) and entry["status"] in statuses and backup_id in (None, entry["id"])
    ]
    chosen.sort(key=lambda entry: (entry["id"], entry["vm"]["uuid"]), reverse=True)
    values = {"backups": chosen, "hostname": socket.gethostname(), "time": format_time(utc_now())}
    return Outcome(changed=False, values=values)


def list_entries(path: Path, bucket: OffsiteListing | None, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """Everything in the directory, everything in the bucket; a backup with both copies is one entry.

    Args:
        path: ``backup_dir``. A host without one may still list a bucket.
        wanted: Only these VMs where all are UUIDs; names need every manifest to be looked at.
    """
    if bucket is None and not path.is_dir():
        raise InputError(
            f"The backup directory {path} does not exist or is no directory. Is its file system mounted?",
            code="backup_dir_missing",
        )
    uuids = [canonical_uuid(name) for name in wanted]
    only = {uuid for uuid in uuids if uuid} if wanted and all(uuids) else None
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    directories = BackupDirectory(str(path)).vms() if path.is_dir() else []
    for directory in directories:
        if only is None or directory.uuid in only:
            for entry in _local_entries(directory):
                found[entry["vm"]["uuid"], entry["id"], _kind(entry)] = entry
    if bucket is not None:
        for entry in bucket.entries(only):
            key = (entry["vm"]["uuid"], entry["id"], _kind(entry))
            found[key] = _merge(found[key], entry) if key in found else entry
        _mark_vanished(found, bucket)
    mark_chains(found, complete=bucket is not None)
    return list(found.values())


def _kind(entry: dict[str, Any]) -> str:
    return "failed" if entry["status"] == "failed" else "backup"


def _is_wanted(entry: dict[str, Any], wanted: tuple[str, ...]) -> bool:
    if not wanted:
        return True
    return entry["vm"]["name"] in wanted or entry["vm"]["uuid"] in {canonical_uuid(name) for name in wanted}


def _local_entries(directory: VmDirectory) -> list[dict[str, Any]]:
    # Listed once: a commit between two listings would be in neither.
    listed = directory.entries()
    entries = [_local_ready(directory.entry(backup_id)) for backup_id in directory.ids(entries=listed)]
    for suffix, status in ((PARTIAL, "partial"), (DELETING, "deleting")):
        for backup_id in directory.ids(suffix, entries=listed):
            path = directory.entry(backup_id, suffix)
            progress = read_note(path / PROGRESS)
            entries.append(unfinished_entry(directory.uuid, backup_id, status, progress, path=str(path)))
    failed = directory.ids(FAILED, entries=listed)
    entries += [failed_entry(directory.uuid, i, read_note(directory.entry(i, FAILED))) for i in failed]
    return entries


def _local_ready(path: Path) -> dict[str, Any]:
    """A directory without a sound manifest is no backup, whatever its name says."""
    try:
        data = (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return unfinished_entry(path.parent.name, path.name, "partial", {}, path=str(path))
    try:
        manifest = decode_manifest(data, where=str(path / MANIFEST))
        check_place(manifest, path.parent.name, path.name, where=str(path / MANIFEST))
    except FormatError as error:
        return unfinished_entry(path.parent.name, path.name, "partial", {}, path=str(path), error=error.message)
    offsite = _read(path / OFFSITE)
    has_disks = all((path / disk.file).is_file() for disk in manifest.disks)
    return ready_entry(
        manifest,
        data,
        path=str(path),
        s3_key=offsite.get("prefix") if offsite.get("completed_at") else None,
        copies=(["local"] if has_disks else []) + (["s3"] if offsite.get("completed_at") else []),
        hold=_read(path / HOLD) or None,
        verified=_read(path / VERIFIED) or None,
        offsite_pending=bool(offsite) and not offsite.get("completed_at"),
        offsite_place={name: offsite.get(name) for name in ("endpoint", "bucket", "prefix")} if offsite else None,
    )


def _read(path: Path) -> dict[str, Any]:
    """A damaged one is an error: it may be a hold."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}


def _merge(local: dict[str, Any], remote: dict[str, Any]) -> dict[str, Any]:
    """One backup in two places. What S3 has was just listed; what ``offsite.json`` says was true once."""
    if local["status"] == "deleting":
        return local
    if local["status"] != "ready" or remote["status"] != "ready":
        return local if local["status"] == "ready" or remote["status"] != "ready" else remote
    copies = [copy for copy in local["copies"] if copy != "s3"] + list(remote["copies"])
    merged = dict(local, copies=copies, s3_key=remote["s3_key"], offsite_pending=False)
    merged["error"] = local["error"] or remote["error"]
    for name in ("hold", "verified"):
        merged[name] = local[name] or remote[name]
    if local["checksum_sha256"] != remote["checksum_sha256"]:
        merged["error"] = "The manifests of the local copy and of the one in S3 differ."
    return merged


def _mark_vanished(found: dict[tuple[str, str, str], dict[str, Any]], bucket: OffsiteListing) -> None:
    """A copy that ``offsite.json`` tells of and that the complete listing of its bucket does not is none."""
    for entry in found.values():
        if entry["s3_key"] is None or bucket.has(entry["vm"]["uuid"], entry["id"]) or entry["path"] is None:
            continue
        if bucket.is_place_of(entry["vm"]["uuid"], entry["id"], _read(Path(entry["path"]) / OFFSITE)):
            entry.update(copies=[copy for copy in entry["copies"] if copy != "s3"], s3_key=None)
            entry["error"] = "Its copy in S3 has vanished: the bucket was listed whole and has it no more."
