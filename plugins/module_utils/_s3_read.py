# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the object store. Answers are complete and certain, or an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils import _s3_files
from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import ClientMaker, accepts, botocore_errors
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import (
    DENIED,
    NO_S3,
    PROTOCOL,
    UNSUPPORTED,
    error_code,
    header,
    http_status,
    is_denied,
    is_missing,
    is_unsupported,
    translate,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import (
    NO_VERSION,
    ObjectInfo,
    Unfinished,
    listed,
    looked_at,
)

_DOWNLOAD_TRIES = 4


class S3Reader:
    """The reading half of :class:`_s3.S3Store`."""

    def __init__(self, config: S3Config, *, connections: int = 16) -> None:
        self.config = config
        self._maker = ClientMaker(config, connections)
        self._client = self._maker.make(patient=False)
        self._second: Any = None
        self._lock = threading.Lock()
        self._bucket_seen = False
        self._target = {"Bucket": config.bucket}

    @property
    def _patient(self) -> Any:
        """A client for long transfers; made when the first one begins."""
        with self._lock:
            if self._second is None:
                self._second = self._maker.make(patient=True)
            return self._second

    def _any(self, patient: bool) -> Any:
        return self._patient if patient else self._client

    def close(self) -> None:
        """Close all connections. Not needed before the process ends."""
        self._client.close()
        if self._second is not None:
            self._second.close()

    def get(self, key: str, *, max_size: int, version_id: str | None = None, patient: bool = False) -> bytes:
        """Read a small object whole.

        Args:
            patient: Outlive a restart of the server: hours of work depend on it.

        Raises:
            NotFoundError: It certainly does not exist.
            S3Error: It is larger than ``max_size``, or cannot be read.
        """
        version = {"VersionId": version_id} if version_id else {}
        for attempt in range(_DOWNLOAD_TRIES):
            try:
                answer = self._any(patient).get_object(Key=key, **self._target, **version)
                self._check_answer(answer, key)
                if answer["ContentLength"] > max_size:
                    answer["Body"].close()
                    raise S3Error(f"'{key}' in {self.config.where} has {answer['ContentLength']} bytes: too large.")
                return bytes(answer["Body"].read())
            except botocore_errors() as error:
                if is_missing(error):
                    raise NotFoundError(f"There is no '{key}' in {self.config.where}.") from None
                # botocore retries requests, but not the reading of an answer's body.
                if http_status(error) or attempt == _DOWNLOAD_TRIES - 1:
                    raise translate(error, f"read '{key}'", self.config) from None
        raise AssertionError("unreachable")

    def head(
        self, key: str, *, version_id: str | None = None, checksum: bool = False, patient: bool = False
    ) -> ObjectInfo | None:
        """Look at an object.

        Args:
            patient: As for :meth:`get`.
            checksum: Ask for the one that the server keeps; with SSE-KMS that needs the right to decrypt.

        Returns:
            None only if the server certainly says that it is not there.

        Raises:
            S3Error: With code ``s3_denied`` where the keys have no right to look. Without the right to list, AWS
                answers so for missing objects too.
        """
        more = {"VersionId": version_id} if version_id else {}
        if checksum and accepts(self._client, "HeadObject", "ChecksumMode"):
            more["ChecksumMode"] = "ENABLED"
        try:
            answer = self._any(patient).head_object(Key=key, **self._target, **more)
        except botocore_errors() as error:
            if is_missing(error):
                self._check_bucket()
                return None
            raise translate(self._cause(error), f"look at '{key}'", self.config) from None
        self._check_answer(answer, key)
        return looked_at(key, answer)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """List all objects whose keys begin with a prefix (a plain one: ``a`` finds ``ab/c`` too).

        Raises:
            S3Error: The listing is not complete.
        """
        pages = self._pages("list_objects_v2", "list", Prefix=prefix)
        return [listed(entry) for page in pages for entry in page.get("Contents", [])]

    def list_level(self, prefix: str) -> tuple[Sequence[ObjectInfo], Sequence[str]]:
        """List the next level below a prefix: the objects right there, and the directories, such as ``a/b/``.

        Args:
            prefix: Taken as a directory: ``a`` means ``a/``.

        Raises:
            S3Error: The listing is not complete.
        """
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        objects, directories = [], []
        for page in self._pages("list_objects_v2", "list", Prefix=base, Delimiter="/"):
            objects += [listed(entry) for entry in page.get("Contents", [])]
            directories += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        return objects, directories

    def list_directories(self, prefix: str) -> Sequence[str]:
        """List the directories right below a prefix: ``a`` or ``a/`` gives ``a/b/``, ``a/c/``.

        Raises:
            S3Error: The listing is not complete.
        """
        return self.list_level(prefix)[1]

    def list_versions(self, key: str) -> Sequence[tuple[str, bool]] | None:
        """The versions of exactly this key as (id, is a delete marker).

        Returns:
            None where the keys have no right to list versions or the server knows none.

        Raises:
            S3Error: The listing is not complete.
        """
        found = self._all_versions(key)
        return None if found is None else [(version, marker) for name, version, marker in found if name == key]

    def list_stored(self, prefix: str) -> Sequence[str]:
        """The keys of all that is stored under a prefix, also of what a delete marker hides.

        Where the keys have no right to list versions, or the server knows none, those of :meth:`list`.

        Raises:
            S3Error: The listing is not complete.
        """
        found = self._all_versions(prefix)
        if found is None:
            return sorted(info.key for info in self.list(prefix))
        return sorted({name for name, _version, _is_marker in found})

    def is_hidden(self, key: str) -> bool:
        """Whether the server says that a delete marker stands before the versions of an object. Many do not say it."""
        try:
            self._client.head_object(Key=key, **self._target)
        except botocore_errors() as error:
            return header(error, "x-amz-delete-marker") == "true"
        return False

    def has_versions(self) -> bool | None:
        """Whether the bucket has, or had, versioning; None where the keys have no right to know.

        Raises:
            S3Error: The server does not tell for another reason.
        """
        try:
            return "Status" in self._client.get_bucket_versioning(**self._target)
        except botocore_errors() as error:
            if is_unsupported(error):
                return False
            if is_denied(error):
                return None
            raise translate(error, "ask for versioning", self.config) from None

    def list_multiparts(self, prefix: str) -> Sequence[Unfinished]:
        """List unfinished multipart uploads: key, upload id, begun at.

        Raises:
            S3Error: The listing is not complete.
        """
        return [
            (entry["Key"], entry["UploadId"], entry["Initiated"])
            for page in self._pages("list_multipart_uploads", "list the unfinished uploads", Prefix=prefix)
            for entry in page.get("Uploads", [])
        ]

    def read_range(self, info: ObjectInfo, start: int, into: memoryview) -> None:
        """Fill a buffer from an object that is known to be long enough and must not have changed since ``info``.

        Raises:
            S3Error: It changed (``s3_exists``), or cannot be read.
        """
        last = start + len(into) - 1
        request: dict[str, Any] = {"Key": info.key, "Range": f"bytes={start}-{last}", "IfMatch": f'"{info.etag}"'}
        if info.version_id:
            request["VersionId"] = info.version_id
        for attempt in range(_DOWNLOAD_TRIES):
            try:
                _s3_files.fill(self._patient.get_object(**self._target, **request)["Body"], into)
                break
            except botocore_errors() as error:
                if http_status(error) or attempt == _DOWNLOAD_TRIES - 1:
                    raise translate(error, f"read bytes {start}-{last} of '{info.key}'", self.config) from None

    def _all_versions(self, prefix: str) -> Sequence[tuple[str, str, bool]] | None:
        """Key, version id and whether it is a delete marker of all that is stored; None where that cannot be known."""
        found: list[tuple[str, str, bool]] = []
        try:
            for page in self._pages("list_object_versions", "list the versions", Prefix=prefix):
                for kind, is_marker in (("Versions", False), ("DeleteMarkers", True)):
                    found += [(e["Key"], e.get("VersionId") or NO_VERSION, is_marker) for e in page.get(kind, [])]
        except S3Error as error:
            if error.code in (DENIED, UNSUPPORTED):
                return None
            raise
        return found

    def _pages(self, operation: str, action: str, **request: Any) -> Iterator[Any]:
        """All pages of a listing; raises rather than end early."""
        try:
            page: Any = {}
            for page in self._client.get_paginator(operation).paginate(**self._target, **request):
                # Whatever answers 200 to everything must not pass for an empty bucket.
                if not any(name in page for name in ("IsTruncated", "Name", "Bucket")):
                    raise S3Error(f"Cannot {action} in {self.config.where}: that is no listing. {NO_S3}", code=PROTOCOL)
                yield page
        except botocore_errors() as error:
            if operation == "list_multipart_uploads" and error_code(error) == "NoSuchUpload":
                # What rclone says before the first upload to a bucket.
                return
            raise translate(error, f"{action} under '{request.get('Prefix', '')}'", self.config) from None
        if page.get("IsTruncated") and not any(page.get(name) for name in ("NextContinuationToken", "NextKeyMarker")):
            raise S3Error(f"Cannot {action} in {self.config.where}: the server's answer ends in the middle.")

    def _check_answer(self, answer: Mapping[str, Any], key: str) -> None:
        """Whatever answers 200 to everything must not pass for an object store."""
        if "ETag" not in answer or "LastModified" not in answer:
            raise S3Error(f"Cannot read '{key}' in {self.config.where}: that is no object. {NO_S3}", code=PROTOCOL)

    def _check_bucket(self) -> None:
        """A bare 404 to HEAD can also mean that the bucket is missing."""
        if self._bucket_seen:
            return
        try:
            self._client.head_bucket(**self._target)
        except botocore_errors() as error:
            if http_status(error) == 404:
                error.response["Error"]["Code"] = "NoSuchBucket"
            if not is_denied(error):
                raise translate(error, "find objects", self.config) from None
        self._bucket_seen = True

    def _cause(self, error: Any) -> Any:
        """HEAD answers have no body and so no reason: ask again in a way that has one."""
        if http_status(error) not in (301, 400, 403):
            return error
        try:
            self._client.list_objects_v2(MaxKeys=1, **self._target)
        except botocore_errors() as better:
            return error if is_denied(better) and is_denied(error) else better
        return error
