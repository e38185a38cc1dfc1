# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The object store: one bucket under one prefix, through boto3."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils import _s3_checksum, _s3_copy, _s3_delete, _s3_files
from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._model import utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import PartBody, botocore_errors
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import check_key
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import (
    DENIED,
    EXISTS,
    UNSUPPORTED,
    error_code,
    is_unsupported,
    translate,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_multipart import MultipartUpload
from ansible_collections.vmforge.backup.plugins.module_utils._s3_read import S3Reader
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import (
    Deletion,
    DeletionPlan,
    ObjectInfo,
    StoredObject,
    Unfinished,
)

OCTETS = "application/octet-stream"


class S3Store(S3Reader):
    """Reads and writes objects. Thread-safe; not to be shared across a fork.

    Args:
        config: Where, and with which credentials.
        connections: How many requests may be under way at once.

    Raises:
        DependencyError: boto3 is missing.
        S3Error: There are no usable credentials.
    """

    @property
    def checksum(self) -> str:
        """``sha256`` or ``md5``: what protects uploads here. Asks the server once per process and bucket."""
        try:
            return _s3_checksum.checksum_kind(self._client, self.config)
        except botocore_errors() as error:
            raise translate(error, "begin an upload", self.config) from None

    def learn_checksum(self) -> None:
        """Ask the server now what ``checksum`` tells later. Raises ``S3Error`` where S3 cannot be used at all."""
        _s3_checksum.remember(self.config, self.checksum)

    def clear_probes(self) -> None:
        """Abort what a run that was killed while it asked has left; silent where the keys have no right to look."""
        before = utc_now() - timedelta(seconds=_s3_checksum.PROBE_SECONDS)
        try:
            self.abort_multiparts(self.config.key(_s3_checksum.PROBE_NAME), older_than=before)
        except S3Error as error:
            if error.code not in (DENIED, UNSUPPORTED):
                raise

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
            request["IfNoneMatch"] = "*"
        answer = self._put(request, PartBody(data, sha256=raw) if data else b"", digest)
        return StoredObject(key, len(data), answer.get("VersionId"), answer.get("ETag", "").strip('"'))

    def _put(self, request: dict[str, Any], body: Any, digest: str) -> Any:
        key = request["Key"]
        try:
            return self._patient.put_object(Body=body, **request)
        except botocore_errors() as error:
            if error_code(error) == "PreconditionFailed" and self._is_ours(key, digest):
                # The first attempt did write it; only its answer was lost.
                return {}
            if is_unsupported(error) and request.pop("IfNoneMatch", None):
                # Servers without conditional writes: having looked must do.
                return self._put(request, body, digest)
            raise translate(error, f"write '{key}'", self.config) from None

    def delete(self, key: str) -> Deletion:
        """Remove an object with all its versions and delete markers, and see that it is gone.

        Raises:
            S3Error: ``s3_locked`` with the date when a version is locked (nothing was changed then); ``s3_denied``.
        """
        return self.execute_deletion(self.plan_deletion(key))

    def plan_deletion(self, key: str) -> DeletionPlan:
        """Find what :meth:`delete` would remove. Raises as that would."""
        return _s3_delete.plan(self, key)

    def execute_deletion(self, plan: DeletionPlan) -> Deletion:
        """Remove what was planned. See :meth:`delete`."""
        return _s3_delete.execute(self, self._client, plan)

    def copy(self, info: ObjectInfo, key: str, *, sha256: str | None = None) -> StoredObject:
        """Let the server copy an object that was looked at. See :func:`_s3_copy.copy_object`."""
        return _s3_copy.copy_object(self, self._patient, info, key, self._object_options(key, sha256, OCTETS, None))

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
        return MultipartUpload(self._patient, self._client, self.config, key, options, checksum)

    def abort_multiparts(self, prefix: str, *, older_than: datetime | None = None) -> Sequence[Unfinished]:
        """Abort unfinished uploads begun before a time (all without one) and see that they are gone; returns them.

        Raises:
            S3Error: Some are still there.
        """
        found = self.list_multiparts(prefix)
        chosen = [upload for upload in found if older_than is None or upload[2] < older_than]
        self.abort_uploads(prefix, chosen)
        return chosen

    def abort_uploads(self, prefix: str, chosen: Sequence[Unfinished]) -> None:
        """Abort unfinished uploads that were listed under a prefix, and see that they are gone."""
        _s3_delete.abort_uploads(self, self._client, prefix, chosen)

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
