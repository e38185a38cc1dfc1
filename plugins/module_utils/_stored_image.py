# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads clusters of a stored disk out of its images' files. What is read must be proved."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._compress import Decompressor, make_decompressor
from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import aligned_buffer, read_at, set_direct
from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_error
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer
from ansible_collections.vmforge.backup.plugins.module_utils._stored_map import Place, StoredTables, read_tables

# So many clusters are asked for at once at most.
CLUSTERS_AT_ONCE = 16
_PAGE = 4096
# Clusters with no more than so much between them are read together.
_GAP = 64 << 10
_BUFFER = 4 << 20


class SourceError(StorageError):
    """An image of a backup cannot be read. Another copy may do."""


class _Mine(threading.local):
    """Each thread's buffer and decompressors."""

    def __init__(self) -> None:
        self.buffer = memoryview(aligned_buffer(_BUFFER))
        self.unpack: dict[str, Decompressor] = {}


class StoredImages:
    """The images of one disk, open for reading from several threads. A context.

    Args:
        layers: The topmost first.
        paths: Of their files.
        kept: For each image, parts that are in memory by their number; from any thread.

    Attributes:
        layers: As given.
        tables: Of the images; empty if one of them was laid out otherwise or cannot be decompressed here, or if they
            are not of one size.

    Raises:
        SourceError: One cannot be read.
    """

    def __init__(
        self, layers: Sequence[Layer], paths: Sequence[Path], kept: Sequence[Mapping[int, memoryview]] = ()
    ) -> None:
        self.layers, self._paths, self._kept = layers, paths, kept
        self._descriptors: list[int] = []
        self._mine = _Mine()
        self.tables: list[StoredTables] = []

    def __enter__(self) -> StoredImages:
        with contextlib.ExitStack() as stack:
            for path in self._paths:
                with _reading(path):
                    self._descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
                stack.callback(os.close, self._descriptors[-1])
                set_direct(self._descriptors[-1], True)
            found = [self._read_tables(number, layer) for number, layer in enumerate(self.layers)]
            known = [tables for tables in found if tables is not None and make_decompressor(tables.compression)]
            # Behind the end of a smaller one there are zeros, whatever lies below it.
            sizes = {layer.disk.virtual_size for layer in self.layers}
            self.tables = known if len(known) == len(found) and len(sizes) == 1 else []
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def read(self, places: Sequence[Place], into: memoryview) -> None:
        """Put clusters one behind the other, each as the guest saw it.

        Args:
            places: At most :data:`CLUSTERS_AT_ONCE`.
            into: As long as all of them.

        Raises:
            SourceError: One cannot be read, or is none.
        """
        wanted = sorted(enumerate(places), key=lambda pair: pair[1][1:3])
        for group in _together(wanted):
            first, last = group[0][1], group[-1][1]
            data = self._read(first.image, first.offset, last.offset + last.length - first.offset)
            for number, place in group:
                start = place.offset - first.offset
                self._unpack(place, data[start : start + place.length], into[number * CLUSTER_SIZE :])

    def _read_tables(self, number: int, layer: Layer) -> StoredTables | None:
        return read_tables(
            layer.record,
            layer.disk.virtual_size,
            lambda offset, length: self._read_table(number, offset, length),
        )

    def _read_table(self, image: int, offset: int, length: int) -> bytes:
        data = bytes(self._read(image, offset, length))
        if len(data) != length:
            # No entries would be taken for no data.
            raise SourceError(f"{self._paths[image]} became shorter while it was read.", code="read_failed")
        return data

    def _read(self, image: int, offset: int, length: int) -> memoryview:
        """What there is; valid until this thread's next call."""
        part_size = self.layers[image].record.part_size
        number, start = divmod(offset, part_size)
        part = self._kept[image].get(number + 1) if self._kept else None
        if part is not None and start + length <= part_size:
            return part[start : start + length]
        before = offset % _PAGE
        buffer = self._mine.buffer
        if before + length > len(buffer):
            # The first table of a very large disk.
            buffer = memoryview(aligned_buffer(before + length + _PAGE))
        end = before + length
        with _reading(self._paths[image]):
            got = read_at(self._descriptors[image], buffer[: end + -end % _PAGE], offset - before)
        return buffer[before : min(end, got)]

    def _unpack(self, place: Place, data: memoryview, into: memoryview) -> None:
        try:
            cluster = self._unpacker(place.image)(data) if place.compressed else data
        except ValueError as error:
            raise self._bad(place, str(error)) from error
        if len(cluster) != CLUSTER_SIZE:
            raise self._bad(place, f"it has {len(cluster)} bytes")
        into[:CLUSTER_SIZE] = cluster

    def _unpacker(self, image: int) -> Decompressor:
        compression = self.tables[image].compression
        found = self._mine.unpack.get(compression) or make_decompressor(compression)
        if found is None:
            raise ValueError(f"{compression} cannot be decompressed here")
        self._mine.unpack[compression] = found
        return found

    def _bad(self, place: Place, why: str) -> SourceError:
        path = self._paths[place.image]
        return SourceError(f"The cluster at offset {place.offset} of {path} cannot be read: {why}.", code="read_failed")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failure = storage_error(f"reading {path}", error)
        raise SourceError(failure.message, code=failure.code) from error


def _together(wanted: Iterable[tuple[int, Place]]) -> list[list[tuple[int, Place]]]:
    """What lies close together in one image."""
    groups: list[list[tuple[int, Place]]] = []
    for number, place in wanted:
        last = groups[-1][-1][1] if groups else None
        if last is not None and last.image == place.image and place.offset - last.offset - last.length <= _GAP:
            groups[-1].append((number, place))
        else:
            groups.append([(number, place)])
    return groups
