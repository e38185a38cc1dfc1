# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A local file in parts: written as they come, read again when all are there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

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

    def write_part(self, offset: int, data: memoryview) -> None:
        """Write one part at its place, and let the kernel start on writing it out."""
        with storage_errors(f"writing {self.path}"):
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], offset + written)
            # Starts writeback now, so that the fsync at the end is short, and the page cache is left to others.
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
    whole = hashlib.sha256()
    with storage_errors(f"reading {path}"), path.open("rb", buffering=0) as stream:
        # What is in the page cache proves nothing about the disk.
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        with ThreadPoolExecutor(max_workers=1) as pool:
            blocks = (bytearray(min(_BLOCK_SIZE, part_size)), bytearray(min(_BLOCK_SIZE, part_size)))
            pending = None
            turn = 0
            for number, expected in enumerate(parts):
                part, left = hashlib.sha256(), part_size
                while left:
                    check()
                    view = memoryview(blocks[turn])[: min(left, len(blocks[turn]))]
                    count = stream.readinto(view) or 0
                    if not count:
                        break
                    if pending is not None:
                        pending.result()
                    pending = pool.submit(whole.update, view[:count])
                    part.update(view[:count])
                    left -= count
                    advance(count)
                    turn = 1 - turn
                if part.digest() != expected:
                    raise StorageError(
                        f"{path} reads back differently from what was written, in part {number + 1} at offset "
                        f"{number * part_size}: the disk or its controller is faulty. The backup was discarded.",
                        code="reread_mismatch",
                    )
            if pending is not None:
                pending.result()
            if stream.read(1):
                raise StorageError(f"{path} is longer than what was written.", code="reread_mismatch")
    return whole.hexdigest()
