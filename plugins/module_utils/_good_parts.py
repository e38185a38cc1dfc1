# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads files of copies part by part, and believes no part that is not what the manifest says."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Callable, Optional

from ansible_collections.vmforge.backup.plugins.module_utils._copies import (
    Copy,
    Damage,
    DamagedError,
    OpenFile,
)
from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import aligned_buffer
from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._parallel import in_parallel

# A part that is good, and its bytes for as long as somebody wants them; None for those of a large part.
Told = Callable[[int, Optional[memoryview]], None]
_LARGE = 32 << 20
_ALL_THREADS = 128 << 20


class _Buffers(threading.local):
    """A page-aligned buffer for each thread."""

    def __init__(self, size: int) -> None:
        self.view = memoryview(aligned_buffer(max(1, size)))


def part_place(record: FileRecord, number: int) -> tuple[int, int]:
    """Offset and length of a part, which count from 1."""
    start = (number - 1) * record.part_size
    return start, min(record.part_size, record.size - start)


def find_damage(
    copy: Copy,
    record: FileRecord,
    *,
    parallel: int,
    advance: Callable[[int], None],
    order: Sequence[int] | None = None,
    proved: Told | None = None,
) -> list[Damage]:
    """Read one file of a copy whole and compare every part with the manifest.

    Args:
        copy: Where it lies.
        record: As the manifest has it.
        parallel: Parts at once, each with a buffer.
        advance: Told of bytes read; from any thread.
        order: The numbers of all parts, as they are wanted; from the first to the last if not given.
        proved: Told of each part that is good, and given it unless it is a large one; from any thread.

    Raises:
        S3Error, StorageError: It could not be read, which says nothing about it.
    """
    try:
        opened = copy.open(record)
    except DamagedError as error:
        return [error.damage]
    found: list[Damage] = []
    buffers = _Buffers(min(opened.step, record.part_size, record.size))

    def check(index: int, _buffer: bytearray) -> None:
        number = index if order is None else order[index - 1]
        start, length = part_place(record, number)
        part = own_memory(length, parallel) if proved is not None else None
        try:
            digest = _digest(opened, start, length, buffers.view, part)
        except DamagedError as error:
            found.append(Damage(copy.name, record.name, error.damage.problem, number, start))
        else:
            if digest != record.parts[number - 1]:
                found.append(Damage(copy.name, record.name, "is not what was written", number, start))
            elif proved is not None:
                proved(number, part)
        advance(length)

    try:
        in_parallel(len(record.parts), parallel, 0, check)
    finally:
        opened.close()
    return sorted(found, key=lambda damage: damage.part or 0)


def own_memory(length: int, parallel: int) -> memoryview | None:
    """Memory for one part; None for a large one, or if so many at once would need too much."""
    is_small = 0 < length <= _LARGE and length * parallel <= _ALL_THREADS
    return memoryview(aligned_buffer(length)) if is_small else None


def _digest(opened: OpenFile, start: int, length: int, buffer: memoryview, part: memoryview | None) -> str:
    """Of what is read, a buffer full at a time, for then it is still in the processor's cache."""
    digest = hashlib.sha256()
    for offset in range(0, length, len(buffer)):
        step = min(len(buffer), length - offset)
        view = buffer[:step] if part is None else part[offset : offset + step]
        opened.read(start + offset, view)
        digest.update(view)
    return digest.hexdigest()


class GoodParts:
    """The parts of one file, each from the first copy that has it as the manifest says.

    Args:
        record: As the manifest has it.
        copies: In the order in which they are asked.

    Attributes:
        damages: What was passed over.
    """

    def __init__(self, record: FileRecord, copies: Sequence[Copy]) -> None:
        self.record = record
        self.damages: list[Damage] = []
        self._opened: list[tuple[Copy, OpenFile]] = []
        self._away: S3Error | StorageError | None = None
        self._buffers = _Buffers(min(record.part_size, record.size))
        for copy in copies:
            try:
                self._opened.append((copy, copy.open(record)))
            except DamagedError as error:
                self.damages.append(error.damage)
            except (S3Error, StorageError) as error:
                # The other one may do.
                self._away = error

    def __enter__(self) -> GoodParts:
        return self

    def __exit__(self, *_exception: object) -> None:
        for _copy, opened in self._opened:
            opened.close()

    def read(self, number: int, into: memoryview | None = None) -> memoryview:
        """A part that is as it should be; valid until this thread's next call.

        Args:
            into: Memory for it, if it is to stay.

        Raises:
            DamagedError: No copy has it.
            S3Error, StorageError: The only copy that may have it cannot be read.
        """
        start, length = part_place(self.record, number)
        view = self._buffers.view[:length] if into is None else into
        for copy, opened in self._opened:
            try:
                if length:
                    opened.read(start, view)
            except DamagedError as error:
                self.damages.append(Damage(copy.name, self.record.name, error.damage.problem, number, start))
                continue
            except (S3Error, StorageError) as error:
                self._away = error
                continue
            if hashlib.sha256(view).hexdigest() == self.record.parts[number - 1]:
                return view
            self.damages.append(Damage(copy.name, self.record.name, "is not what was written", number, start))
        if self._away is not None:
            raise self._away
        mine = [str(damage) for damage in self.damages if damage.part in (None, number)]
        problem = "no copy of it is good" + (f" ({'; '.join(mine)})" if mine else "")
        raise DamagedError(Damage("every", self.record.name, problem, number, start))
