# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lays chains of backups, with real images, of which every byte at every point is known."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord, Manifest, manifest_sha256
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, format_id, format_time
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE, ImageWriter
from tests.bed.backups import NODE, PART, UUID, describe

FIRST = datetime(2026, 1, 5, 2, 0, tzinfo=timezone.utc)


def cluster(word: int) -> bytes:
    """What a word stands for: 0 for zeros, others for a cluster that says which it is."""
    if not word:
        return bytes(CLUSTER_SIZE)
    noise = b"".join(hashlib.sha256(b"%d/%d" % (word, number)).digest() for number in range(CLUSTER_SIZE // 256))
    # An odd one does not shrink when it is compressed.
    return noise * 8 if word % 2 == 0 else (noise + bytes(len(noise))) * 4


@dataclass
class Disk:
    """A disk of the guest as it is now: its size in bytes, and the words of its clusters."""

    size: int
    words: dict[int, int] = field(default_factory=dict)

    def content(self) -> bytes:
        """Every byte of it."""
        clusters = -(-self.size // CLUSTER_SIZE)
        return b"".join(cluster(self.words.get(index, 0)) for index in range(clusters))[: self.size]


@dataclass(frozen=True)
class Point:
    """One backup, and what each disk had then."""

    id: str
    manifest: Manifest
    contents: Mapping[str, bytes]

    @property
    def as_parent(self) -> dict[str, str]:
        """What a child says of it."""
        return {"id": self.id, "manifest_sha256": manifest_sha256(self.manifest.encode())}


@dataclass
class ChainMaker:
    """A guest that is only thought of, and its backups.

    Attributes:
        directory: Of the VM: each backup becomes one below it.
        disks: By target, as they are now.
        domain: The ``domain.xml`` of each backup.
    """

    directory: Path
    disks: dict[str, Disk]
    uuid: str = UUID
    name: str = "web1"
    node: str = NODE
    domain: bytes = b"<domain/>"
    part_size: int = PART
    points: list[Point] = field(default_factory=list)

    def write(self, changes: Mapping[str, Mapping[int, int]]) -> None:
        """Let the guest write words to clusters of its disks."""
        for target, words in changes.items():
            self.disks[target].words.update(words)

    def back_up(
        self, dirty: Mapping[str, Collection[int]], *, parent: Point | None = None, full: Collection[str] = ()
    ) -> Point:
        """Lay a backup.

        Args:
            dirty: Target -> clusters that are stored, those that are zero among them. In a full one all are.
            full: Targets that are stored in full all the same.
        """
        moment = FIRST + timedelta(days=len(self.points))
        path = self.directory / format_id(moment)
        path.mkdir(mode=0o700, parents=True)
        records, disks = [], []
        for target, disk in self.disks.items():
            whole = parent is None or target in full
            backing = None if parent is None or whole else f"../{parent.id}/{target}.qcow2"
            image, data_bytes = _image(disk, None if whole else dirty.get(target, ()), backing)
            (path / f"{target}.qcow2").write_bytes(image)
            records.append(describe(f"{target}.qcow2", image, self.part_size))
            kind = "full" if whole else "incremental"
            source = f"/images/{self.name}-{target}.img"
            disks.append(
                DiskRecord(target, kind, f"{target}.qcow2", "qcow2", source, disk.size, data_bytes, backing, 65536)
            )
        (path / "domain.xml").write_bytes(self.domain)
        records.append(describe("domain.xml", self.domain, self.part_size))
        manifest = Manifest(
            id=path.name,
            vm=VmRef(self.uuid, self.name, self.node),
            instant=format_time(moment),
            finished_at=format_time(moment + timedelta(seconds=9)),
            type="full" if parent is None else "incremental",
            full_reason="there is no earlier backup" if parent is None else None,
            consistency="crash",
            compression="zlib",
            disks=tuple(disks),
            excluded=(),
            files=tuple(records),
            tool={"collection": "1.0.0"},
            parent=parent.as_parent if parent is not None else None,
            checkpoint=f"vmforge-{path.name}",
        )
        (path / "manifest.json").write_bytes(manifest.encode())
        point = Point(path.name, manifest, {target: disk.content() for target, disk in self.disks.items()})
        self.points.append(point)
        return point

    def grow(self, target: str, size: int) -> None:
        """Make a disk larger, or smaller: what is cut off is gone, and a last cluster that was cut reads zero."""
        disk = self.disks[target]
        whole = min(disk.size, size) // CLUSTER_SIZE
        disk.words = {index: word for index, word in disk.words.items() if index < whole}
        disk.size = size


def make_chain(directory: Path, count: int, *, clusters: int = 6, **more: object) -> ChainMaker:
    """A chain of so many backups of two disks: data and zeros come, go and stay, differently in each."""
    maker = ChainMaker(directory, {target: Disk(clusters * CLUSTER_SIZE) for target in ("vda", "vdb")})
    for name, value in more.items():
        setattr(maker, name, value)
    maker.write({target: {index: index + 1 for index in range(clusters - 1)} for target in maker.disks})
    parent = None
    for number in range(count):
        words = {number % clusters: 100 + number, (number + 2) % clusters: 0}
        if number:
            maker.write(dict.fromkeys(maker.disks, words))
        parent = maker.back_up(dict.fromkeys(maker.disks, words), parent=parent)
    return maker


def _image(disk: Disk, stored: Collection[int] | None, backing: str | None) -> tuple[bytes, int]:
    """A qcow2 image by the writer of the engine, and how much data is in it."""
    body = bytearray(CLUSTER_SIZE)
    writer = ImageWriter(
        disk.size,
        compression="zlib",
        append=body.extend,
        backing=(backing, "qcow2") if backing is not None else None,
    )
    count = 0
    for index in range(writer.clusters) if stored is None else sorted(stored):
        word = disk.words.get(index, 0)
        if word:
            data = cluster(word)
            packer = zlib.compressobj(1, zlib.DEFLATED, -12)
            packed = packer.compress(data) + packer.flush()
            if len(packed) < CLUSTER_SIZE:
                writer.add_compressed(index, packed)
            else:
                writer.add_plain(index, data)
            count += 1
        elif stored is not None:
            writer.add_zero(index)
    header = writer.finish()
    body[: len(header)] = header
    return bytes(body), count * CLUSTER_SIZE
