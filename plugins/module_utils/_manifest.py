# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a backup: written last, immutable, the proof that the backup is complete. Pure.

Format: schema 1, see ``docs/format.md``. Times are RFC 3339 in UTC, sizes are integer bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, canonical_uuid, parse_id, parse_time

SCHEMA = 1
TYPES = ("full", "incremental")
CONSISTENCIES = ("quiesced", "crash", "offline")
_OWN_NAME = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_TARGET = re.compile(r"[a-z0-9]+\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class FileRecord:
    """One file of a backup, as its manifest lists it.

    Attributes:
        name: Within the backup's directory.
        size: In bytes.
        sha256: Hexadecimal, of the whole file; None where it was only streamed.
        part_size: In bytes.
        parts: Hexadecimal SHA-256 of each part.
    """

    name: str
    size: int
    sha256: str | None
    part_size: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class DiskRecord:
    """One disk in a manifest; ``data_bytes`` counts the clusters that hold something other than zero."""

    target: str
    type: str
    file: str
    format: str
    source: str
    virtual_size: int
    data_bytes: int
    backing: str | None = None
    bitmap_granularity: int | None = None


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says. Keys and their order are those of the file."""

    id: str
    vm: VmRef
    instant: str
    finished_at: str
    type: str
    full_reason: str | None
    consistency: str
    compression: str
    disks: tuple[DiskRecord, ...]
    excluded: tuple[tuple[str, str], ...]
    files: tuple[FileRecord, ...]
    tool: Mapping[str, str]
    parent: Mapping[str, str] | None = None
    checkpoint: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(record.size for record in self.files)

    @property
    def data_bytes(self) -> int:
        """Bytes of guest data in all its disks."""
        return sum(disk.data_bytes for disk in self.disks)

    def encode(self) -> bytes:
        """The bytes of the file."""
        value = {
            "schema": SCHEMA,
            "id": self.id,
            "vm": asdict(self.vm),
            "instant": self.instant,
            "finished_at": self.finished_at,
            "type": self.type,
            "full_reason": self.full_reason,
            "parent": dict(self.parent) if self.parent is not None else None,
            "checkpoint": self.checkpoint,
            "consistency": self.consistency,
            "compression": self.compression,
            "disks": [asdict(disk) for disk in self.disks],
            "excluded": [{"target": target, "reason": reason} for target, reason in self.excluded],
            "files": [asdict(record) for record in self.files],
            "tool": dict(self.tool),
        }
        return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def describe_bytes(name: str, data: bytes, *, part_size: int) -> FileRecord:
    """The record of a small file, from its content."""
    parts = tuple(hashlib.sha256(data[i : i + part_size]).hexdigest() for i in range(0, len(data), part_size))
    digest = hashlib.sha256(data).hexdigest()
    return FileRecord(name=name, size=len(data), sha256=digest, part_size=part_size, parts=parts or (digest,))


def manifest_sha256(data: bytes) -> str:
    """The root of trust: what a catalogue and a child's ``parent`` hold."""
    return hashlib.sha256(data).hexdigest()


def decode_manifest(data: bytes, *, where: str) -> Manifest:
    """Read and check a manifest.

    Args:
        data: The file's bytes.
        where: Its path or address, for messages.

    Raises:
        FormatError: Not a manifest of schema 1, or one that contradicts itself.
    """
    try:
        value = json.loads(data)
        if value["schema"] != SCHEMA:
            raise FormatError(
                f"{where} has schema {value['schema']!r}; this version reads {SCHEMA}. Upgrade vmforge.backup."
            )
        manifest = _build(value)
        _check(manifest)
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{where} is not a valid manifest: {type(error).__name__} {error}.") from error
    return manifest


def check_place(manifest: Manifest, uuid: str, backup_id: str, *, where: str) -> None:
    """Raise ``FormatError`` when a manifest lies where that of another backup belongs."""
    if (manifest.vm.uuid, manifest.id) != (uuid, backup_id):
        raise FormatError(f"{where} is the manifest of backup {manifest.id} of VM {manifest.vm.uuid}: it was moved.")


def _build(value: Mapping[str, Any]) -> Manifest:
    vm = value["vm"]
    return Manifest(
        id=value["id"],
        vm=VmRef(uuid=vm["uuid"], name=vm["name"], node=vm["node"]),
        instant=value["instant"],
        finished_at=value["finished_at"],
        type=value["type"],
        full_reason=value["full_reason"],
        parent=_parent(value["parent"]),
        checkpoint=value["checkpoint"],
        consistency=value["consistency"],
        compression=value["compression"],
        disks=tuple(
            DiskRecord(**{key: disk[key] for key in DiskRecord.__dataclass_fields__}) for disk in value["disks"]
        ),
        excluded=tuple((item["target"], item["reason"]) for item in value["excluded"]),
        files=tuple(
            FileRecord(
                name=item["name"],
                size=item["size"],
                sha256=item["sha256"],
                part_size=item["part_size"],
                parts=tuple(item["parts"]),
            )
            for item in value["files"]
        ),
        tool=dict(value["tool"]),
    )


def _parent(value: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if value is not None:
        parse_id(value["id"])
        if not _SHA256.match(value["manifest_sha256"]):
            raise ValueError(f"the parent {value!r}")
    return value


def _check(manifest: Manifest) -> None:
    """Raise ``ValueError`` where fields do not fit each other."""
    parse_id(manifest.id)
    parse_time(manifest.instant)
    parse_time(manifest.finished_at)
    if canonical_uuid(manifest.vm.uuid) != manifest.vm.uuid:
        raise ValueError(f"the UUID {manifest.vm.uuid!r}")
    if manifest.type not in TYPES or manifest.consistency not in CONSISTENCIES:
        raise ValueError(f"type {manifest.type!r}, consistency {manifest.consistency!r}")
    if (manifest.parent is None) != (manifest.type == "full"):
        raise ValueError(f"a backup of type {manifest.type} with parent {manifest.parent!r}")
    for record in manifest.files:
        _check_file(record)
    names = [record.name for record in manifest.files]
    if len(set(names)) != len(names):
        raise ValueError(f"file names {names!r}")
    for disk in manifest.disks:
        _check_disk(disk, manifest, names)
    for values in ([disk.target for disk in manifest.disks], [disk.file for disk in manifest.disks]):
        if len(set(values)) != len(values):
            raise ValueError(f"two disks of one name: {values!r}")


def _check_file(record: FileRecord) -> None:
    if not _NAME.match(record.name) or record.name == _OWN_NAME:
        raise ValueError(f"the file name {record.name!r}")
    if not _is_count(record.size) or not _is_count(record.part_size) or record.part_size == 0:
        raise ValueError(f"{record.name} of {record.size!r} bytes in parts of {record.part_size!r}")
    wanted = max(1, -(-record.size // record.part_size))
    if len(record.parts) != wanted:
        raise ValueError(f"{record.name} of {record.size} bytes has {len(record.parts)} parts, not {wanted}")
    if not all(_SHA256.match(digest) for digest in (*record.parts, record.sha256) if digest is not None):
        raise ValueError(f"{record.name} has a hash that is no SHA-256")


def _check_disk(disk: DiskRecord, manifest: Manifest, names: Sequence[str]) -> None:
    if not _TARGET.match(disk.target) or disk.type not in TYPES:
        raise ValueError(f"disk {disk.target!r} of type {disk.type!r}")
    if disk.type == "incremental" and manifest.type == "full":
        raise ValueError(f"disk {disk.target} is incremental in a full backup")
    # Always the parent's file, by the relative name that stands in the image.
    below = f"../{manifest.parent['id']}/" if manifest.parent is not None and disk.type == "incremental" else None
    backing = disk.backing or ""
    if (disk.backing is None) != (below is None) or (
        below is not None and not (backing.startswith(below) and _NAME.match(backing[len(below) :]))
    ):
        raise ValueError(f"disk {disk.target} of type {disk.type} on {disk.backing!r}")
    if not _is_count(disk.virtual_size) or disk.virtual_size % 512 or not _is_count(disk.data_bytes):
        raise ValueError(f"disk {disk.target} of {disk.virtual_size!r} bytes with {disk.data_bytes!r} of data")
    if disk.file not in names:
        raise ValueError(f"disk {disk.target} names the file {disk.file!r}, which is not listed")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
