# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_hold``: protect one backup, beside each of its copies, or free it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._delete import find_backup
from ansible_collections.vmforge.backup.plugins.module_utils._deps import need
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    InputError,
    NotFoundError,
    S3Error,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    encode_json,
    read_json,
    sync_directory,
    write_file,
)
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._listing import list_entries
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    MANIFEST,
    OFFSITE,
    BackupDirectory,
    VmDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import (
    canonical_uuid,
    format_time,
    parse_utc,
    utc_now,
)
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup, OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._options import DEFAULT_BACKUP_DIR, checked_id
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import DENIED
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import HOLD, is_over

HOLD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vm": {"type": "str", "required": True},
    "id": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "reason": {"type": "str"},
    "by": {"type": "str", "default": ""},
    "until": {"type": "str"},
    "uri": {"type": "str", "default": "qemu:///system"},
    "node": {"type": "str"},
    "backup_dir": {"type": "path", "default": DEFAULT_BACKUP_DIR},
    "offsite": {"type": "str", "choices": ["none", "s3"], "default": "none"},
    "lock_timeout": {"type": "int", "default": 0},
    **S3_ARGUMENTS,
}
LATEST = "latest"


def hold_backup(request: Request) -> Outcome:
    """Hold or free a backup.

    Raises:
        InputError: It is another node's, has a copy in S3 without the S3 options, or an option is malformed.
        NotFoundError: There is no such backup here or in S3.
        S3Error: The hold could not be written or removed there; a second call goes on.
    """
    params = request.params
    wanted = _wanted(params, now=utc_now())
    if params["id"] != LATEST:
        checked_id(params["id"])
    config = S3Config.from_params(params) if params["offsite"] == "s3" else None
    BackupDirectory(params["backup_dir"]).check(touch=not request.check_mode)
    directory = BackupDirectory(params["backup_dir"]).vm(_find(params))
    if config is None:
        return _hold(request, directory, None, wanted)
    need("boto3")
    with closing(S3Store(config)) as store:
        return _hold(request, directory, OffsiteVm(store, directory.uuid), wanted)


def _wanted(params: Mapping[str, Any], *, now: datetime) -> dict[str, Any] | None:
    """The content of ``hold.json``; None to free."""
    if params["state"] == "absent":
        return None
    if not params["reason"].strip():
        raise InputError("reason is empty. Tell why this backup is held, for whoever wants to delete it.")
    until = params["until"]
    if until:
        try:
            moment = parse_utc(until)
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"until is {until!r}, which is no time. Write one such as 2027-01-31T00:00:00Z."
            ) from error
        if moment <= now:
            raise InputError(f"until is {until}, which is over. Such a hold would protect nothing.")
        until = format_time(moment)
    return {"reason": params["reason"], "by": params["by"], "since": format_time(now), "until": until or None}


def _find(params: Mapping[str, Any]) -> str:
    """The VM's UUID. Its backups outlive the domain, and remember its name."""
    wanted = params["vm"]
    uuid = canonical_uuid(wanted)
    if uuid is not None:
        return uuid
    entries = list_entries(BackupDirectory(params["backup_dir"]).path, None, ())
    found = {entry["vm"]["uuid"] for entry in entries if entry["vm"]["name"] == wanted}
    if not found:
        need("libvirt")
        found = {Hypervisor(params["uri"]).find(wanted).uuid}
    if len(found) > 1:
        raise InputError(
            f"There are backups of several VMs called {wanted!r}: {', '.join(sorted(found))}. Name one by its UUID."
        )
    return str(found.pop())


def _hold(
    request: Request, directory: VmDirectory, offsite: OffsiteVm | None, wanted: dict[str, Any] | None
) -> Outcome:
    params = request.params
    backup_id = _latest(directory, offsite) if params["id"] == LATEST else params["id"]
    manifest = find_backup(directory, offsite, backup_id) if backup_id is not None else None
    if manifest is None:
        raise NotFoundError(
            f"There is no backup {params['id']} of {params['vm']!r} in {directory.path}"
            + (" or in S3." if offsite is not None else "; without the S3 options, S3 was not searched.")
        )
    node = params["node"] or socket.gethostname()
    if manifest.vm.node != node:
        raise InputError(
            f"Backup {manifest.id} belongs to node {manifest.vm.node!r}; hold it there.", code="other_node"
        )
    lock = nullcontext() if request.check_mode else directory.lock(timeout=params["lock_timeout"])
    with lock:
        if find_backup(directory, offsite, manifest.id) is None:
            raise NotFoundError(f"Backup {manifest.id} of {params['vm']!r} was deleted just now.")
        return _apply(Copies(directory, offsite, manifest), wanted, check_mode=request.check_mode)


def _latest(directory: VmDirectory, offsite: OffsiteVm | None) -> str | None:
    """The newest id that is a complete backup, here or in S3."""
    found = set(directory.ids()) | set((offsite.ids() if offsite is not None else None) or ())
    return next((i for i in sorted(found, reverse=True) if find_backup(directory, offsite, i) is not None), None)


class Copies:
    """The places of one backup that a hold lies in.

    Raises:
        InputError: It has a copy in S3, and there are no S3 options.
    """

    def __init__(self, directory: VmDirectory, offsite: OffsiteVm | None, manifest: Manifest) -> None:
        self.manifest = manifest
        path = directory.entry(manifest.id)
        self._path = path if (path / MANIFEST).is_file() else None
        place = offsite.backup(manifest.id) if offsite is not None else None
        self._place = place if place is not None and _has_copy(place, path / OFFSITE) else None
        if self._place is None and offsite is None and (path / OFFSITE).is_file():
            raise InputError(
                f"Backup {manifest.id} has a copy in S3; give the S3 options too, or that copy would not be held.",
                code="offsite",
            )

    def names(self) -> list[str]:
        """``local``, ``s3``."""
        return (["local"] if self._path is not None else []) + (["s3"] if self._place is not None else [])

    def read(self) -> list[dict[str, Any] | None]:
        """What each says; None where there is no hold."""
        found: list[dict[str, Any] | None] = []
        if self._path is not None:
            try:
                found.append(read_json(self._path / HOLD))
            except FileNotFoundError:
                found.append(None)
            except FormatError:
                # Damaged, so it protects and is to be replaced.
                found.append({})
        if self._place is not None:
            try:
                found.append(self._place.read_json(HOLD))
            except S3Error as error:
                if error.code != DENIED or not found:
                    raise
                # Keys that may only write: what is here was written there too.
        return found

    def write(self, hold: Mapping[str, Any]) -> None:
        """Here first: this host's own deletions look here."""
        data = encode_json(hold)
        if self._path is not None:
            write_file(self._path / HOLD, data)
        if self._place is not None:
            self._place.put(HOLD, data)

    def remove(self, ended: Mapping[str, Any]) -> None:
        """In S3 first: what fails there leaves the local one, and so the hold, for a second call.

        Args:
            ended: What replaces it in S3 where the keys may write and not delete: a hold that is over protects nothing.
        """
        if self._place is not None:
            try:
                self._place.store.delete(self._place.key(HOLD))
            except S3Error as error:
                if error.code != DENIED:
                    raise
                self._place.put(HOLD, encode_json(ended))
        if self._path is not None:
            (self._path / HOLD).unlink(missing_ok=True)
            sync_directory(self._path)


def _has_copy(place: OffsiteBackup, note: Path) -> bool:
    """Whether it has one in S3; where the keys may not look, what the node remembers counts."""
    try:
        return place.complete()
    except S3Error as error:
        if error.code != DENIED:
            raise
        return note.is_file()


def _apply(copies: Copies, wanted: dict[str, Any] | None, *, check_mode: bool) -> Outcome:
    there = copies.read()
    if wanted is None:
        now, hold = utc_now(), None
        changed = any(found is not None and not is_over(found, now) for found in there)
        if changed and not check_mode:
            copies.remove({"reason": "freed", "by": "", "since": format_time(now), "until": format_time(now)})
    else:
        first = next((found for found in there if found), None)
        changed = any(found is None or _content(found) != _content(wanted) for found in there)
        # A hold that is only completed or reworded began when it began.
        hold = dict(wanted, since=(first or {}).get("since") or wanted["since"])
        if changed and not check_mode:
            copies.write(hold)
    manifest = copies.manifest
    before = next((found for found in there if found is not None), None)
    values = {
        "backup": {
            "vm": {"uuid": manifest.vm.uuid, "name": manifest.vm.name, "node": manifest.vm.node},
            "id": manifest.id,
            "hold": hold,
            "copies": copies.names(),
        }
    }
    return Outcome(changed, values, diff={"before": _text(before), "after": _text(hold)})


def _content(hold: Mapping[str, Any]) -> tuple[Any, ...]:
    return hold.get("reason"), hold.get("by") or "", hold.get("until")


def _text(hold: Mapping[str, Any] | None) -> str:
    return "" if hold is None else encode_json(hold).decode()
