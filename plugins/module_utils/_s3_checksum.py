# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which checksum protects an upload: SHA-256 where the server really checks it, MD5 otherwise."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._deps import botocore
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import accepts
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import (
    CREDENTIAL_CODES,
    error_code,
    is_denied,
    is_missing,
)
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded

SHA256 = "sha256"
MD5 = "md5"

# Of the object that is begun and given up to find out; an upload of this name that is older than that is a dead run's.
PROBE_NAME = ".vmforge-checksum-probe"
PROBE_SECONDS = 60
_PROBE = b"vmforge checksum probe"
_known: dict[tuple[str | None, str], str] = {}
_lock = threading.Lock()


def checksum_kind(client: Any, config: S3Config) -> str:
    """Find out, once per endpoint and bucket, whether the server refuses a wrong SHA-256.

    Many servers take the header and ignore it. A part with a wrong one is offered to a multipart upload that is then
    aborted: nothing is stored whatever the answer, and no right is needed that an upload would not need.

    Returns:
        :data:`SHA256` or :data:`MD5`.

    Raises:
        botocore.exceptions.ClientError: The upload could not even be begun: wrong keys, no such bucket and so on.
    """
    place = (config.endpoint, config.bucket)
    with _lock:
        if place not in _known:
            # A signal in the middle would leave an upload that nobody knows the name of.
            with shielded():
                _known[place] = _probe(client, config)
        return _known[place]


def remember(config: S3Config, kind: str) -> None:
    """Take over what an earlier process found out."""
    with _lock:
        _known.setdefault((config.endpoint, config.bucket), SHA256 if kind == SHA256 else MD5)


def checksum_headers(kind: str, data: bytes | bytearray | memoryview, sha256: bytes) -> Mapping[str, str]:
    """The parameters of PutObject and UploadPart that let the server check the data."""
    if kind == SHA256:
        return {"ChecksumSHA256": base64.b64encode(sha256).decode()}
    return {"ContentMD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}


def contradicts(stored: str, parts: Sequence[str]) -> bool:
    """Whether the SHA-256 that a server keeps with an object is certainly not that of these parts.

    Of an object uploaded in parts it is the SHA-256 of their digests, with their number behind it. One in another
    number of parts, copied by somebody else for instance, tells nothing.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html

    Args:
        stored: As the server tells it.
        parts: Hexadecimal SHA-256 of each.
    """
    digest, _dash, count = stored.partition("-")
    digests = b"".join(bytes.fromhex(part) for part in parts)
    if count:
        wanted = hashlib.sha256(digests).digest() if count == str(len(parts)) else None
    else:
        wanted = digests if len(parts) == 1 else None
    return wanted is not None and digest != base64.b64encode(wanted).decode()


def _probe(client: Any, config: S3Config) -> str:
    if not accepts(client, "UploadPart", "ChecksumSHA256"):
        return MD5
    target = {"Bucket": config.bucket, "Key": config.key(PROBE_NAME)}
    try:
        upload = client.create_multipart_upload(ChecksumAlgorithm="SHA256", **target)["UploadId"]
    except botocore().exceptions.ClientError as error:
        # Not for a checksum's sake: the caller's own upload would fail in the same way.
        if is_denied(error) or error_code(error) in CREDENTIAL_CODES or error_code(error) == "NoSuchBucket":
            raise
        return MD5
    try:
        wrong = base64.b64encode(hashlib.sha256(b"not " + _PROBE).digest()).decode()
        client.upload_part(UploadId=upload, PartNumber=1, Body=_PROBE, ChecksumSHA256=wrong, **target)
        return MD5
    except botocore().exceptions.ClientError as error:
        return SHA256 if error.response["ResponseMetadata"]["HTTPStatusCode"] == 400 else MD5
    finally:
        _abort(client, UploadId=upload, **target)


def _abort(client: Any, **upload: Any) -> None:
    try:
        client.abort_multipart_upload(**upload)
    except botocore().exceptions.ClientError as error:
        # Keys that may only put: an upload without a part costs nothing, and the caller shall not fail for it. Nor for
        # one that another run took for a dead run's.
        if not is_denied(error) and not is_missing(error):
            raise
