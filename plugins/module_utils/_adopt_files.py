# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image that somebody else made, on a disk or in the bucket: proved, then put into a backup's place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors, sync_directory
from ansible_collections.vmforge.backup.plugins.module_utils._guard import free_bytes, reserve_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._local_file import reread
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._parts import choose_part_size
from ansible_collections.vmforge.backup.plugins.module_utils._plan import check_space
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2_header import HEADER_SIZE
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo

_BLOCK = 4 << 20
# What a file system says that has no hard links, or does not want one here.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Image:
    """What was read of an image.

    Attributes:
        head: Its first bytes.
        inode: Device, number, size and time of change of the file that was read; empty for an object.
    """

    size: int
    sha256: str
    part_size: int
    parts: tuple[str, ...]
    head: bytes
    inode: tuple[int, ...] = ()

    def record(self, name: str) -> FileRecord:
        """As a manifest lists it."""
        return FileRecord(name=name, size=self.size, sha256=self.sha256, part_size=self.part_size, parts=self.parts)


def read_file(path: Path) -> Image | None:
    """Read an image to its end; None where there is no file.

    Raises:
        StorageError: It cannot be read, is no regular file, or was changed meanwhile.
    """
    try:
        with storage_errors(f"reading {path}"):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with storage_errors(f"reading {path}"), os.fdopen(descriptor, "rb", buffering=0) as stream:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise StorageError(f"{path} is not a regular file.", code="not_a_file")
        # Who wrote it may never have asked for that.
        os.fsync(descriptor)
        part_size = choose_part_size(before.st_size)
        image = _digest(iter(lambda: stream.read(_BLOCK), b""), part_size, _inode(before))
        if _inode(os.fstat(descriptor)) != _inode(before) or image.size != before.st_size:
            raise StorageError(f"{path} was changed while it was read: who still writes to it?", code="source_changed")
    return image


def read_object(store: S3Store, info: ObjectInfo) -> Image:
    """Read an object to its end. Raises ``S3Error`` when it cannot be read or was changed meanwhile."""
    return _digest(_blocks(store, info), choose_part_size(info.size), ())


def place_file(source: Path, target: Path, image: Image) -> None:
    """Give a file that was read a second name, or copy it where that is not possible; durable when it returns.

    The first name stays: until the manifest is there, what lies in a partial directory may be removed at any time.

    Raises:
        StorageError: It was changed since it was read, or cannot be put there.
    """
    with storage_errors(f"placing {source} in {target.parent}"):
        if not _link(source, target):
            _copy(source, target, image)
        elif _inode(os.stat(target)) != image.inode:
            target.unlink()
            raise StorageError(
                f"{source} was changed since it was read: who still writes to it?", code="source_changed"
            )
        os.chown(target, os.geteuid(), os.getegid())
        target.chmod(0o600)
        sync_directory(target.parent)


def remove_file(path: Path) -> None:
    """Remove a name for good; one that is gone is fine."""
    with storage_errors(f"removing {path}"):
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def lies_in(path: Path, directories: Sequence[str]) -> bool:
    """Whether a file really lies below one of some directories, wherever links lead."""
    real = Path(os.path.realpath(path.parent))
    return any(Path(os.path.realpath(directory)) in (real, *real.parents) for directory in directories)


def _link(source: Path, target: Path) -> bool:
    # A third name, or one that somebody else made, could be written through later on.
    if os.lstat(source).st_nlink != 1:
        return False
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def _copy(source: Path, target: Path, image: Image) -> None:
    path = str(target.parent)
    check_space(needed=image.size, free=free_bytes(path), reserve=reserve_bytes(path), path=path)
    with source.open("rb") as old, open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
        shutil.copyfileobj(old, new, _BLOCK)
        new.flush()
        os.fsync(new.fileno())
    parts = [bytes.fromhex(part) for part in image.parts]
    reread(target, part_size=image.part_size, parts=parts, advance=lambda _count: None, check=lambda: None)


def _inode(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _blocks(store: S3Store, info: ObjectInfo) -> Iterator[bytes]:
    """Block after block of an object, one read ahead."""

    def fetch(start: int) -> bytes:
        data = bytearray(min(_BLOCK, info.size - start))
        store.read_range(info, start, memoryview(data))
        return bytes(data)

    with ThreadPoolExecutor(max_workers=2) as pool:
        starts = range(0, info.size, _BLOCK)
        ahead = [pool.submit(fetch, start) for start in starts[:2]]
        for start in starts:
            data = ahead.pop(0).result()
            if start + 2 * _BLOCK < info.size:
                ahead.append(pool.submit(fetch, start + 2 * _BLOCK))
            yield data


def _digest(blocks: Iterable[bytes], part_size: int, inode: tuple[int, ...]) -> Image:
    """Hash the whole and each part, side by side. Blocks need not end where parts do."""
    whole, part, parts = hashlib.sha256(), hashlib.sha256(), []
    head, size = b"", 0
    with ThreadPoolExecutor(max_workers=1) as pool:
        for block in blocks:
            head = head or block[:HEADER_SIZE]
            running = pool.submit(whole.update, block)
            view = memoryview(block)
            while len(view):
                count = min(len(view), part_size - size % part_size)
                part.update(view[:count])
                size, view = size + count, view[count:]
                if size % part_size == 0:
                    parts.append(part.hexdigest())
                    part = hashlib.sha256()
            running.result()
    if size % part_size or not parts:
        parts.append(part.hexdigest())
    return Image(size, whole.hexdigest(), part_size, tuple(parts), head, inode)
