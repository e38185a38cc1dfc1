# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups made by hand, small and with many parts: to be damaged by the thousand."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord, FileRecord, Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef

UUID = "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"
OTHER_UUID = "6c1d40f2-9b0e-4f5c-8d39-b6a1d5a1f7aa"
NODE = "node1"
PART = 4096


def describe(name: str, data: bytes, part_size: int) -> FileRecord:
    """The record of a file, worked out anew: not by what is tested."""
    cuts = range(0, max(1, len(data)), part_size)
    parts = tuple(hashlib.sha256(data[at : at + part_size]).hexdigest() for at in cuts)
    return FileRecord(name, len(data), hashlib.sha256(data).hexdigest(), part_size, parts)


def backing_of(parent: Mapping[str, str] | None, file: str) -> str | None:
    """The name of the parent's image, as it stands in an incremental one."""
    return f"../{parent['id']}/{file}" if parent else None


def make_backup(
    directory: Path,
    files: Mapping[str, bytes],
    *,
    uuid: str = UUID,
    name: str = "web1",
    part_size: int = PART,
    parent: Mapping[str, str] | None = None,
) -> Manifest:
    """Write a backup; its id is the directory's name. Files called ``*.qcow2`` are its disks."""
    directory.mkdir(mode=0o700, parents=True)
    for file, data in files.items():
        (directory / file).write_bytes(data)
    kind = "incremental" if parent else "full"
    disks = [file for file in files if file.endswith(".qcow2")]
    manifest = Manifest(
        id=directory.name,
        vm=VmRef(uuid, name, NODE),
        instant="2026-11-22T15:12:00.250000Z",
        finished_at="2026-11-22T15:13:00Z",
        type=kind,
        full_reason=None if parent else "every backup is a full one",
        consistency="crash",
        compression="zstd",
        disks=tuple(
            DiskRecord(f[:-6], kind, f, "qcow2", f"/x/{f}", 1 << 20, len(files[f]), backing_of(parent, f))
            for f in disks
        ),
        excluded=(("sda", "cdrom"),),
        files=tuple(describe(file, data, part_size) for file, data in files.items()),
        tool={"collection": "1.0.0", "libvirt": "9.0.0", "qemu": "7.2.0"},
        parent=parent,
    )
    (directory / "manifest.json").write_bytes(manifest.encode())
    return manifest


def some_files(chance: random.Random) -> dict[str, bytes]:
    """Files of a small backup, of awkward lengths."""
    return {
        "vda.qcow2": chance.randbytes(7 * PART + chance.randrange(PART)),
        "vdb.qcow2": chance.randbytes(3 * PART),
        "domain.xml": b"<domain/>" + chance.randbytes(40).hex().encode(),
        "nvram.fd": b"",
    }


# A damage takes a backup's directory and one of another machine, and says what it did.
Damager = Callable[[Path, Path, random.Random], str]


def flip_a_bit(path: Path, _other: Path, chance: random.Random) -> str:
    """As a cosmic ray does, anywhere, the manifest included."""
    file = chance.choice([f for f in sorted(path.iterdir()) if f.stat().st_size and f.name != "verified.json"])
    data = bytearray(file.read_bytes())
    at = chance.randrange(len(data))
    data[at] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return f"bit at {at} of {file.name}"


def zero_a_sector(path: Path, _other: Path, chance: random.Random) -> str:
    """As a disk does that lost a write."""
    file = chance.choice(sorted(path.glob("*.qcow2")))
    data = bytearray(file.read_bytes())
    at = chance.randrange(len(data) // 512) * 512
    data[at : at + 512] = bytes(512)
    file.write_bytes(data)
    return f"sector at {at} of {file.name}"


def cut_it(path: Path, _other: Path, chance: random.Random) -> str:
    """As a full file system does."""
    file = chance.choice([f for f in sorted(path.iterdir()) if f.stat().st_size and f.name != "verified.json"])
    size = chance.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"{file.name} cut to {size}"


def append_to_it(path: Path, _other: Path, chance: random.Random) -> str:
    """Longer than it was."""
    file = chance.choice([f for f in sorted(path.iterdir()) if f.name != "verified.json"])
    with file.open("ab") as stream:
        stream.write(chance.randbytes(chance.randrange(1, 600)))
    return f"{file.name} is longer"


def swap_parts(path: Path, _other: Path, chance: random.Random) -> str:
    """All bytes are there, in another order."""
    file = chance.choice(sorted(path.glob("*.qcow2")))
    data = bytearray(file.read_bytes())
    one, two = (number * PART for number in chance.sample(range(len(data) // PART), 2))
    data[one : one + PART], data[two : two + PART] = data[two : two + PART], data[one : one + PART]
    file.write_bytes(data)
    return f"parts at {one} and {two} of {file.name} swapped"


def exchange_files(path: Path, _other: Path, _chance: random.Random) -> str:
    """Two files of it under each other's names."""
    (path / "vda.qcow2").rename(path / "x")
    (path / "vdb.qcow2").rename(path / "vda.qcow2")
    (path / "x").rename(path / "vdb.qcow2")
    return "vda and vdb exchanged"


def take_another_machines_file(path: Path, other: Path, chance: random.Random) -> str:
    """A file, or the manifest, of another machine's backup of the same second."""
    name = chance.choice(["manifest.json", "vda.qcow2", "domain.xml"])
    (path / name).write_bytes((other / name).read_bytes())
    return f"another machine's {name}"


def lose_a_file(path: Path, _other: Path, chance: random.Random) -> str:
    """One of them is gone."""
    file = chance.choice([f for f in sorted(path.iterdir()) if f.name != "verified.json"])
    file.unlink()
    return f"{file.name} is missing"


DAMAGERS: tuple[Damager, ...] = (
    flip_a_bit,
    zero_a_sector,
    cut_it,
    append_to_it,
    swap_parts,
    exchange_files,
    take_another_machines_file,
    lose_a_file,
)
