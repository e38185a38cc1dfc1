# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The object store: one bucket under one prefix, through boto3. Answers are complete and certain, or an error."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Iterator, Mapping, Sequence

from ansible_collections.vmforge.backup.plugins.module_utils import _s3_checksum, _s3_delete, _s3_files
from ansible_collections.vmforge.backup.plugins.module_utils._deps import botocore
from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import PartBody, accepts, make_client
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config, check_key
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import (
    DENIED,
    EXISTS,
    error_code,
    http_status,
    is_denied,
    is_missing,
    translate,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_multipart import MultipartUpload
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import Deletion, ObjectInfo, StoredObject

OCTETS = "application/octet-stream"
# Misconfiguration should show in seconds, but an upload that has run for hours must outlive a restart of the server.
_QUICK_ATTEMPTS = 4
_PATIENT_ATTEMPTS = 10
_DOWNLOAD_TRIES = 4


class S3Store:
    """Reads and writes objects. Thread-safe; not to be shared across a fork.

    Args:
        config: Where, and with which credentials.
        connections: How many requests may be under way at once.

    Raises:
        DependencyError: boto3 is missing.
        S3Error: There are no usable credentials.
    """

    def __init__(self, config: S3Config, *, connections: int = 16) -> None:
        self.config = config
        self._client = make_client(config, attempts=_QUICK_ATTEMPTS, connections=connections)
        self._patient = make_client(config, attempts=_PATIENT_ATTEMPTS, connections=connections)
        self._bucket_seen = False
        self._target = {"Bucket": config.bucket}

    @property
    def checksum(self) -> str:
        """``sha256`` or ``md5``: what protects uploads here. Asks the server once per process and bucket."""
        try:
            return _s3_checksum.checksum_kind(self._client, self.config)
        except _botocore_errors() as error:
            raise translate(error, "begin an upload", self.config) from None

    def put(
        self,
        key: str,
        data: bytes,
        *,
        sha256: str | None = None,
        content_type: str = OCTETS,
        metadata: Mapping[str, str] | None = None,
        only_if_absent: bool = False,
    ) -> StoredObject:
        """Write a small object in one request.

        Args:
            key: The whole key, as made by ``config.key()``.
            data: Its content.
            sha256: Its digest in hexadecimal where it is known; recorded in the object's metadata.
            content_type: Its MIME type.
            metadata: More user metadata.
            only_if_absent: Fail rather than replace an object.

        Raises:
            S3Error: With code ``s3_exists`` when ``only_if_absent`` found another object there.
        """
        check_key(key)
        digest = sha256 or hashlib.sha256(data).hexdigest()
        raw = bytes.fromhex(digest)
        request = self._object_options(key, digest, content_type, metadata)
        request.update(_s3_checksum.checksum_headers(self.checksum, data, raw))
        if only_if_absent:
            found = self._refuse_existing(key, digest)
            if found is not None:
                return StoredObject(key, found.size, found.version_id, found.etag)
            if accepts(self._client, "PutObject", "IfNoneMatch"):
                request["IfNoneMatch"] = "*"
        try:
            answer = self._client.put_object(Body=PartBody(data, sha256=raw) if data else b"", **request)
        except _botocore_errors() as error:
            if error_code(error) == "PreconditionFailed" and self._is_ours(key, digest):
                # The first attempt did write it; only its answer was lost.
                answer = {}
            else:
                raise translate(error, f"write '{key}'", self.config) from None
        return StoredObject(key, len(data), answer.get("VersionId"), answer.get("ETag", "").strip('"'))

    def get(self, key: str, *, max_size: int, version_id: str | None = None) -> bytes:
        """Read a small object whole.

        Raises:
            NotFoundError: It certainly does not exist.
            S3Error: It is larger than ``max_size``, or cannot be read.
        """
        version = {"VersionId": version_id} if version_id else {}
        for attempt in range(_DOWNLOAD_TRIES):
            try:
                answer = self._client.get_object(Key=key, **self._target, **version)
                if answer["ContentLength"] > max_size:
                    answer["Body"].close()
                    raise S3Error(f"'{key}' in {self.config.where} has {answer['ContentLength']} bytes: too large.")
                return bytes(answer["Body"].read())
            except _botocore_errors() as error:
                if is_missing(error):
                    raise NotFoundError(f"There is no '{key}' in {self.config.where}.") from None
                # botocore retries requests, but not the reading of an answer's body.
                if http_status(error) or attempt == _DOWNLOAD_TRIES - 1:
                    raise translate(error, f"read '{key}'", self.config) from None
        raise AssertionError("unreachable")

    def head(self, key: str, *, version_id: str | None = None) -> ObjectInfo | None:
        """Look at an object.

        Returns:
            None only if the server certainly says that it is not there.

        Raises:
            S3Error: With code ``s3_denied`` where the keys have no right to look. Without the right to list, AWS
                answers so for missing objects too.
        """
        version = {"VersionId": version_id} if version_id else {}
        try:
            answer = self._client.head_object(Key=key, **self._target, **version)
        except _botocore_errors() as error:
            if is_missing(error):
                self._check_bucket()
                return None
            raise translate(self._cause(error), f"look at '{key}'", self.config) from None
        return ObjectInfo(
            key=key,
            size=answer["ContentLength"],
            etag=answer["ETag"].strip('"'),
            last_modified=answer["LastModified"],
            storage_class=answer.get("StorageClass"),
            version_id=answer.get("VersionId"),
            metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
            content_type=answer.get("ContentType"),
            server_side_encryption=answer.get("ServerSideEncryption"),
            lock_mode=answer.get("ObjectLockMode"),
            locked_until=answer.get("ObjectLockRetainUntilDate"),
            legal_hold=answer.get("ObjectLockLegalHoldStatus") == "ON",
        )

    def list(self, prefix: str) -> list[ObjectInfo]:
        """List all objects whose keys begin with a prefix (a plain one: ``a`` finds ``ab/c`` too).

        Raises:
            S3Error: The listing is not complete.
        """
        found = []
        for page in self._pages("list_objects_v2", "list", Prefix=prefix):
            for entry in page.get("Contents", []):
                found.append(
                    ObjectInfo(
                        key=entry["Key"],
                        size=entry["Size"],
                        etag=entry.get("ETag", "").strip('"'),
                        last_modified=entry["LastModified"],
                        storage_class=entry.get("StorageClass"),
                    )
                )
        return found

    def list_directories(self, prefix: str) -> Sequence[str]:
        """List the next level below a prefix: ``a`` or ``a/`` gives ``a/b/``, ``a/c/``.

        Raises:
            S3Error: The listing is not complete.
        """
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        pages = self._pages("list_objects_v2", "list", Prefix=base, Delimiter="/")
        return [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]

    def delete(self, key: str) -> Deletion:
        """Remove an object with all its versions and delete markers, and see that it is gone.

        Raises:
            S3Error: ``s3_locked`` with the date when a version is locked (nothing was changed then); ``s3_denied``.
        """
        return _s3_delete.delete(self, self._client, key)

    def multipart(
        self, key: str, *, content_type: str = OCTETS, metadata: Mapping[str, str] | None = None
    ) -> MultipartUpload:
        """Begin a multipart upload; end it with ``complete()`` or ``abort()``.

        Raises:
            S3Error: It could not be begun.
        """
        check_key(key)
        options = self._object_options(key, None, content_type, metadata)
        del options["Bucket"], options["Key"]
        checksum = self.checksum
        return MultipartUpload(self._patient, self.config, key, options, checksum)

    def list_multiparts(self, prefix: str) -> Sequence[tuple[str, str, datetime]]:
        """List unfinished multipart uploads: key, upload id, begun at.

        Raises:
            S3Error: The listing is not complete.
        """
        return [
            (entry["Key"], entry["UploadId"], entry["Initiated"])
            for page in self._pages("list_multipart_uploads", "list the unfinished uploads", Prefix=prefix)
            for entry in page.get("Uploads", [])
        ]

    def abort_multiparts(
        self, prefix: str, *, older_than: datetime | None = None
    ) -> Sequence[tuple[str, str, datetime]]:
        """Abort unfinished uploads begun before a time (all without one) and see that they are gone; returns them.

        Raises:
            S3Error: Some are still there.
        """
        return _s3_delete.abort_multiparts(self, self._client, prefix, older_than=older_than)

    def upload_file(
        self,
        key: str,
        path: str,
        *,
        part_size: int = _s3_files.PART_SIZE,
        part_sha256: Sequence[bytes] | None = None,
        sha256: str | None = None,
        content_type: str = OCTETS,
        metadata: Mapping[str, str] | None = None,
        parallel: int = 4,
    ) -> StoredObject:
        """Upload a file; memory is at most ``parallel`` parts. See :func:`_s3_files.upload_file`."""
        return _s3_files.upload_file(
            self,
            key,
            path,
            part_size=part_size,
            part_sha256=part_sha256,
            sha256=sha256,
            parallel=parallel,
            content_type=content_type,
            metadata=metadata,
        )

    def download_file(
        self,
        key: str,
        path: str,
        *,
        sha256: str | None = None,
        version_id: str | None = None,
        part_size: int = _s3_files.PART_SIZE,
        parallel: int = 4,
        mode: int = 0o600,
    ) -> ObjectInfo:
        """Download to a file, which appears only when whole and verified. See :func:`_s3_files.download_file`."""
        return _s3_files.download_file(
            self, key, path, sha256=sha256, version_id=version_id, part_size=part_size, parallel=parallel, mode=mode
        )

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
                body = self._patient.get_object(**self._target, **request)["Body"]
                return _s3_files.fill(body, into)
            except _botocore_errors() as error:
                if http_status(error) or attempt == _DOWNLOAD_TRIES - 1:
                    raise translate(error, f"read bytes {start}-{last} of '{info.key}'", self.config) from None

    def _object_options(
        self, key: str, sha256: str | None, content_type: str, metadata: Mapping[str, str] | None
    ) -> dict[str, Any]:
        """What PutObject and CreateMultipartUpload have in common."""
        config = self.config
        wanted = {
            "StorageClass": config.storage_class,
            "ServerSideEncryption": config.server_side_encryption,
            "SSEKMSKeyId": config.sse_kms_key_id,
            "ObjectLockMode": config.object_lock_mode,
            "ObjectLockRetainUntilDate": config.object_lock_retain_until,
        }
        options: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        meta = dict(metadata or {}, **({"sha256": sha256} if sha256 else {}))
        options.update(self._target, Key=key, ContentType=content_type, Metadata=meta)
        return options

    def _refuse_existing(self, key: str, digest: str) -> ObjectInfo | None:
        """Raise if another object is there; returns the one with the same content, if there is."""
        try:
            found = self.head(key)
        except S3Error as error:
            if error.code != DENIED:
                raise
            return None
        if found is not None and found.sha256 != digest:
            raise S3Error(f"'{key}' in {self.config.where} exists already; it is not replaced.", code=EXISTS)
        return found

    def _is_ours(self, key: str, digest: str) -> bool:
        found = self.head(key)
        return found is not None and found.sha256 == digest

    def _pages(self, operation: str, action: str, **request: Any) -> Iterator[Any]:
        """All pages of a listing; raises rather than end early."""
        try:
            page: Any = {}
            for page in self._client.get_paginator(operation).paginate(**self._target, **request):
                yield page
        except _botocore_errors() as error:
            raise translate(error, f"{action} under '{request.get('Prefix', '')}'", self.config) from None
        if page.get("IsTruncated") and not any(page.get(name) for name in ("NextContinuationToken", "NextKeyMarker")):
            raise S3Error(f"Cannot {action} in {self.config.where}: the server's answer ends in the middle.")

    def _check_bucket(self) -> None:
        """A bare 404 to HEAD can also mean that the bucket is missing."""
        if self._bucket_seen:
            return
        try:
            self._client.head_bucket(**self._target)
        except _botocore_errors() as error:
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
        except _botocore_errors() as better:
            return error if is_denied(better) else better
        return error


def _botocore_errors() -> tuple[type[Any], ...]:
    """What botocore raises; evaluated late, for the library may be missing when this file is imported."""
    return (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
