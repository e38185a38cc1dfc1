# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of one backup go while it is made: a partial directory, a place in S3, or both.

With both, a failure of S3 spoils only the copy there: the local one goes on, and the upload is completed later.
"""

from __future__ import annotations

import threading
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._files import write_file
from ansible_collections.vmforge.backup.plugins.module_utils._local_file import LocalFile
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord, describe_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup
from ansible_collections.vmforge.backup.plugins.module_utils._parts import MIN_PART_SIZE
from ansible_collections.vmforge.backup.plugins.module_utils._s3_multipart import MultipartUpload


class BackupTarget:
    """The files of one backup.

    Args:
        directory: The partial directory; small files always go there.
        keep_local: Whether disk images go there too.
        offsite: The backup's place in S3, or None.
    """

    def __init__(self, directory: Path, *, keep_local: bool, offsite: OffsiteBackup | None) -> None:
        self.directory = directory
        self.keep_local = keep_local
        self.offsite = offsite
        self.offsite_error: S3Error | None = None
        self._lock = threading.Lock()

    @property
    def uploading(self) -> bool:
        """Whether there is an offsite copy in the making, still good."""
        return self.offsite is not None and self.offsite_error is None

    def open_image(self, name: str) -> ImageTarget:
        """Begin a disk image. Raises ``StorageError``, or ``S3Error`` without a local copy."""
        local = LocalFile(self.directory / name) if self.keep_local else None
        upload = None
        try:
            if self.offsite is not None and self.offsite_error is None:
                upload = self.offsite.begin(name)
        except S3Error as error:
            self.fail_offsite(error)
        return ImageTarget(self, name, local, upload)

    def add_small(self, name: str, data: bytes) -> FileRecord:
        """Write a small file everywhere."""
        write_file(self.directory / name, data)
        if self.offsite is not None and self.offsite_error is None:
            try:
                self.offsite.put(name, data)
            except S3Error as error:
                self.fail_offsite(error)
        return describe_bytes(name, data, part_size=MIN_PART_SIZE)

    def fail_offsite(self, error: S3Error) -> None:
        """Give the offsite copy up where there is a local one; raise the error where there is not."""
        if not self.keep_local:
            raise error
        with self._lock:
            self.offsite_error = self.offsite_error or error


class ImageTarget:
    """One disk image on its way to all places; the sink of a stream."""

    def __init__(
        self, target: BackupTarget, name: str, local: LocalFile | None, upload: MultipartUpload | None
    ) -> None:
        self._target, self.name, self.local, self._upload = target, name, local, upload

    def write_part(self, number: int, offset: int, data: memoryview, digest: bytes) -> None:
        """Write one part everywhere. Raises ``StorageError``, or ``S3Error`` without a local copy."""
        if self.local is not None:
            self.local.write_part(offset, data)
        if self._upload is not None and self._target.uploading:
            try:
                self._upload.upload_part(number, data, sha256=digest)
            except S3Error as error:
                self._target.fail_offsite(error)

    def complete(self) -> None:
        """All parts were written: make the object of them."""
        if self._upload is None or self._target.offsite is None:
            return
        try:
            if self._target.uploading:
                self._target.offsite.refuse_taken()
                self._target.offsite.note(self.name, self._upload.complete())
            else:
                self._upload.abort()
        except S3Error as error:
            self._target.fail_offsite(error)

    def abort(self) -> None:
        """Give up. What cannot be aborted in S3 now is reaped later, by the next run or by age."""
        if self.local is not None:
            self.local.close()
        if self._upload is not None:
            try:
                self._upload.abort()
            except (S3Error, CancelledError) as error:
                self._target.offsite_error = self._target.offsite_error or S3Error(error.message, code=error.code)
