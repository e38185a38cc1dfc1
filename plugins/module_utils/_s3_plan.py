# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done to make an object or a file as wanted, decided from plain values. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import EXISTS
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo

UPLOAD = "upload"
DELETE = "delete"
DOWNLOAD = "download"
REAP = "reap"
NONE = "none"

_METADATA_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_METADATA_BYTES = 2048


@dataclass(frozen=True)
class Wanted:
    """An object as it should be.

    Attributes:
        sha256: Of the content, in hexadecimal.
        content_type: None takes any.
        metadata: What must be there; more may be.
        storage_class: None takes any.
    """

    size: int
    sha256: str
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    storage_class: str | None = None


@dataclass(frozen=True)
class ObjectPlan:
    """What check mode prints and normal mode executes.

    Attributes:
        before: The object, or the file of a download, as it is; None if there is none.
        after: The same as it will be.
    """

    action: str
    reasons: tuple[str, ...]
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

    @property
    def changes(self) -> bool:
        return self.action != NONE


def plan_upload(wanted: Wanted, found: ObjectInfo | None, *, seen: bool, overwrite: bool, name: str) -> ObjectPlan:
    """Decide whether to upload.

    Args:
        wanted: What should be there.
        found: What is there.
        seen: False where the keys have no right to look: ``found`` says nothing then.
        overwrite: Whether other content may be replaced.
        name: The object's, for messages.

    Raises:
        S3Error: ``s3_exists``: something else is there and may not be replaced.
    """
    after = {"size": wanted.size, "sha256": wanted.sha256, **_optional(wanted)}
    if not seen:
        return ObjectPlan(UPLOAD, ("the keys have no right to see whether it is there",), None, after)
    if found is None:
        return ObjectPlan(UPLOAD, ("the object does not exist",), None, after)
    before = {"size": found.size, "sha256": found.sha256}
    before.update((key, getattr(found, key)) for key in _optional(wanted))
    reasons = _differences(wanted, found)
    if not reasons:
        return ObjectPlan(NONE, ("size and SHA-256 are as wanted",), before, before)
    if not overwrite:
        raise S3Error(f"'{name}' exists already with other content, and overwrite is false: {reasons[0]}.", code=EXISTS)
    return ObjectPlan(UPLOAD, reasons, before, after)


def plan_download(
    info: ObjectInfo,
    expected: str | None,
    local_size: int | None,
    local_sha256: str | None,
    *,
    overwrite: bool,
    dest: str,
) -> ObjectPlan:
    """Decide whether to download.

    Args:
        info: The object.
        expected: The SHA-256 its content must have, where one is known.
        local_size: Bytes of the file; None if there is none.
        local_sha256: Its digest; None if there is none or it was not needed.
        overwrite: Whether a file with other content may be replaced.
        dest: The file, for messages.

    Raises:
        InputError: The file is another one and may not be replaced.
    """
    after = {"size": info.size, "sha256": expected}
    if local_size is None:
        return ObjectPlan(DOWNLOAD, ("the file does not exist",), None, after)
    before = {"size": local_size, "sha256": local_sha256}
    if local_size != info.size:
        reason = f"the file has {local_size} bytes, the object {info.size}"
    elif expected is None:
        reason = "the object has no SHA-256 on record to compare the file with"
    elif local_sha256 != expected:
        reason = "the file has another SHA-256 than the object"
    else:
        return ObjectPlan(NONE, ("size and SHA-256 are as wanted",), before, before)
    if not overwrite:
        raise InputError(f"{dest} exists already, and overwrite is false: {reason}.")
    return ObjectPlan(DOWNLOAD, (reason,), before, after)


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """User metadata as S3 takes it: ASCII, at most 2 KiB, names in lower case.

    Raises:
        InputError: It cannot be stored.
    """
    clean: dict[str, str] = {}
    for name, value in metadata.items():
        text = str(value)
        if not _METADATA_NAME.fullmatch(str(name)) or not text.isascii() or not text.isprintable():
            raise InputError(f"Option metadata: {name!r} is not a name and value in printable ASCII.")
        if text != text.strip():
            raise InputError(f"Option metadata: the value of {name!r} begins or ends with a space, which HTTP drops.")
        if str(name).lower() in ("sha256", "vmforge-upload"):
            raise InputError(f"Option metadata: the name {name!r} is taken by the collection itself.")
        clean[str(name).lower()] = text
    if sum(len(name) + len(value) for name, value in clean.items()) > _METADATA_BYTES - 200:
        raise InputError("Option metadata: too much, S3 stores 2 KiB of it, of which the collection needs 200 bytes.")
    return clean


def checked_sha256(text: str | None) -> str | None:
    """A SHA-256 in lower-case hexadecimal.

    Raises:
        InputError: It is none.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise InputError(f"Option sha256: {text!r} is not a SHA-256 in hexadecimal, which has 64 digits.")
    return text.lower()


def relative(config: S3Config, key: str) -> str:
    """A key as modules name it: below the prefix."""
    return key[len(config.prefix) + 1 :] if config.prefix and key.startswith(config.prefix + "/") else key


def _optional(wanted: Wanted) -> dict[str, Any]:
    """Those properties that somebody asked for."""
    values = {
        "content_type": wanted.content_type,
        "metadata": dict(wanted.metadata),
        "storage_class": wanted.storage_class,
    }
    return {key: value for key, value in values.items() if value}


def _differences(wanted: Wanted, found: ObjectInfo) -> tuple[str, ...]:
    reasons = []
    if found.size != wanted.size:
        reasons.append(f"the object has {found.size} bytes, wanted are {wanted.size}")
    elif found.sha256 is None:
        reasons.append("the object has no SHA-256 on record")
    elif found.sha256 != wanted.sha256:
        reasons.append("the object has another SHA-256")
    for name, value in sorted(wanted.metadata.items()):
        if found.metadata.get(name) != value:
            reasons.append(f"metadata {name} differs")
    if wanted.content_type and found.content_type != wanted.content_type:
        reasons.append(f"the content type is {found.content_type}")
    # A missing storage class means STANDARD, says the API's page on HeadObject.
    if wanted.storage_class and (found.storage_class or "STANDARD") != wanted.storage_class:
        reasons.append(f"the storage class is {found.storage_class or 'STANDARD'}")
    return tuple(reasons)
