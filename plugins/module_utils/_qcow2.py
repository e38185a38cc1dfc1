# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A streaming qcow2 writer: lays out an image whose bytes are produced strictly in order, the header last.

Format: QEMU ``docs/interop/qcow2.txt``, version 3, 64 KiB clusters, 16-bit refcounts. Compressed data come first,
then the L2 tables, the L1 table, the refcount blocks and table; the header, in cluster 0, is known only at the end.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Callable, Union

CLUSTER_BITS = 16
CLUSTER_SIZE = 1 << CLUSTER_BITS
SECTOR_SIZE = 512
COMPRESSIONS = ("zstd", "zlib", "none")

_L2_ENTRIES = CLUSTER_SIZE // 8
_REFCOUNTS_PER_BLOCK = CLUSTER_SIZE // 2
_COPIED = 1 << 63
_COMPRESSED = 1 << 62
_ZERO = 1
# Bits of a compressed L2 entry that hold the host offset (section "Compressed Clusters Descriptor": 62 - (16 - 8)).
_SECTORS_SHIFT = 62 - (CLUSTER_BITS - 8)
_INCOMPATIBLE_COMPRESSION_TYPE = 1 << 3
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_HEADER_LENGTH = 112
# Plain clusters must be aligned. They wait for one another so that the gap before them is paid once for many.
_PLAIN_BATCH = 16
# And not for longer than so many bytes of the file: what lies together on the disk lies together in the file.
_PLAIN_DISTANCE = 8 << 20

Buffer = Union[bytes, bytearray, memoryview]


class ImageWriter:
    """Lays out one image. Knows no I/O: bytes go to ``append``, in file order, from offset 64 KiB on.

    Args:
        virtual_size: In bytes, a multiple of 512 (a qcow2 header with an odd size is silently truncated by QEMU).
        compression: ``zstd``, ``zlib`` (raw deflate, window -12) or ``none``: what compressed clusters hold.
        append: Takes the next bytes of the file.
        backing: File name as it is to stand in the header, and its format.

    Raises:
        ValueError: A size or a compression that the format cannot express.
    """

    def __init__(
        self,
        virtual_size: int,
        *,
        compression: str,
        append: Callable[[Buffer], None],
        backing: tuple[str, str] | None = None,
    ) -> None:
        if virtual_size < 0 or virtual_size % SECTOR_SIZE:
            raise ValueError(f"virtual size {virtual_size} is not a multiple of {SECTOR_SIZE}")
        if compression not in COMPRESSIONS:
            raise ValueError(f"unknown compression {compression!r}")
        self.virtual_size = virtual_size
        self._compression = compression
        self._backing = backing
        self._append = append
        self._offset = CLUSTER_SIZE
        self._refcounts = array("H", [1])
        self._l2: dict[int, array[int]] = {}
        self._plain: list[tuple[int, bytes]] = []
        self._plain_since = 0

    @property
    def clusters(self) -> int:
        """Number of guest clusters, the last one possibly partial."""
        return -(-self.virtual_size // CLUSTER_SIZE)

    @property
    def size(self) -> int:
        """Of the file so far, in bytes."""
        return self._offset

    def add_compressed(self, index: int, data: Buffer) -> None:
        """Append a guest cluster whose compressed form is smaller than a cluster.

        Args:
            index: Guest cluster number.
            data: One frame that decodes to exactly one cluster.
        """
        length = len(data)
        if not 0 < length < CLUSTER_SIZE:
            raise ValueError(f"compressed cluster of {length} bytes")
        start, end = self._offset, self._offset + length
        more_sectors = ((end - 1) >> 9) - (start >> 9)
        self._set(index, _COMPRESSED | more_sectors << _SECTORS_SHIFT | start)
        self._write(data, references=1)
        if self._plain and end - self._plain_since > _PLAIN_DISTANCE:
            self._flush_plain()

    def add_plain(self, index: int, data: Buffer) -> None:
        """Append a guest cluster as it is; used where compression does not help. Exactly one cluster long."""
        if len(data) != CLUSTER_SIZE:
            raise ValueError(f"plain cluster of {len(data)} bytes")
        if not self._plain:
            self._plain_since = self._offset
        self._plain.append((index, bytes(data)))
        if len(self._plain) == _PLAIN_BATCH or self._offset % CLUSTER_SIZE == 0:
            self._flush_plain()

    def add_zero(self, index: int) -> None:
        """Mark a guest cluster as reading zero, whatever the backing file holds."""
        self._set(index, _ZERO)

    def add_zeros(self, first: int, count: int) -> None:
        """Mark a run of guest clusters as reading zero: a guest may discard a whole disk."""
        for table, slot, step in self._slots(first, count):
            table[slot : slot + step] = array("Q", [_ZERO]) * step

    def reserve_plain(self, first: int, count: int) -> int:
        """Leave room for a run of guest clusters as they are, which somebody else writes.

        Returns:
            The offset in the file at which the run goes.
        """
        self._flush_plain()
        self._pad()
        offset = self._offset
        for table, slot, step in self._slots(first, count):
            end = self._offset + step * CLUSTER_SIZE
            table[slot : slot + step] = array("Q", range(_COPIED | self._offset, _COPIED | end, CLUSTER_SIZE))
            self._offset = end
        self._refcounts.extend(array("H", [1]) * count)
        return offset

    def finish(self) -> bytes:
        """Append the tables and return the header, which belongs at offset 0 and is at most one cluster long."""
        self._flush_plain()
        self._pad()
        l1_size = -(-self.clusters // _L2_ENTRIES)
        l1 = array("Q", bytes(8 * l1_size))
        for number in sorted(self._l2):
            l1[number] = self._offset | _COPIED
            self._write(_big_endian(self._l2[number]), references=1)
        l1_offset = self._offset if l1_size else 0
        self._write(_big_endian(l1), references=1)
        self._pad()
        table_offset, table_clusters = self._write_refcounts()
        return self._header(l1_size, l1_offset, table_offset, table_clusters)

    def _set(self, index: int, entry: int) -> None:
        if not 0 <= index < self.clusters:
            raise ValueError(f"cluster {index} is outside the image of {self.clusters} clusters")
        number, slot = divmod(index, _L2_ENTRIES)
        table = self._table(number)
        if table[slot]:
            raise ValueError(f"cluster {index} was written twice")
        table[slot] = entry

    def _slots(self, first: int, count: int) -> Iterator[tuple[array[int], int, int]]:
        """The pieces of L2 tables, each with its first slot and its length, in which a run of clusters goes."""
        if first < 0 or first + count > self.clusters:
            raise ValueError(f"clusters {first} to {first + count} are not all inside the image")
        while count:
            number, slot = divmod(first, _L2_ENTRIES)
            step = min(count, _L2_ENTRIES - slot)
            table = self._table(number)
            if any(table[slot : slot + step]):
                raise ValueError(f"a cluster of {first} to {first + step} was written twice")
            yield table, slot, step
            first, count = first + step, count - step

    def _table(self, number: int) -> array[int]:
        table = self._l2.get(number)
        if table is None:
            table = self._l2[number] = array("Q", bytes(CLUSTER_SIZE))
        return table

    def _write(self, data: Buffer, *, references: int) -> None:
        """Append bytes and count a reference for every host cluster that they touch."""
        length = len(data)
        if not length:
            return
        first, last = self._offset >> CLUSTER_BITS, (self._offset + length - 1) >> CLUSTER_BITS
        counts = self._refcounts
        if last >= len(counts):
            counts.extend([0] * (last + 1 - len(counts)))
        for cluster in range(first, last + 1):
            counts[cluster] += references
        self._append(data)
        self._offset += length

    def _pad(self) -> None:
        gap = -self._offset % CLUSTER_SIZE
        if gap:
            self._write(bytes(gap), references=0)

    def _flush_plain(self) -> None:
        if not self._plain:
            return
        self._pad()
        for index, data in self._plain:
            self._set(index, _COPIED | self._offset)
            self._write(data, references=1)
        self._plain.clear()

    def _write_refcounts(self) -> tuple[int, int]:
        """Append refcount blocks and table, which count themselves too. Returns the table's offset and clusters."""
        used = self._offset >> CLUSTER_BITS
        blocks = table = 0
        while True:
            total = used + blocks + table
            need_blocks = -(-total // _REFCOUNTS_PER_BLOCK)
            need_table = -(-need_blocks * 8 // CLUSTER_SIZE)
            if (need_blocks, need_table) == (blocks, table):
                break
            blocks, table = need_blocks, need_table
        counts = self._refcounts
        counts.extend([1] * (blocks + table))
        counts.extend([0] * (blocks * _REFCOUNTS_PER_BLOCK - len(counts)))
        block_offset = self._offset
        self._append(_big_endian(counts))
        self._offset += blocks * CLUSTER_SIZE
        entries = array("Q", [block_offset + n * CLUSTER_SIZE for n in range(blocks)])
        entries.extend([0] * (table * _L2_ENTRIES - blocks))
        table_offset = self._offset
        self._append(_big_endian(entries))
        self._offset += table * CLUSTER_SIZE
        return table_offset, table

    def _header(self, l1_size: int, l1_offset: int, table_offset: int, table_clusters: int) -> bytes:
        extensions = b""
        name = b""
        if self._backing is not None:
            name, backing_format = self._backing[0].encode(), self._backing[1].encode()
            padded = backing_format + bytes(-len(backing_format) % 8)
            extensions = struct.pack(">II", _EXTENSION_BACKING_FORMAT, len(backing_format)) + padded
        extensions += bytes(8)
        name_offset = _HEADER_LENGTH + len(extensions) if name else 0
        zstd = self._compression == "zstd"
        header = struct.pack(
            ">4sIQIIQIIQQIIQQQQIIB7x",
            b"QFI\xfb", 3, name_offset, len(name), CLUSTER_BITS, self.virtual_size, 0, l1_size, l1_offset,
            table_offset, table_clusters, 0, 0, _INCOMPATIBLE_COMPRESSION_TYPE if zstd else 0, 0, 0,
            4, _HEADER_LENGTH, int(zstd),
        )  # fmt: skip
        return header + extensions + name


def _big_endian(values: array[int]) -> bytes:
    if sys.byteorder == "little":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()
