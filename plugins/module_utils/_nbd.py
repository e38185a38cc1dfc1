# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading one NBD export through libnbd: its size, what it says of its blocks, and its data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._deps import nbd
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError, SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent

# Of a range that a reader takes at a time, and of the requests that it makes of it. Small ones are still in the
# processor's cache when they are compressed; enough are in flight that the server never waits. (docs/benchmarks.md)
REQUEST_SIZE = 1 << 20
_PIECE = 1 << 18
_DEPTH = 16
_ALLOCATION = "base:allocation"
_DIRTY_BITMAP = "qemu:dirty-bitmap:"
_READS_ZERO = 2
_DIRTY = 1
# Block status answers 32-bit lengths; a multiple of every cluster size, safely below.
_STATUS_STEP = 1 << 31
_POLL_MILLISECONDS = 1000


class Export:
    """Where a disk can be read: a unix socket and the name of an export. Opens a connection per reader.

    Args:
        socket: Path of the unix socket.
        name: Export name; empty for a server's only one.
        bitmap: Name of the dirty bitmap that it tells, if any.
    """

    def __init__(self, socket: str, name: str, *, bitmap: str | None = None) -> None:
        self.socket = socket
        self.name = name
        self.bitmap = bitmap

    def connect(self, *contexts: str) -> Any:
        """Open one connection, asking for block status contexts.

        Raises:
            SourceError: The server is not there, or has not this export or context.
        """
        handle = nbd.NBD()
        try:
            for context in contexts:
                handle.add_meta_context(context)
            handle.set_export_name(self.name)
            handle.connect_unix(self.socket)
            for context in contexts:
                if not handle.can_meta_context(context):
                    raise SourceError(f"The NBD export {self.name!r} does not tell {context}.")
        except nbd.Error as error:
            raise SourceError(f"Cannot open the NBD export {self.name!r} at {self.socket}: {error.string}.") from error
        return handle

    def allocated(self) -> tuple[int, list[Extent]]:
        """Ask for the size and the runs of bytes that may be other than zero.

        Returns:
            Size in bytes, and extents in ascending order, adjacent ones merged.

        Raises:
            SourceError: The export went away, or does not tell its allocation.
        """
        return self._extents(_ALLOCATION, lambda flags: not flags & _READS_ZERO)

    def dirty(self) -> list[Extent]:
        """Ask for the runs of bytes that were written to since the bitmap was made.

        Returns:
            Extents in ascending order, adjacent ones merged, in units of the bitmap's granularity.

        Raises:
            SourceError: The export went away, or does not tell a bitmap.
        """
        if self.bitmap is None:
            raise SourceError(f"The NBD export {self.name!r} tells no dirty bitmap.")
        _size, extents = self._extents(_DIRTY_BITMAP + self.bitmap, lambda flags: bool(flags & _DIRTY))
        return extents

    def _extents(self, context: str, wanted: Callable[[int], bool]) -> tuple[int, list[Extent]]:
        handle = self.connect(context)
        extents: list[Extent] = []
        try:
            size = handle.get_size()
            offset = 0
            while offset < size:
                offset = _status(handle, context, wanted, offset, size, extents)
            handle.shutdown()
        except nbd.Error as error:
            raise SourceError(f"Cannot read the block status of {self.name!r}: {error.string}.") from error
        return size, extents


def _status(
    handle: Any, context: str, wanted: Callable[[int], bool], offset: int, size: int, extents: list[Extent]
) -> int:
    """Append the wanted extents from ``offset`` on; return how far the answer reached."""
    reached = offset

    def note(told: str, start: int, entries: list[int], _error: Any) -> int:
        nonlocal reached
        if told != context:
            return 0
        for length, flags in zip(entries[::2], entries[1::2]):
            length = min(length, size - start)
            if length > 0 and wanted(flags):
                if extents and extents[-1].offset + extents[-1].length == start:
                    extents[-1] = Extent(extents[-1].offset, extents[-1].length + length)
                else:
                    extents.append(Extent(start, length))
            start += length
        reached = max(reached, start)
        return 0

    handle.block_status(min(size - offset, _STATUS_STEP), offset, note)
    if reached <= offset:
        raise SourceError(f"The NBD server gave no block status at offset {offset}.")
    return reached


class BlockReader:
    """Reads ranges of an export with several requests in flight, into buffers that are used again.

    libnbd's Python binding leaks fresh ``nbd.Buffer`` objects (seen with 1.14), hence plain bytearrays.

    Args:
        export: What to read.
        stopped: Asked at least once a second; true ends the reading.
    """

    def __init__(self, export: Export, *, stopped: Callable[[], bool]) -> None:
        self._export = export
        self._handle = export.connect()
        self._stopped = stopped
        self._free = [bytearray(_PIECE) for _number in range(_DEPTH)]

    def read(self, ranges: Iterator[Extent]) -> Iterator[tuple[int, bytearray]]:
        """Read ranges in their order.

        Args:
            ranges: In whole clusters; shared between readers, each of which takes one at a time.

        Yields:
            Offset and data of each piece of a range. The data are valid until the next step.

        Raises:
            SourceError: The server refused a read or went away.
            CancelledError: ``stopped`` became true.
        """
        flying: deque[tuple[int, Extent, bytearray]] = deque()
        pieces = _cut(ranges)
        try:
            while True:
                while self._free and (wanted := next(pieces, None)) is not None:
                    flying.append(self._submit(wanted))
                if not flying:
                    return
                cookie, extent, buffer = flying.popleft()
                self._wait(cookie)
                yield extent.offset, buffer
                self._free.append(buffer if len(buffer) == _PIECE else bytearray(_PIECE))
        except nbd.Error as error:
            raise SourceError(f"Reading {self._export.name!r} failed: {error.string}.") from error

    def close(self) -> None:
        """End the connection; requests in flight go with it."""
        # The binding has no close: the handle closes when nothing refers to it.
        self._handle = None

    def _submit(self, wanted: Extent) -> tuple[int, Extent, bytearray]:
        buffer = self._free.pop()
        if wanted.length != _PIECE:
            buffer = bytearray(wanted.length)
        return self._handle.aio_pread(buffer, wanted.offset), wanted, buffer

    def _wait(self, cookie: int) -> None:
        while not self._handle.aio_command_completed(cookie):
            if self._stopped():
                raise CancelledError("Reading was stopped.")
            self._handle.poll(_POLL_MILLISECONDS)


def _cut(ranges: Iterator[Extent]) -> Iterator[Extent]:
    for extent in ranges:
        for start in range(0, extent.length, _PIECE):
            yield Extent(extent.offset + start, min(_PIECE, extent.length - start))
