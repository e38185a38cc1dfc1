# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copies of one backup, the directory here and the objects in S3; read by parts that are never just believed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Protocol

from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import aligned_buffer, read_at, set_direct
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    NotFoundError,
    S3Error,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_error
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup
from ansible_collections.vmforge.backup.plugins.module_utils._s3_files import in_parallel
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo

LOCAL, S3 = "local", "s3"
# Hashed while it is still in the processor's cache; a range of an object is a whole part, for each costs a request.
_LOCAL_STEP = 1 << 20
# What a disk or a file system says of this very file. All else (a stale mount, no more descriptors, no right) says
# nothing about what is on the disk.
_DAMAGED = (errno.EIO, errno.ENODATA, errno.EBADMSG, errno.EUCLEAN, errno.ELOOP, errno.EISDIR)


@dataclass(frozen=True)
class Damage:
    """What is wrong with one file of one copy.

    Attributes:
        copy: ``local`` or ``s3``.
        file: Its name in the backup.
        problem: In words.
        part: From 1; None where it is the file as a whole.
        offset: Of the part, in bytes.
    """

    copy: str
    file: str
    problem: str
    part: int | None = None
    offset: int | None = None

    def __str__(self) -> str:
        place = "" if self.part is None else f", part {self.part} at offset {self.offset}"
        return f"{self.copy} copy, {self.file}{place}: {self.problem}"

    def as_dict(self) -> dict[str, Any]:
        """For a module's result."""
        values = asdict(self)
        # In Jinja2, a key called copy is hidden behind a method of that name.
        return {"place": values.pop("copy"), **values}


class DamagedError(FormatError):
    """A file of a copy that is not what the manifest says.

    Args:
        damage: Which.
    """

    code = "damaged"

    def __init__(self, damage: Damage) -> None:
        super().__init__(f"Damaged: {damage}.")
        self.damage = damage


def _read_error(path: Path, problem: str, error: OSError, offset: int | None = None) -> VMForgeError:
    """Only what is damaged for sure is called so: what is verified as bad may be pruned."""
    if error.errno in _DAMAGED:
        return DamagedError(Damage(LOCAL, path.name, f"{problem}: {error.strerror}", None, offset))
    return storage_error(f"reading {path}", error)


class OpenFile(Protocol):
    """One file of a copy, open for reading from several threads.

    Attributes:
        step: How many bytes to ask for at a time, at most.
    """

    step: int

    def read(self, start: int, into: memoryview) -> None:
        """Fill a buffer. Raises ``DamagedError`` where it is shorter or damaged; ``StorageError``, ``S3Error``."""

    def close(self) -> None:
        """Release it."""


class Copy(Protocol):
    """One place where the files of a backup lie."""

    @property
    def name(self) -> str:
        """``local`` or ``s3``."""

    def read_small(self, name: str, *, max_size: int) -> bytes:
        """Read a small file whole. Raises ``NotFoundError``, ``DamagedError``; ``StorageError``, ``S3Error``."""

    def open(self, record: FileRecord) -> OpenFile:
        """Open one. Raises ``DamagedError`` where it is missing or of another size; ``StorageError``, ``S3Error``."""


class LocalCopy:
    """A backup's directory.

    Args:
        directory: Of the backup.
    """

    name = LOCAL

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read_small(self, name: str, *, max_size: int) -> bytes:
        """Read a small file whole. Raises ``NotFoundError``, ``DamagedError``, ``StorageError``."""
        path = self.directory / name
        try:
            with path.open("rb") as stream:
                data = stream.read(max_size + 1)
        except FileNotFoundError:
            raise NotFoundError(f"There is no {path}.") from None
        except OSError as error:
            raise _read_error(path, "cannot be read", error) from error
        if len(data) > max_size:
            raise DamagedError(Damage(LOCAL, name, f"has over {max_size} bytes"))
        return data

    def open(self, record: FileRecord) -> OpenFile:
        """Open a file. Raises ``DamagedError`` where it is missing or of another size; ``StorageError``."""
        return _LocalFile(self.directory / record.name, record)


class _LocalFile:
    step = _LOCAL_STEP

    def __init__(self, path: Path, record: FileRecord) -> None:
        self._path = path
        try:
            # A symbolic link is none of ours.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise DamagedError(Damage(LOCAL, record.name, "is missing")) from None
        except OSError as error:
            raise _read_error(path, "cannot be opened", error) from error
        status = os.fstat(self._descriptor)
        problem = None
        if not stat.S_ISREG(status.st_mode):
            problem = "is no regular file"
        elif status.st_size != record.size:
            problem = f"has {status.st_size} bytes, not {record.size}"
        if problem is not None:
            self.close()
            raise DamagedError(Damage(LOCAL, record.name, problem))
        # What is in the page cache proves nothing about the disk.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        set_direct(self._descriptor, True)

    def read(self, start: int, into: memoryview) -> None:
        try:
            count = read_at(self._descriptor, into, start)
        except OSError as error:
            raise _read_error(self._path, "cannot be read", error, start) from error
        if count < len(into):
            raise DamagedError(Damage(LOCAL, self._path.name, "became shorter", None, start))

    def close(self) -> None:
        os.close(self._descriptor)


class OffsiteCopy:
    """A backup in S3.

    Args:
        place: Of the backup.
    """

    name = S3

    def __init__(self, place: OffsiteBackup) -> None:
        self.place = place

    def read_small(self, name: str, *, max_size: int) -> bytes:
        """Read a small object whole. Raises ``NotFoundError``, ``S3Error``."""
        return self.place.store.get(self.place.key(name), max_size=max_size)

    def stored_sha256(self, name: str) -> str | None:
        """The SHA-256 that the uploader recorded with an object; None without one."""
        info = self.place.store.head(self.place.key(name))
        return info.sha256 if info is not None else None

    def open(self, record: FileRecord) -> OpenFile:
        """Look at an object. Raises ``DamagedError`` where it is missing or of another size; ``S3Error``."""
        info = self.place.store.head(self.place.key(record.name))
        if info is None:
            raise DamagedError(Damage(S3, record.name, "is missing"))
        if info.size != record.size:
            raise DamagedError(Damage(S3, record.name, f"has {info.size} bytes, not {record.size}"))
        if info.sha256 is not None and record.sha256 not in (None, info.sha256):
            raise DamagedError(Damage(S3, record.name, f"was uploaded with the SHA-256 {info.sha256}"))
        return _Object(self.place, info, record)


class _Object:
    def __init__(self, place: OffsiteBackup, info: ObjectInfo, record: FileRecord) -> None:
        self._store, self._info = place.store, info
        self.step = record.part_size

    def read(self, start: int, into: memoryview) -> None:
        self._store.read_range(self._info, start, into)

    def close(self) -> None:
        """Nothing is kept open."""


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
) -> list[Damage]:
    """Read one file of a copy whole and compare every part with the manifest.

    Args:
        copy: Where it lies.
        record: As the manifest has it.
        parallel: Parts at once, each with a buffer.
        advance: Told of bytes read; from any thread.

    Raises:
        S3Error, StorageError: It could not be read, which says nothing about it.
    """
    try:
        opened = copy.open(record)
    except DamagedError as error:
        return [error.damage]
    found: list[Damage] = []
    buffers = _Buffers(min(opened.step, record.part_size, record.size))

    def check(number: int, _buffer: bytearray) -> None:
        start, length = part_place(record, number)
        try:
            digest = _digest(opened, start, length, buffers.view)
        except DamagedError as error:
            found.append(Damage(copy.name, record.name, error.damage.problem, number, start))
        else:
            if digest != record.parts[number - 1]:
                found.append(Damage(copy.name, record.name, "is not what was written", number, start))
        advance(length)

    try:
        in_parallel(len(record.parts), parallel, 0, check)
    finally:
        opened.close()
    return sorted(found, key=lambda damage: damage.part or 0)


def _digest(opened: OpenFile, start: int, length: int, buffer: memoryview) -> str:
    digest = hashlib.sha256()
    for offset in range(0, length, len(buffer)):
        view = buffer[: min(len(buffer), length - offset)]
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

    def read(self, number: int) -> memoryview:
        """A part that is as it should be; valid until this thread's next call.

        Raises:
            DamagedError: No copy has it.
            S3Error, StorageError: The only copy that may have it cannot be read.
        """
        start, length = part_place(self.record, number)
        view = self._buffers.view[:length]
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
