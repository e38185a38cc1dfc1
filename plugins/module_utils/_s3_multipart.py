# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One multipart upload: parts in any order from any thread, and nothing left behind when it ends early."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._deps import botocore
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError, S3Error, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._s3_checksum import SHA256, checksum_headers
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import (
    PartBody,
    UploadStopped,
    botocore_errors,
    broken_answers,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import (
    CORRUPT,
    error_code,
    is_missing,
    translate,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import StoredObject

MAX_PARTS = 10_000
MIN_PART_SIZE = 5 * 1024 * 1024
TOKEN = "vmforge-upload"
_ABORT_ROUNDS = 5
_ABORT_WAIT = 60.0


class MultipartUpload:
    """An upload under way. Made by ``S3Store.multipart``.

    Args:
        client: A boto3 client that keeps trying for long: the parts before are worth it.
        quick: One that does not, to abort with.
        config: Where.
        key: The object to be.
        options: What else CreateMultipartUpload is given: content type, encryption, lock and so on.
        checksum: ``sha256`` or ``md5``, see ``_s3_checksum``.
    """

    def __init__(
        self, client: Any, quick: Any, config: S3Config, key: str, options: Mapping[str, Any], checksum: str
    ) -> None:
        self.key = key
        self._client = client
        self._quick = quick
        self._config = config
        self._checksum = checksum
        self._target = {"Bucket": config.bucket, "Key": key}
        self._parts: dict[int, dict[str, Any]] = {}
        self._sizes: dict[int, int] = {}
        self._stopped = threading.Event()
        self._done: StoredObject | None = None
        self._idle = threading.Condition()
        self._busy = 0
        # Tells our object from another one of the same name if the answer to the completion gets lost.
        self._token = uuid.uuid4().hex
        begin = dict(options, Metadata=dict(options.get("Metadata", {}), **{TOKEN: self._token}))
        if checksum == SHA256:
            begin["ChecksumAlgorithm"] = "SHA256"
        self.upload_id: str = self._call("create_multipart_upload", "begin the upload of", **begin)["UploadId"]

    def upload_part(self, number: int, data: bytes | bytearray | memoryview, *, sha256: bytes) -> None:
        """Send one part; returns when the server has it and has checked it.

        Args:
            number: From 1 to 10,000; a part sent again replaces the earlier one.
            data: At least 5 MiB in all but the last part. Not copied; must not change during the call.
            sha256: The raw digest of ``data``.

        Raises:
            CancelledError: The upload was aborted, before or meanwhile.
            S3Error: The server refused, or could not be reached in many attempts.
        """
        if not 1 <= number <= MAX_PARTS or len(sha256) != 32:
            raise S3Error(f"Part {number} of '{self.key}' is out of range (1 to {MAX_PARTS}) or has no SHA-256.")
        with self._idle:
            self._refuse_if_stopped()
            self._busy += 1
        try:
            answer = self._send(number, data, sha256)
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()
        with self._idle:
            self._parts[number] = answer
            self._sizes[number] = memoryview(data).nbytes

    def complete(self) -> StoredObject:
        """Make the object of its parts, in the order of their numbers, and check what has become of it.

        Raises:
            S3Error: Parts are missing, the server refused, or the object has another size than its parts together.
        """
        if self._done is not None:
            return self._done
        with self._idle:
            self._refuse_if_stopped()
            numbers = sorted(self._parts)
            if not numbers or numbers != list(range(1, len(numbers) + 1)) or self._busy:
                raise S3Error(
                    f"Cannot complete the upload of '{self.key}': parts are missing ({len(numbers)} are there, "
                    f"the last is {numbers[-1] if numbers else 0}, {self._busy} under way)."
                )
        parts = [dict(self._parts[number], PartNumber=number) for number in numbers]
        size = sum(self._sizes.values())
        version, etag = self._finish(parts, size)
        self._done = StoredObject(key=self.key, size=size, version_id=version, etag=etag)
        return self._done

    def stop(self) -> None:
        """Let parts under way end at once; to be followed by :meth:`abort`."""
        self._stopped.set()

    def abort(self) -> None:
        """Give the upload up: parts under way stop sending, those stored are removed. May be called again.

        Raises:
            S3Error: Parts may be left behind; the message says how to find them.
        """
        if self._done is not None:
            return
        self.stop()
        try:
            for _round in range(_ABORT_ROUNDS):
                self._quick.abort_multipart_upload(UploadId=self.upload_id, **self._target)
                # A part that was on its way may arrive after the abort and stay, says the API's page: look again.
                with self._idle:
                    self._idle.wait_for(lambda: self._busy == 0, timeout=_ABORT_WAIT)
                if self._is_gone():
                    return
        except botocore_errors() as error:
            if is_missing(error):
                return
            raise translate(error, f"abort the upload of '{self.key}' (parts may be left)", self._config) from None
        raise S3Error(
            f"The aborted upload {self.upload_id} of '{self.key}' in {self._config.where} still has parts. "
            "Reap abandoned uploads by age with vmforge.backup.vmforge_s3_object."
        )

    def _refuse_if_stopped(self) -> None:
        if self._stopped.is_set() or self._done is not None:
            raise CancelledError(f"The upload of '{self.key}' is over already.")

    def _send(self, number: int, data: bytes | bytearray | memoryview, sha256: bytes) -> dict[str, Any]:
        checks = checksum_headers(self._checksum, data, sha256)
        body = PartBody(data, sha256=sha256, stopped=self._stopped)
        try:
            answer = self._call_again(
                "upload_part",
                f"upload part {number} of",
                UploadId=self.upload_id,
                PartNumber=number,
                Body=body,
                ContentLength=len(body),
                **checks,
            )
        except UploadStopped:
            raise CancelledError(f"The upload of '{self.key}' was stopped.") from None
        except VMForgeError:
            self._refuse_if_stopped()
            raise
        part = {"ETag": answer["ETag"]}
        if "ChecksumSHA256" in checks:
            part["ChecksumSHA256"] = checks["ChecksumSHA256"]
        return part

    def _finish(self, parts: list[dict[str, Any]], size: int) -> tuple[str | None, str]:
        try:
            answer = self._client.complete_multipart_upload(
                UploadId=self.upload_id, MultipartUpload={"Parts": parts}, **self._target
            )
        except botocore_errors() as error:
            # Perhaps only the answer was lost, and a second attempt found the upload finished.
            found = self._look()
            if found is None or found.get("Metadata", {}).get(TOKEN) != self._token:
                raise translate(error, f"complete the upload of '{self.key}'", self._config) from None
            answer = found
        found = self._look(answer.get("VersionId"))
        if found is not None and found["ContentLength"] != size:
            raise S3Error(
                f"'{self.key}' in {self._config.where} has {found['ContentLength']} bytes, but {size} were uploaded.",
                code=CORRUPT,
            )
        return answer.get("VersionId"), answer["ETag"].strip('"')

    def _look(self, version: str | None = None) -> Any:
        """HEAD the object; None where that is not allowed or it is not there."""
        try:
            return self._client.head_object(**self._target, **({"VersionId": version} if version else {}))
        except botocore_errors():
            return None

    def _is_gone(self) -> bool:
        """Whether the server knows the upload no more; taken as such where keys have no right to ask."""
        try:
            answer = self._quick.list_parts(UploadId=self.upload_id, **self._target)
        except botocore().exceptions.ClientError as error:
            if error_code(error) == "NoSuchBucket":
                raise
            return True
        return not answer.get("Parts")

    def _call(self, operation: str, action: str, **parameters: Any) -> Any:
        try:
            return getattr(self._client, operation)(**self._target, **parameters)
        except botocore_errors() as error:
            raise translate(error, f"{action} '{self.key}'", self._config) from None

    def _call_again(self, operation: str, action: str, **parameters: Any) -> Any:
        """Call, and once more if an answer was cut off, which botocore does not repeat; a part may be sent again."""
        try:
            return getattr(self._client, operation)(**self._target, **parameters)
        except broken_answers():
            parameters["Body"].seek(0)
            return self._call(operation, action, **parameters)
        except botocore_errors() as error:
            raise translate(error, f"{action} '{self.key}'", self._config) from None
