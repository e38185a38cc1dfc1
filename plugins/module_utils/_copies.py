# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copies of one backup: the directory here, and the objects in S3. What they hold, ``_good_parts.py`` proves."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import read_at, set_direct
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    NotFoundError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_error
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup
from ansible_collections.vmforge.backup.plugins.module_utils._s3_checksum import contradicts
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
        backup: Id of the one that it is in, where several are read.
    """

    code = "damaged"

    def __init__(self, damage: Damage, *, backup: str | None = None) -> None:
        super().__init__(f"Damaged{f' in backup {backup}' if backup is not None else ''}: {damage}.")
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

    def compare_checksum(self, record: FileRecord) -> None:
        """Compare the checksum that the server keeps, if it does. Raises ``DamagedError``, ``S3Error``."""
        info = self.place.store.head(self.place.key(record.name), checksum=True)
        if info is not None and info.stored_checksum and contradicts(info.stored_checksum, record.parts):
            raise DamagedError(Damage(S3, record.name, f"has the checksum {info.stored_checksum} there"))


class _Object:
    def __init__(self, place: OffsiteBackup, info: ObjectInfo, record: FileRecord) -> None:
        self._store, self._info = place.store, info
        self.step = record.part_size

    def read(self, start: int, into: memoryview) -> None:
        self._store.read_range(self._info, start, into)

    def close(self) -> None:
        """Nothing is kept open."""
