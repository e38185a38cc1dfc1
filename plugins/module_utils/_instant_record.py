# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``instant.json``: the note of a machine that runs while its disks are still filled from a backup.

It is there from before the first program is started until nothing depends on the backup any more. It holds no secret;
beside it lie files with credentials, mode 0600, for the time being.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    read_json,
    remove_tree,
    storage_errors,
    write_json,
)
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._services import Service

_NAME = "instant.json"
_SUFFIX = ".instant"
_SCHEMA = 1
PREPARING, PULLING = "preparing", "pulling"


@dataclass
class InstantDisk:
    """One disk.

    Attributes:
        path: Of the image that the machine works on.
        size: In bytes, as the guest sees it.
        services: What serves it; the last one is what QEMU reads from.
        seen: Where its data come from: backup id, file, copy, and how that looked at the beginning.
        policies: Of errors, as the machine's own definition has them.
        kept: What the file that was there is called now.
        whole: It was seen to need nothing else, on disk.
    """

    path: Path
    size: int
    services: tuple[Service, ...]
    seen: tuple[Mapping[str, Any], ...]
    policies: Mapping[str, str]
    kept: Path | None = None
    whole: bool = False

    @property
    def source(self) -> str:
        """The copies that its data come from."""
        return "+".join(dict.fromkeys(str(entry["copy"]) for entry in self.seen))

    def as_result(self, target: str) -> dict[str, Any]:
        """For a module's result."""
        return {
            "target": target,
            "path": str(self.path),
            "format": "qcow2",
            "virtual_size": self.size,
            "kept": str(self.kept) if self.kept is not None else None,
        }

    @property
    def socket(self) -> Path:
        """Where QEMU reads."""
        return self.services[-1].socket


@dataclass
class InstantRecord:
    """All that a later call has to know.

    Attributes:
        directory: Where it lies.
        phase: ``preparing`` until the machine runs, then ``pulling``.
        backup: Id and SHA-256 of the backup, and the UUID of the machine that it is of.
        mode: Of the restore, ``new`` or ``in_place``.
        held: The copies of the backup that carry a hold of ours.
        remove: What was put aside and is removed at the end.
        kept: What was put aside and stays.
        runtime: libvirt's number of the machine's run that fills its disks.
        settling: It is paused for a moment, by us.
    """

    directory: Path
    uuid: str
    name: str
    backup: Mapping[str, str]
    mode: str
    phase: str = PREPARING
    disks: dict[str, InstantDisk] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    runtime: int | None = None
    settling: bool = False

    def write(self) -> None:
        """Replace the file. Raises ``StorageError``."""
        with storage_errors(f"creating {self.directory}"):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        value: dict[str, Any] = {
            "schema": _SCHEMA,
            "vm": {"uuid": self.uuid, "name": self.name},
            "backup": dict(self.backup),
            "mode": self.mode,
            "phase": self.phase,
            "disks": {target: _disk_value(disk) for target, disk in self.disks.items()},
            "held": self.held,
            "remove": self.remove,
            "kept": self.kept,
            "runtime": self.runtime,
            "settling": self.settling,
        }
        write_json(self.directory / _NAME, value)

    def discard(self) -> None:
        """Remove it, and what lies beside it."""
        with storage_errors(f"removing {self.directory}"):
            (self.directory / _NAME).unlink(missing_ok=True)
        remove_tree(self.directory)


def record_directory(state_dir: Path, uuid: str) -> Path:
    """Where the note of a machine lies: not in the directory of its restore, which is gone once that has put it up."""
    return state_dir / f"{uuid}{_SUFFIX}"


def read_record(state_dir: Path, uuid: str) -> InstantRecord | None:
    """The note of a machine; None where there is none.

    Raises:
        FormatError: It is damaged.
    """
    directory = record_directory(state_dir, uuid)
    try:
        value = read_json(directory / _NAME)
    except FileNotFoundError:
        return None
    return InstantRecord(
        directory=directory,
        uuid=value["vm"]["uuid"],
        name=value["vm"]["name"],
        backup=value["backup"],
        mode=value["mode"],
        phase=value["phase"],
        disks={target: _disk(disk) for target, disk in value["disks"].items()},
        held=list(value["held"]),
        remove=list(value["remove"]),
        kept=list(value["kept"]),
        runtime=value["runtime"],
        settling=value["settling"],
    )


def find_record(state_dir: Path, *, uuid: str, name: str | None) -> InstantRecord | None:
    """The note of a machine that was restored in place, or of a new one, whose UUID depends on its backup.

    Args:
        uuid: Of the machine in the backup.
        name: Of the new machine; None in place.
    """
    if name is None:
        return read_record(state_dir, uuid)
    for directory in sorted(state_dir.glob(f"*{_SUFFIX}")):
        record = read_record(state_dir, directory.name[: -len(_SUFFIX)])
        if record is not None and record.name == name and record.backup["uuid"] == uuid:
            return record
    return None


def of_record(options: RestoreOptions, record: InstantRecord) -> RestoreOptions:
    """The same request for the backup that a machine was begun with."""
    return replace(options, id=record.backup["id"], checksum=record.backup["sha256"], before=None)


def _disk_value(disk: InstantDisk) -> dict[str, Any]:
    return {
        "path": str(disk.path),
        "size": disk.size,
        "services": [service.as_dict() for service in disk.services],
        "seen": [dict(entry) for entry in disk.seen],
        "policies": dict(disk.policies),
        "kept": str(disk.kept) if disk.kept is not None else None,
        "whole": disk.whole,
    }


def _disk(value: Mapping[str, Any]) -> InstantDisk:
    services = tuple(Service.from_dict(service) for service in value["services"])
    kept = Path(value["kept"]) if value["kept"] is not None else None
    return InstantDisk(
        Path(value["path"]), value["size"], services, tuple(value["seen"]), value["policies"], kept, value["whole"]
    )
