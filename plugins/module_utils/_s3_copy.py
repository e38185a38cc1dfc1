# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying an object within a bucket: the server does it, and no data come here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._parallel import in_parallel
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import botocore_errors
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import check_key
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import CORRUPT, translate
from ansible_collections.vmforge.backup.plugins.module_utils._s3_multipart import MAX_PARTS
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo, StoredObject

if TYPE_CHECKING:
    from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store

# S3 itself copies 5 GiB at once; smaller pieces are answered before anybody loses patience.
PIECE = 512 << 20
_PARALLEL = 4


def copy_object(store: S3Store, client: Any, info: ObjectInfo, key: str, options: Mapping[str, Any]) -> StoredObject:
    """Let the server copy an object, as it was when ``info`` was taken.

    Args:
        client: A boto3 client that is patient.
        key: The copy's.
        options: What PutObject would be given for the copy.

    Raises:
        S3Error: It could not be copied, was changed meanwhile, or the copy has another size. Nothing is left then but
            perhaps an object that is not whole.
    """
    check_key(key)
    source: dict[str, Any] = {"Bucket": store.config.bucket, "Key": info.key}
    if info.version_id:
        source["VersionId"] = info.version_id
    wanted = {"CopySource": source, "CopySourceIfMatch": info.etag}
    target = {"Bucket": store.config.bucket, "Key": key}
    more = {name: value for name, value in options.items() if name not in target}
    try:
        if info.size <= PIECE:
            client.copy_object(MetadataDirective="REPLACE", **target, **wanted, **more)
        else:
            _copy_pieces(client, info.size, target, wanted, more)
    except botocore_errors() as error:
        raise translate(error, f"copy '{info.key}' to '{key}'", store.config) from None
    found = store.head(key)
    if found is None or found.size != info.size:
        size = "none" if found is None else found.size
        raise S3Error(
            f"The copy '{key}' of '{info.key}' in {store.config.where} has {size} bytes, not {info.size}.", code=CORRUPT
        )
    return StoredObject(key=key, size=found.size, version_id=found.version_id, etag=found.etag)


def _copy_pieces(
    client: Any, size: int, target: Mapping[str, Any], wanted: Mapping[str, Any], more: Mapping[str, Any]
) -> None:
    piece = max(PIECE, -(-size // MAX_PARTS))
    count = -(-size // piece)
    parts: dict[int, str] = {}
    upload = client.create_multipart_upload(**target, **more)["UploadId"]

    def copy(number: int, _buffer: bytearray) -> None:
        start = (number - 1) * piece
        answer = client.upload_part_copy(
            UploadId=upload,
            PartNumber=number,
            CopySourceRange=f"bytes={start}-{min(size, start + piece) - 1}",
            **target,
            **wanted,
        )
        parts[number] = answer["CopyPartResult"]["ETag"]

    try:
        in_parallel(count, _PARALLEL, 0, copy)
        listed = [{"PartNumber": number, "ETag": parts[number]} for number in range(1, count + 1)]
        client.complete_multipart_upload(UploadId=upload, MultipartUpload={"Parts": listed}, **target)
    except BaseException:
        client.abort_multipart_upload(UploadId=upload, **target)
        raise
