# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which parts of its file each stretch of a stored disk lies, so that it can be used before all parts are proved.

Pure. Only for images as ``_qcow2.py`` lays them out: the header in front, all tables at the end. Of every other image
all parts are needed. What is read here must be proved: the parts that :func:`table_parts` names.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_BITS, CLUSTER_SIZE

# 64 MiB of a disk, a whole fraction of what an L2 table describes.
STRETCH_CLUSTERS = 1024
STRETCH = STRETCH_CLUSTERS * CLUSTER_SIZE

_ENTRIES = CLUSTER_SIZE // 8
_REFCOUNTS = CLUSTER_SIZE // 2
# Magic, version, cluster bits, size, encryption, L1, refcounts, snapshots, incompatible and autoclear features.
_HEADER = struct.Struct(">4sI12xIQIIQQII8xQ8xQ")
_TABLE_OFFSET = (1 << 56) - 512
# Of compressed clusters; enough for plain ones, since no file is that long.
_DATA_OFFSET = (1 << 54) - 1
_PLAIN_ZERO = 1
# A compressed cluster has at most 256 sectors ("Compressed Clusters Descriptor"), a plain one is half as long.
_LONGEST = 256 * 512
_COMPRESSION_TYPE = 1 << 3

Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Stretch:
    """A piece of a disk.

    Attributes:
        parts: For each of the disk's images, the numbers of the parts that hold what the stretch has there.
        clusters: How many clusters of data it has, in all images.
    """

    parts: tuple[range, ...]
    clusters: int


def table_parts(record: FileRecord, virtual_size: int) -> list[int]:
    """The parts in which header and tables lie, if the image is one of ours. Numbers count from 1."""
    first = _tables_at(record, virtual_size) // record.part_size + 1
    return sorted({1, *range(first, len(record.parts) + 1)})


def in_order(record: FileRecord, virtual_size: int) -> list[int]:
    """All parts in the order in which they are wanted: the tables, then the data as they lie."""
    tables = set(table_parts(record, virtual_size))
    return sorted(range(1, len(record.parts) + 1), key=lambda number: (number not in tables, number))


def map_image(record: FileRecord, virtual_size: int, read: Read) -> list[tuple[range, int]] | None:
    """Where the data of one image lie.

    Args:
        record: Of its file.
        virtual_size: Of its disk, in bytes.
        read: Gives ``length`` bytes at ``offset``; called for nothing but what lies in :func:`table_parts`.

    Returns:
        For each stretch of the disk its parts and its number of clusters; None if the image was laid out otherwise.
    """
    first = _tables_at(record, virtual_size)

    def is_table(offset: int, length: int) -> bool:
        return first <= offset and offset + length <= record.size

    if record.size < _HEADER.size:
        return None
    magic, version, bits, size, encrypted, l1_size, l1_offset, counts, count_clusters, snapshots, features, auto = (
        _HEADER.unpack(read(0, _HEADER.size))
    )
    plain = (magic, version, bits, size, encrypted, snapshots, auto) == (
        b"QFI\xfb", 3, CLUSTER_BITS, virtual_size, 0, 0, 0,
    )  # fmt: skip
    if not plain or features & ~_COMPRESSION_TYPE or l1_size != -(-_clusters(virtual_size) // _ENTRIES):
        return None
    if not is_table(l1_offset, 8 * l1_size) or not is_table(counts, count_clusters * CLUSTER_SIZE):
        return None
    found: list[tuple[range, int]] = []
    for entry in _numbers(read(l1_offset, 8 * l1_size)):
        offset = entry & _TABLE_OFFSET
        if offset and not is_table(offset, CLUSTER_SIZE):
            return None
        table = _numbers(read(offset, CLUSTER_SIZE)) if offset else array("Q", bytes(CLUSTER_SIZE))
        for at in range(0, _ENTRIES, STRETCH_CLUSTERS):
            found.append(_look_at(table[at : at + STRETCH_CLUSTERS], record))
    return found[: -(-virtual_size // STRETCH)]


def plan_stretches(images: Sequence[Sequence[tuple[range, int]]], virtual_size: int) -> list[Stretch]:
    """The stretches of a disk that is made of several images; a smaller one has nothing behind its end.

    Args:
        images: As :func:`map_image` has them.
        virtual_size: Of the disk, in bytes.
    """
    rows = zip_longest(*images, fillvalue=(range(0), 0))
    found = [Stretch(tuple(parts for parts, _count in row), sum(count for _parts, count in row)) for row in rows]
    return found[: -(-virtual_size // STRETCH)]


def next_run(
    stretches: Sequence[Stretch], written: Collection[int], is_good: Callable[[Sequence[range]], bool], *, least: int
) -> range | None:
    """The row of stretches with the most data that can be written now.

    Args:
        written: Those that need not be written any more.
        is_good: Whether the parts of a stretch are proved, given for each image.
        least: So many clusters of data are worth it.
    """
    best, most, begin, count = None, least - 1, 0, 0
    for number, stretch in enumerate(stretches):
        if number in written or not is_good(stretch.parts):
            begin, count = number + 1, 0
            continue
        count += stretch.clusters
        if count > most:
            best, most = range(begin, number + 1), count
    return best


def _tables_at(record: FileRecord, virtual_size: int) -> int:
    """Where in the file the tables begin at the earliest: there is no L2 table for what holds nothing."""
    l2 = -(-_clusters(virtual_size) // _ENTRIES)
    l1 = -(-8 * l2 // CLUSTER_SIZE)
    blocks = -(-record.size // (CLUSTER_SIZE * _REFCOUNTS))
    return max(0, record.size - (l2 + l1 + blocks + -(-8 * blocks // CLUSTER_SIZE)) * CLUSTER_SIZE)


def _clusters(virtual_size: int) -> int:
    return -(-virtual_size // CLUSTER_SIZE)


def _look_at(entries: array[int], record: FileRecord) -> tuple[range, int]:
    offsets = [entry & _DATA_OFFSET for entry in entries if entry & ~_PLAIN_ZERO]
    if not offsets:
        return range(0), 0
    end = min(max(offsets) + _LONGEST, record.size)
    return range(min(offsets) // record.part_size + 1, (end - 1) // record.part_size + 2), len(offsets)


def _numbers(data: bytes) -> array[int]:
    values = array("Q", data)
    if sys.byteorder == "little":
        values.byteswap()
    return values
