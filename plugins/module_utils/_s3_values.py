# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the object store says about objects, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# A version id that stands for "none": how S3 names an object written without versioning.
NO_VERSION = "null"

# An unfinished multipart upload: key, upload id, begun at.
Unfinished = tuple[str, str, datetime]


@dataclass(frozen=True)
class StoredObject:
    """An object that was just written."""

    key: str
    size: int
    version_id: str | None
    etag: str


@dataclass(frozen=True)
class ObjectInfo:
    """An object as found. What a listing does not tell (all from ``metadata`` on) is empty there.

    Attributes:
        metadata: User metadata with lower-case names; ``sha256`` is ours, in hexadecimal.
        locked_until: No version may be deleted before; from object lock.
        legal_hold: Locked without a date.
        stored_checksum: What the server keeps as its SHA-256, in its own notation; only where that was asked for.
    """

    key: str
    size: int
    etag: str
    last_modified: datetime
    storage_class: str | None = None
    version_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    server_side_encryption: str | None = None
    lock_mode: str | None = None
    locked_until: datetime | None = None
    legal_hold: bool = False
    stored_checksum: str | None = None

    @property
    def sha256(self) -> str | None:
        """The content's SHA-256 in hexadecimal, as its uploader recorded it."""
        return self.metadata.get("sha256")


def looked_at(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    """An object as the answer to HeadObject tells of it."""
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
        stored_checksum=answer.get("ChecksumSHA256"),
    )


def listed(entry: Mapping[str, Any]) -> ObjectInfo:
    """An object as a listing tells of it."""
    return ObjectInfo(
        key=entry["Key"],
        size=entry["Size"],
        etag=entry.get("ETag", "").strip('"'),
        last_modified=entry["LastModified"],
        storage_class=entry.get("StorageClass"),
    )


@dataclass(frozen=True)
class DeletionPlan:
    """What is to be removed.

    Attributes:
        existed: Whether anything is there; None where the keys have no right to look.
        versions: (id, is a delete marker) of all versions; None where they cannot be known.
    """

    key: str
    existed: bool | None
    versions: tuple[tuple[str, bool], ...] | None


@dataclass(frozen=True)
class Deletion:
    """What a deletion did.

    Attributes:
        existed: Whether anything was there before; None where the keys have no right to look.
        versions: The ids of the versions and delete markers removed; empty without versioning.
        confirmed: Whether it was seen to be gone. False only where the keys have no right to look.
        note: Why it is not confirmed.
    """

    key: str
    existed: bool | None
    versions: tuple[str, ...] = ()
    confirmed: bool = True
    note: str | None = None
