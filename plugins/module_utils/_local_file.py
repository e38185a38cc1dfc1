# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A local file in parts: written as they come, read again when all are there."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import (
    aligned_buffer,
    read_at,
    set_direct,
    write_at,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors

_BLOCK_SIZE = 4 << 20


class LocalFile:
    """A new file, written part by part.

    Args:
        path: Must not exist yet.

    Raises:
        StorageError: It cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(f"creating {path}"):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            # A backup would only push out of the page cache what guests and others have there.
            set_direct(self._descriptor, True)

    def write_part(self, offset: int, data: memoryview) -> None:
        """Write one part at its place, and let the kernel start on writing it out."""
        with storage_errors(f"writing {self.path}"):
            write_at(self._descriptor, data, offset)
            # Without direct I/O this starts writeback now, so that the fsync at the end is short.
            os.posix_fadvise(self._descriptor, offset, len(data), os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Release the file, whatever became of it. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def sync(self) -> None:
        """Return when all of it is on the disk."""
        with storage_errors(f"syncing {self.path}"):
            os.fsync(self._descriptor)


def reread(
    path: Path,
    *,
    part_size: int,
    parts: Sequence[bytes],
    advance: Callable[[int], None],
    check: Callable[[], None],
) -> str:
    """Read a file from the disk and compare it with what was meant to be written.

    Args:
        parts: Raw SHA-256 of each part, taken from memory while writing.
        advance: Told of bytes read.
        check: Called between blocks; raises to end the reading.

    Returns:
        Hexadecimal SHA-256 of the whole file.

    Raises:
        StorageError: The disk gives back something else; names the part.
    """
    digests = _Digests(path, part_size, parts)
    with storage_errors(f"reading {path}"), path.open("rb", buffering=0) as stream:
        # What is in the page cache proves nothing about the disk.
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        set_direct(stream.fileno(), True)
        with ThreadPoolExecutor(max_workers=2) as pool:
            # A block never reaches into two parts.
            for block in _read_ahead(stream.fileno(), math.gcd(part_size, _BLOCK_SIZE), pool):
                check()
                digests.update(block, pool)
                advance(len(block))
    return digests.finish()


def _read_ahead(descriptor: int, size: int, pool: Executor) -> Iterator[memoryview]:
    """Yield block after block to the end; each is valid until the next step, during which the one after is read."""
    buffers = [memoryview(aligned_buffer(size)) for _turn in range(2)]
    offset = turn = 0
    pending = pool.submit(read_at, descriptor, buffers[turn], offset)
    while count := pending.result():
        block = buffers[turn][:count]
        offset, turn = offset + size, 1 - turn
        pending = pool.submit(read_at, descriptor, buffers[turn], offset)
        yield block


class _Digests:
    """The whole file's and each part's, side by side; a part that differs is told at its end."""

    def __init__(self, path: Path, part_size: int, parts: Sequence[bytes]) -> None:
        self._path, self._part_size, self._parts = path, part_size, parts
        self._whole, self._part = hashlib.sha256(), hashlib.sha256()
        self._number = self._filled = 0

    def update(self, block: memoryview, pool: Executor) -> None:
        whole = pool.submit(self._whole.update, block)
        self._part.update(block)
        whole.result()
        self._filled += len(block)
        if self._filled == self._part_size:
            self._compare()

    def finish(self) -> str:
        """The hexadecimal digest of the whole, which is as long as it should be."""
        while self._filled or self._number < len(self._parts):
            self._compare()
        return self._whole.hexdigest()

    def _compare(self) -> None:
        if self._number >= len(self._parts):
            raise StorageError(f"{self._path} is longer than what was written.", code="reread_mismatch")
        if self._part.digest() != self._parts[self._number]:
            raise StorageError(
                f"{self._path} reads back differently from what was written, in part {self._number + 1} at offset "
                f"{self._number * self._part_size}: the disk or its controller is faulty. The backup was discarded.",
                code="reread_mismatch",
            )
        self._part = hashlib.sha256()
        self._number, self._filled = self._number + 1, 0
