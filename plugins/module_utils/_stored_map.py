# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the clusters of a stored disk lie in its images, and what of it can be used before all parts are proved.

Pure. Only for images as ``_qcow2.py`` lays them out: the header in front, all tables at the end. What is read here must
be proved: it lies in the parts that :func:`table_parts` names. Format: QEMU ``docs/interop/qcow2.txt``.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Callable, NamedTuple

from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_BITS, CLUSTER_SIZE

# 16 MiB of a disk, a whole fraction of what an L2 table describes.
STRETCH_CLUSTERS = 256

_ENTRIES = CLUSTER_SIZE // 8
_REFCOUNTS = CLUSTER_SIZE // 2
# Magic, version, cluster bits, size, encryption, L1, refcounts, snapshots, incompatible and autoclear features, and the
# kind of compression.
_HEADER = struct.Struct(">4sI12xIQIIQQII8xQ8xQ8xB")
_COMPRESSION_TYPE, _ZSTD = 1 << 3, 1
_TABLE_OFFSET = (1 << 56) - 512
_COMPRESSED = 1 << 62
_PLAIN_ZERO = 1
# "Compressed Clusters Descriptor": the offset has 62 - (cluster bits - 8) bits, the number of further sectors the rest.
_OFFSET_BITS = 62 - (CLUSTER_BITS - 8)
_PACKED_OFFSET, _MORE_SECTORS = (1 << _OFFSET_BITS) - 1, (1 << (CLUSTER_BITS - 8)) - 1

Read = Callable[[int, int], bytes]


class Place(NamedTuple):
    """A cluster of data.

    Attributes:
        cluster: Its number in the disk.
        image: The number of the image that has it, the topmost being 0.
        offset: In the image's file.
        length: In bytes; where it is compressed, up to the end of its last sector.
    """

    cluster: int
    image: int
    offset: int
    length: int
    compressed: bool


class StoredTables:
    """The tables of one image; see :func:`read_tables`.

    Attributes:
        record: Of its file.
        virtual_size: Of its disk, in bytes.
        compression: Of those clusters that are compressed.
    """

    def __init__(self, record: FileRecord, virtual_size: int, compression: str, l1: array[int], read: Read) -> None:
        self.record, self.virtual_size, self.compression = record, virtual_size, compression
        self._l1, self._read = l1, read
        self._last = (-1, array("Q"))

    def entries(self, stretch: int) -> array[int]:
        """The L2 entries of a stretch; none if there is nothing."""
        number, first = divmod(stretch * STRETCH_CLUSTERS, _ENTRIES)
        offset = self._l1[number] & _TABLE_OFFSET
        if not offset:
            return array("Q")
        # Whoever asks for one stretch soon asks for the next.
        last, table = self._last
        if last != number:
            table = _numbers(self._read(offset, CLUSTER_SIZE))
            self._last = (number, table)
        return table[first : first + STRETCH_CLUSTERS]


@dataclass(frozen=True)
class Stretch:
    """A piece of a disk in which there are data.

    Attributes:
        number: It begins with cluster ``number * STRETCH_CLUSTERS``.
        rank: How many clusters of data the disk has before it.
        clusters: How many it has itself.
        parts: That hold them: the number of the image, and that of the part.
    """

    number: int
    rank: int
    clusters: int
    parts: frozenset[tuple[int, int]]


def table_parts(record: FileRecord, virtual_size: int) -> list[int]:
    """The parts in which header and tables lie, if the image is one of ours. Numbers count from 1."""
    first = _tables_at(record, virtual_size) // record.part_size + 1
    return sorted({1, *range(first, len(record.parts) + 1)})


def in_order(record: FileRecord, virtual_size: int) -> list[int]:
    """All parts in the order in which they are wanted: the tables, then the data as they lie."""
    tables = set(table_parts(record, virtual_size))
    return sorted(range(1, len(record.parts) + 1), key=lambda number: (number not in tables, number))


def read_tables(record: FileRecord, virtual_size: int, read: Read) -> StoredTables | None:
    """Find the tables of one image.

    Args:
        record: Of its file.
        virtual_size: Of its disk, in bytes.
        read: Gives ``length`` bytes at ``offset``; called for nothing but what lies in :func:`table_parts`, also later.

    Returns:
        None if the image was laid out otherwise.
    """
    first = _tables_at(record, virtual_size)

    def is_table(offset: int, length: int) -> bool:
        return first <= offset and offset % CLUSTER_SIZE == 0 and offset + length <= record.size

    if record.size < _HEADER.size:
        return None
    (
        magic, version, bits, size, encrypted,
        l1_size, l1_offset, counts, count_clusters, snapshots, features, auto, kind,
    ) = _HEADER.unpack(read(0, _HEADER.size))  # fmt: skip
    usual = (magic, version, bits, size, encrypted, snapshots, auto) == (
        b"QFI\xfb", 3, CLUSTER_BITS, virtual_size, 0, 0, 0,
    )  # fmt: skip
    if not usual or (features, kind if features else 0) not in ((0, 0), (_COMPRESSION_TYPE, _ZSTD)):
        return None
    if l1_size != -(-_clusters(virtual_size) // _ENTRIES):
        return None
    if not is_table(l1_offset, 8 * l1_size) or not is_table(counts, count_clusters * CLUSTER_SIZE):
        return None
    l1 = _numbers(read(l1_offset, 8 * l1_size))
    if not all(is_table(entry & _TABLE_OFFSET, CLUSTER_SIZE) for entry in l1 if entry & _TABLE_OFFSET):
        return None
    return StoredTables(record, virtual_size, "zstd" if features else "zlib", l1, read)


def find_clusters(images: Sequence[StoredTables], number: int) -> list[Place]:
    """The clusters of data in a stretch, in the order of the disk, each in the topmost image that says anything of it.

    Args:
        images: Of the disk, the topmost first, all of one size.
        number: Of the stretch.
    """
    first = number * STRETCH_CLUSTERS
    count = min(STRETCH_CLUSTERS, _clusters(images[0].virtual_size) - first)
    found: dict[int, tuple[int, int]] = {}
    for image, tables in enumerate(images):
        for slot, entry in enumerate(tables.entries(number)):
            if entry and slot < count and slot not in found:
                found[slot] = (image, entry)
    return [
        _place(first + slot, image, entry)
        for slot, (image, entry) in sorted(found.items())
        if entry & _COMPRESSED or not entry & _PLAIN_ZERO
    ]


def plan_stretches(images: Sequence[StoredTables], reserve: Callable[[int, int], object]) -> list[Stretch] | None:
    """What of a disk can be written apart from the rest.

    Args:
        images: Of the disk, the topmost first, all of one size.
        reserve: Called with the first cluster and the length of each run of data, in the order of the disk.

    Returns:
        In the order of the disk; None if an entry points out of its file.
    """
    stretches: list[Stretch] = []
    rank = 0
    for number in range(-(-_clusters(images[0].virtual_size) // STRETCH_CLUSTERS)):
        places = find_clusters(images, number)
        if not places:
            continue
        parts: set[tuple[int, int]] = set()
        for place in places:
            record = images[place.image].record
            end = min(place.offset + place.length, record.size)
            if not CLUSTER_SIZE <= place.offset < end or not (place.compressed or end - place.offset == CLUSTER_SIZE):
                return None
            numbers = range(place.offset // record.part_size + 1, (end - 1) // record.part_size + 2)
            parts.update((place.image, part) for part in numbers)
        for first, count in runs(place.cluster for place in places):
            reserve(first, count)
        stretches.append(Stretch(number, rank, len(places), frozenset(parts)))
        rank += len(places)
    return stretches


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as runs without a gap: first and length of each."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found


class Waiting:
    """Which stretches still lack parts, and which parts are still of use."""

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self._missing: dict[int, int] = {}
        self._by_part: dict[tuple[int, int], list[Stretch]] = {}
        for stretch in stretches:
            self._missing[stretch.number] = len(stretch.parts)
            for part in stretch.parts:
                self._by_part.setdefault(part, []).append(stretch)
        self._uses = {part: len(those) for part, those in self._by_part.items()}

    def note_good(self, image: int, part: int) -> list[Stretch]:
        """A part is proved now: the stretches that lacked nothing else."""
        stretches = self._by_part.pop((image, part), [])
        for stretch in stretches:
            self._missing[stretch.number] -= 1
        return [stretch for stretch in stretches if not self._missing[stretch.number]]

    def note_written(self, stretch: Stretch) -> list[tuple[int, int]]:
        """A stretch is written now: the parts, each with the number of its image, that nothing else needs."""
        for part in stretch.parts:
            self._uses[part] -= 1
        return [part for part in stretch.parts if not self._uses[part]]

    def is_used(self, image: int, part: int) -> bool:
        """Whether a stretch that is not written needs a part."""
        return self._uses.get((image, part), 0) > 0


def _tables_at(record: FileRecord, virtual_size: int) -> int:
    """Where in the file the tables begin at the earliest: there is no L2 table for what holds nothing."""
    l2 = -(-_clusters(virtual_size) // _ENTRIES)
    l1 = -(-8 * l2 // CLUSTER_SIZE)
    blocks = -(-record.size // (CLUSTER_SIZE * _REFCOUNTS))
    return max(0, record.size - (l2 + l1 + blocks + -(-8 * blocks // CLUSTER_SIZE)) * CLUSTER_SIZE)


def _clusters(virtual_size: int) -> int:
    return -(-virtual_size // CLUSTER_SIZE)


def _place(cluster: int, image: int, entry: int) -> Place:
    if not entry & _COMPRESSED:
        return Place(cluster, image, entry & _TABLE_OFFSET, CLUSTER_SIZE, compressed=False)
    offset = entry & _PACKED_OFFSET
    sectors = (entry >> _OFFSET_BITS & _MORE_SECTORS) + 1
    return Place(cluster, image, offset, sectors * 512 - offset % 512, compressed=True)


def _numbers(data: bytes) -> array[int]:
    values = array("Q", data)
    if sys.byteorder == "little":
        values.byteswap()
    return values
