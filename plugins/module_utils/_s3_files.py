# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files to and from the store: parts in parallel, memory bounded, and what arrived is proved."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._deps import botocore
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    InputError,
    NotFoundError,
    S3Error,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._parallel import in_parallel
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import CORRUPT
from ansible_collections.vmforge.backup.plugins.module_utils._s3_multipart import MAX_PARTS, MIN_PART_SIZE
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo, StoredObject

if TYPE_CHECKING:
    from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store

PART_SIZE = 16 * 1024 * 1024
_BLOCK = 1024 * 1024


def file_sha256(path: str) -> str:
    """The SHA-256 of a file in hexadecimal.

    Raises:
        StorageError: It cannot be read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BLOCK))
    try:
        with open(path, "rb", buffering=0) as source:
            while True:
                count = source.readinto(buffer)
                if not count:
                    return digest.hexdigest()
                digest.update(buffer[:count])
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from None


def upload_file(
    store: S3Store,
    key: str,
    path: str,
    *,
    part_size: int,
    part_sha256: Sequence[bytes] | None,
    sha256: str | None,
    parallel: int,
    content_type: str,
    metadata: Mapping[str, str] | None,
) -> StoredObject:
    """Upload a file: in one request if it fits into a part, in parallel parts otherwise.

    Args:
        store: Where to.
        key: The object's key.
        path: The file; must not change meanwhile.
        part_size: Bytes of every part but the last, at least 5 MiB; raised where the file has over 10,000 of them.
        part_sha256: Raw digests that the parts must have, from a manifest: then ``part_size`` is taken as it is.
        sha256: The whole file's digest in hexadecimal, recorded in the object's metadata.
        parallel: Parts under way at once, each held in memory.
        content_type: MIME type.
        metadata: More user metadata.

    Raises:
        StorageError: The file cannot be read, changed meanwhile, or is not what ``part_sha256`` says.
        S3Error: The upload failed; no part is left behind.
    """
    if part_size < MIN_PART_SIZE:
        raise InputError(f"Parts of {part_size} bytes are too small for S3: at least {MIN_PART_SIZE}.")
    meta = dict(metadata or {}, **({"sha256": sha256} if sha256 else {}))
    try:
        with open(path, "rb", buffering=0) as source:
            before = os.fstat(source.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise StorageError(f"Cannot upload {path}: it is not a regular file.")
            size = before.st_size
            while part_sha256 is None and size > part_size * MAX_PARTS:
                part_size *= 2
            reader = _PartReader(source.fileno(), path, size, part_size, part_sha256)
            if size <= part_size:
                data, digest = reader.read(1, bytearray(size))
                _refuse_changed(path, before, os.fstat(source.fileno()))
                return store.put(key, bytes(data), sha256=digest.hex(), content_type=content_type, metadata=meta)
            return _upload_parts(
                store,
                key,
                reader,
                parallel,
                lambda: _refuse_changed(path, before, os.fstat(source.fileno())),
                content_type,
                meta,
            )
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from None


class _PartReader:
    """Reads numbered parts of an open file, from any thread."""

    def __init__(self, fd: int, path: str, size: int, part_size: int, expected: Sequence[bytes] | None) -> None:
        self.count = max(1, -(-size // part_size))
        self.part_size = part_size
        self._fd, self._path, self._size, self._expected = fd, path, size, expected
        if expected is not None and len(expected) != self.count:
            raise StorageError(
                f"{path} has {self.count} parts, but {len(expected)} are on record: it was changed.",
                code="local_damaged",
            )

    def read(self, number: int, buffer: bytearray) -> tuple[memoryview, bytes]:
        """Read part ``number`` (from 1) into the buffer; returns its bytes and their digest."""
        start = (number - 1) * self.part_size
        view = memoryview(buffer)[: min(self.part_size, self._size - start)]
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], start + done)
            if count == 0:
                raise StorageError(f"{self._path} became shorter while it was uploaded.", code="local_damaged")
            done += count
        digest = hashlib.sha256(view).digest()
        if self._expected is not None and digest != self._expected[number - 1]:
            raise StorageError(
                f"Part {number} of {self._path} is not what it was when the backup was made.", code="local_damaged"
            )
        return view, digest


def _upload_parts(
    store: S3Store,
    key: str,
    reader: _PartReader,
    parallel: int,
    check: Callable[[], None],
    content_type: str,
    metadata: Mapping[str, str],
) -> StoredObject:
    upload = store.multipart(key, content_type=content_type, metadata=metadata)

    def send(number: int, buffer: bytearray) -> None:
        data, digest = reader.read(number, buffer)
        upload.upload_part(number, data, sha256=digest)

    try:
        in_parallel(reader.count, parallel, reader.part_size, send, on_error=upload.stop)
        check()
        return upload.complete()
    except VMForgeError as error:
        try:
            upload.abort()
        except S3Error as second:
            # The first failure is the one to be understood, but both must be known.
            raise S3Error(f"{error.message} Moreover: {second.message}", code=error.code) from None
        raise
    except BaseException:
        upload.abort()
        raise


def download_file(
    store: S3Store,
    key: str,
    path: str,
    *,
    sha256: str | None,
    version_id: str | None,
    part_size: int,
    parallel: int,
    mode: int,
) -> ObjectInfo:
    """Download an object in parallel ranges into a temporary file beside ``path``, prove it, rename it.

    Args:
        store: Where from.
        key: The object's key.
        path: The file to be; its directory must exist.
        sha256: The digest in hexadecimal that the content must have; else the one that the object carries, if any.
        version_id: Which version; the current one by default.
        part_size: Bytes of a range.
        parallel: Ranges under way at once, each held in memory.
        mode: Permissions of the file.

    Raises:
        NotFoundError: The object does not exist.
        S3Error: It changed meanwhile, cannot be read, or is not what it should be (``s3_corrupt``).
        StorageError: The file cannot be written.
    """
    info = store.head(key, version_id=version_id)
    if info is None:
        raise NotFoundError(f"There is no '{key}' in {store.config.where}.")
    expected = sha256 or info.sha256
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path) or ".")
        with open(handle, "wb", buffering=0) as target:
            _fetch(store, info, target.fileno(), part_size, parallel)
            os.fchmod(target.fileno(), mode)
            os.fsync(target.fileno())
        found = file_sha256(temporary) if expected else None
        if found != expected:
            raise S3Error(
                f"'{key}' in {store.config.where} is damaged: its SHA-256 is {found}, it should be {expected}.",
                code=CORRUPT,
            )
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror}.") from None
    finally:
        if temporary is not None:
            os.unlink(temporary)
    return info


def fill(body: Any, into: memoryview) -> None:
    """Read an answer's body into a buffer; raises like botocore if it ends early."""
    done = 0
    with body:
        while done < len(into):
            block = body.read(min(_BLOCK, len(into) - done))
            if not block:
                raise botocore().exceptions.IncompleteReadError(actual_bytes=done, expected_bytes=len(into))
            into[done : done + len(block)] = block
            done += len(block)


def _fetch(store: S3Store, info: ObjectInfo, fd: int, part_size: int, parallel: int) -> None:
    count = -(-info.size // part_size)
    if count == 0:
        return

    def receive(number: int, buffer: bytearray) -> None:
        start = (number - 1) * part_size
        view = memoryview(buffer)[: min(part_size, info.size - start)]
        store.read_range(info, start, view)
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], start + done)

    in_parallel(count, parallel, min(part_size, info.size), receive)


def _refuse_changed(path: str, before: os.stat_result, after: os.stat_result) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise StorageError(f"{path} was changed while it was uploaded: nothing was stored. Try again.")
