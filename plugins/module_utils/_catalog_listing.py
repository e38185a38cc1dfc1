# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The listing that a node's rows are compared with: checked as a whole, or refused as a whole. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, parse_id, parse_time

Entry = Mapping[str, Any]
Key = tuple[str, str, str]

_STATUSES = ("ready", "partial", "failed", "deleting")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
# What a column of the type TIMESTAMP holds. A clock may be that wrong; the manifest's own time stays in meta.
_FIRST = datetime(1970, 1, 2, tzinfo=timezone.utc)
_LAST = datetime(2038, 1, 18, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Listing:
    """What a node has.

    Attributes:
        node: Only entries that it made become its rows.
        backups: What ``vmforge_backup_info`` returned on the node; of S3 it tells what the node remembers.
        vms: UUIDs that it covers; None for all.
        bucket: What it returned for S3; None if nobody looked there.
        backup_dir: Where a backup would lie that has no directory.
    """

    node: str
    backups: tuple[Entry, ...]
    vms: frozenset[str] | None
    bucket: tuple[Entry, ...] | None
    backup_dir: str
    _entries: Mapping[Key, Entry] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every entry.

        Raises:
            InputError: One is malformed, stands twice or is of a VM outside ``vms``.
        """
        entries = self._checked(self.backups, "backups")
        for key, entry in self._checked(self.bucket or (), "bucket_backups").items():
            entries[key] = _merge(entries[key], entry) if key in entries else entry
        object.__setattr__(self, "_entries", entries)

    def covers(self, uuid: str) -> bool:
        """Whether a VM is in its scope."""
        return self.vms is None or uuid in self.vms

    def complete(self) -> Iterator[Entry]:
        """The backups of this node, and its failures."""
        for entry in self._entries.values():
            if entry["status"] in ("ready", "failed") and entry["vm"]["node"] == self.node:
                yield entry

    def unfinished(self) -> Iterator[Entry]:
        """What has no manifest, or is being deleted. Whose it is may not be known."""
        for entry in self._entries.values():
            if entry["status"] in ("partial", "deleting") and entry["vm"]["node"] in (None, self.node):
                yield entry

    def knows_s3(self, uuid: str, backup_id: object) -> bool:
        """Whether a backup that is not where it was has certainly gone: S3 was listed, or the node has it elsewhere."""
        return self.bucket is not None or (uuid, backup_id, "backup") in self._entries

    def _checked(self, entries: Sequence[Entry], name: str) -> dict[Key, Entry]:
        found: dict[Key, Entry] = {}
        for number, entry in enumerate(entries):
            try:
                key = _check(entry)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{name}: entry {number} is not one of vmforge_backup_info ({error!r}). Nothing was changed.",
                    code="listing",
                ) from error
            place = f"{key[1]} of {key[0]}"
            if key in found:
                raise InputError(f"{name} has {place} twice. Nothing was changed.", code="listing")
            if not self.covers(key[0]):
                raise InputError(f"{name} has {place}, which vms does not cover. Nothing was changed.", code="listing")
            found[key] = entry
        return found


def kind(entry: Entry) -> str:
    """A failed attempt leaves its id free, so that both may be there."""
    return "failed" if entry["status"] == "failed" else "backup"


def directory(entry: Entry, listing: Listing) -> str:
    """Where an entry's backup lies, or would; a failure is the file that tells of it."""
    uuid, backup_id = entry["vm"]["uuid"], entry["id"]
    if kind(entry) == "failed":
        return f"{listing.backup_dir}/{uuid}/{backup_id}.failed.json"
    parent = entry["path"].rpartition("/")[0] if entry["path"] else f"{listing.backup_dir}/{uuid}"
    return f"{parent}/{backup_id}"


def moment(entry: Entry) -> str:
    """The second of a backup, in UTC: of its disks' contents, or of its id where it has none."""
    at = parse_time(entry["instant"]) if entry["instant"] else parse_id(entry["id"])
    return min(max(at, _FIRST), _LAST).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _merge(local: Entry, remote: Entry) -> Entry:
    """One backup in two places; what S3 has was just looked at."""
    if local["status"] != "ready" or remote["status"] != "ready":
        return local if local["status"] in ("ready", "deleting") else remote
    copies = [copy for copy in local["copies"] if copy != "s3"] + list(remote["copies"])
    error = local["error"] or remote["error"]
    if local["checksum_sha256"] != remote["checksum_sha256"]:
        error = "The manifests of the local copy and of the one in S3 differ."
    return {**local, "copies": copies, "s3_key": remote["s3_key"], "error": error}


def _check(entry: Entry) -> Key:
    """The key of a sound entry. Whatever is raised here makes it an unsound one."""
    uuid, node, status = entry["vm"]["uuid"], entry["vm"]["node"], entry["status"]
    parse_id(entry["id"])
    _need(isinstance(uuid, str) and canonical_uuid(uuid) == uuid, "vm.uuid")
    _need(status in _STATUSES, "status")
    _need(node is None or (isinstance(node, str) and bool(node)), "vm.node")
    _need(entry["path"] is None or (isinstance(entry["path"], str) and entry["path"].startswith("/")), "path")
    _need(isinstance(entry["copies"], list) and set(entry["copies"]) <= {"local", "s3"}, "copies")
    for name in ("s3_key", "error", "instant"):
        _need(entry[name] is None or isinstance(entry[name], str), name)
    if status == "ready":
        _need(node is not None, "vm.node")
        _need(entry["type"] in ("full", "incremental"), "type")
        size = entry["size_bytes"]
        _need(isinstance(size, int) and not isinstance(size, bool) and size >= 0, "size_bytes")
        _need(bool(_SHA256.match(entry["checksum_sha256"])), "checksum_sha256")
        parse_time(entry["instant"])
    return uuid, entry["id"], kind(entry)


def _need(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)
