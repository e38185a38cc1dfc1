# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing what lies in the store: every version, locks respected, and confirmed rather than assumed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import botocore_errors
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import (
    DENIED,
    LOCKED,
    error_code,
    is_denied,
    is_missing,
    translate,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import (
    NO_VERSION,
    Deletion,
    DeletionPlan,
    ObjectInfo,
    Unfinished,
)

if TYPE_CHECKING:
    from ansible_collections.vmforge.backup.plugins.module_utils._s3_read import S3Reader

# A delete in a bucket whose versioning was suspended may leave a marker; removing that is one more round.
_ROUNDS = 4


def plan(store: S3Reader, key: str) -> DeletionPlan:
    """Find all that must go. See ``S3Store.delete``.

    Raises:
        S3Error: ``s3_locked``: a version is locked.
    """
    versions = store.list_versions(key)
    if versions is None:
        return DeletionPlan(key, _existed(store, key), None)
    for version, is_marker in versions:
        if not is_marker:
            refuse_locked(store, key, version)
    return DeletionPlan(key, bool(versions), tuple(versions))


def execute(store: S3Reader, client: Any, plan: DeletionPlan) -> Deletion:
    """Remove what was planned, and what appeared meanwhile, and confirm it."""
    key, versions = plan.key, plan.versions
    if versions is None:
        return _delete_blindly(store, client, plan)
    removed: list[str] = []
    for round_number in range(_ROUNDS):
        if not versions:
            break
        # By its bare name first: naming a version, even the "null" one, needs a right of its own.
        plain = round_number == 0 and versions == ((NO_VERSION, False),)
        for version, _is_marker in versions:
            _delete_version(store, client, key, None if plain else version)
            removed.append(version)
        versions = tuple(store.list_versions(key) or ())
    if versions:
        raise S3Error(f"'{key}' in {store.config.where} was deleted, but is still there: {len(versions)} versions.")
    return _confirm(store, plan, tuple(version for version in removed if version != NO_VERSION))


def refuse_locked(store: S3Reader, key: str, version: str | None = None) -> None:
    """Raise if a version of an object is locked now; silent where the keys have no right to look.

    Raises:
        S3Error: ``s3_locked``, with the date.
    """
    try:
        info = store.head(key, version_id=None if version == NO_VERSION else version)
    except S3Error as error:
        if error.code != DENIED:
            raise
        return
    if info is not None and is_locked(info):
        until = f"until {info.locked_until:%Y-%m-%dT%H:%M:%SZ}" if info.locked_until else "by a legal hold"
        raise S3Error(
            f"'{key}' in {store.config.where} cannot be deleted: it is locked {until} ({info.lock_mode or 'hold'}). "
            "Nothing was changed.",
            code=LOCKED,
        )


def is_locked(info: ObjectInfo) -> bool:
    """Whether object lock protects this version at this moment."""
    return info.legal_hold or (info.locked_until is not None and info.locked_until > datetime.now(timezone.utc))


def abort_uploads(store: S3Reader, client: Any, prefix: str, chosen: Sequence[Unfinished]) -> None:
    """Abort unfinished uploads, found under a prefix, and see that they are gone.

    Raises:
        S3Error: Some are still there.
    """
    for key, upload_id, _begun in chosen:
        try:
            client.abort_multipart_upload(Bucket=store.config.bucket, Key=key, UploadId=upload_id)
        except botocore_errors() as error:
            if not is_missing(error):
                raise translate(error, f"abort the unfinished upload of '{key}'", store.config) from None
    left = {upload[1] for upload in store.list_multiparts(prefix)} if chosen else set()
    still = sorted(key for key, upload_id, _begun in chosen if upload_id in left)
    if still:
        raise S3Error(f"Unfinished uploads in {store.config.where} were aborted but are still there: {still}.")


def _delete_version(store: S3Reader, client: Any, key: str, version: str | None) -> Any:
    target = {"Bucket": store.config.bucket, "Key": key}
    try:
        return client.delete_object(**target, **({"VersionId": version} if version else {}))
    except botocore_errors() as error:
        if is_missing(error):
            return {}
        if is_denied(error) or error_code(error) in ("ObjectLocked", "InvalidRequest"):
            refuse_locked(store, key, version)
        raise translate(error, f"delete '{key}'", store.config) from None


def _delete_blindly(store: S3Reader, client: Any, plan: DeletionPlan) -> Deletion:
    """Delete without seeing versions; raise if that turns out to have hidden the object only."""
    if plan.existed is False:
        return Deletion(plan.key, existed=False)
    answer = _delete_version(store, client, plan.key, None)
    if answer.get("DeleteMarker") or answer.get("VersionId"):
        raise _hidden(store, plan.key)
    return _confirm(store, plan, ())


def _hidden(store: S3Reader, key: str) -> S3Error:
    return S3Error(
        f"'{key}' in {store.config.where} is hidden by a delete marker, but versions are still stored: "
        "the keys have no right to list and delete versions (s3:ListBucketVersions, s3:DeleteObjectVersion).",
        code=DENIED,
    )


def _confirm(store: S3Reader, plan: DeletionPlan, versions: tuple[str, ...]) -> Deletion:
    there = _exists(store, plan.key)
    if there:
        raise S3Error(f"'{plan.key}' in {store.config.where} was deleted, but it is still there.")
    # An empty list of versions is as good as a 404.
    confirmed = there is False or plan.versions is not None
    note = None if confirmed else "The server accepted the deletion, but the keys have no right to look."
    return Deletion(plan.key, plan.existed, versions, confirmed=confirmed, note=note)


def _exists(store: S3Reader, key: str) -> bool | None:
    """Whether an object is there; None where the keys have no right to know."""
    try:
        return store.head(key) is not None
    except S3Error as error:
        if error.code != DENIED:
            raise
    try:
        return any(found.key == key for found in store.list(key))
    except S3Error as error:
        if error.code != DENIED:
            raise
    return None


def _existed(store: S3Reader, key: str) -> bool | None:
    """The same where versions cannot be listed: what is only out of sight may be there all the same.

    Raises:
        S3Error: ``s3_denied``: a delete marker hides it, perhaps that of an earlier deletion.
    """
    there = _exists(store, key)
    if there is not False:
        return there
    if store.is_hidden(key):
        raise _hidden(store, key)
    # Else the answer to the deletion tells, by the marker that it sets.
    return False if store.has_versions() is False else None
