# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts the bytes of one file into the parts that are hashed, written and uploaded as units.

Parts are those of an S3 multipart upload: equal but the last. The first one waits in memory until the end, for the
header of an image is known last.
"""

from __future__ import annotations

import mmap
from typing import Callable, Union

MIN_PART_SIZE = 16 << 20
# S3's own limit: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_PARTS = 10_000
_STEP = 1 << 20

Buffer = Union[bytes, bytearray, memoryview]
PartBuffer = Union[bytearray, mmap.mmap]


def choose_part_size(expected_bytes: int) -> int:
    """The part size for a file of at most so many bytes: 16 MiB, more where that would take over 10,000 parts."""
    needed = -(-expected_bytes // MAX_PARTS)
    return max(MIN_PART_SIZE, -(-needed // _STEP) * _STEP)


class PartCutter:
    """Fills part buffers from a byte stream that starts behind a hole for the header.

    Args:
        part_size: In bytes.
        hole: Bytes at the start that :meth:`finish` fills.
        take: Gives a free buffer of ``part_size`` bytes; blocks while all are in use.
        emit: Takes a part's number (from 1), its buffer, and how many bytes of it count. The buffer is then its own.
    """

    def __init__(
        self,
        *,
        part_size: int,
        hole: int,
        take: Callable[[], PartBuffer],
        emit: Callable[[int, PartBuffer, int], None],
    ) -> None:
        self._part_size = part_size
        self._hole = hole
        self._take = take
        self._emit = emit
        self._first = take()
        self._first_length = 0
        self._current = self._first
        self._number = 1
        self._filled = hole

    @property
    def size(self) -> int:
        """Bytes of the file so far, the hole included."""
        return (self._number - 1) * self._part_size + self._filled

    def append(self, data: Buffer) -> None:
        """Take the next bytes of the file."""
        view = memoryview(data)
        while len(view):
            if self._filled == self._part_size:
                self._next()
            count = min(len(view), self._part_size - self._filled)
            self._current[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]

    def finish(self, header: bytes) -> None:
        """Emit what is left, then the first part with the header in its hole."""
        if len(header) > self._hole:
            raise ValueError(f"a header of {len(header)} bytes in a hole of {self._hole}")
        if self._number > 1:
            self._emit(self._number, self._current, self._filled)
        else:
            self._first_length = self._filled
        self._first[: self._hole] = header.ljust(self._hole, b"\0")
        self._emit(1, self._first, self._first_length)

    def _next(self) -> None:
        if self._number == 1:
            self._first_length = self._filled
        else:
            self._emit(self._number, self._current, self._filled)
        self._current = self._take()
        self._number += 1
        self._filled = 0
