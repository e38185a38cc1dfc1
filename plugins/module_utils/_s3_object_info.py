# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case behind ``vmforge_s3_object_info``: what lies in the store."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_object import describe_uploads
from ansible_collections.vmforge.backup.plugins.module_utils._s3_plan import relative
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo

INFO_ARGUMENTS: dict[str, dict[str, Any]] = {
    # "key" is an object's name here, nothing secret.
    "key": {"type": "str", "no_log": False},
    "path": {"type": "str"},
    "recursive": {"type": "bool", "default": True},
    "unfinished_uploads": {"type": "bool", "default": False},
    **S3_ARGUMENTS,
}


def look_at_objects(request: Request) -> Outcome:
    """Tell what is there; changes nothing."""
    params = request.params
    config = S3Config.from_params(params)
    named = config.key(params["key"]) if params["key"] else None
    base = config.key(params["path"].strip("/")) if params["path"] else config.prefix
    base = f"{base}/" if base else ""
    store = S3Store(config)
    values: dict[str, Any] = {}
    if named is not None:
        found = store.head(named)
        values.update(exists=found is not None, objects=[describe(config, found, whole=True)] if found else [])
    elif params["recursive"]:
        values["objects"] = _described(config, store.list(base))
    else:
        objects, directories = store.list_level(base)
        values["objects"] = _described(config, objects)
        values["directories"] = sorted(relative(config, name).rstrip("/") for name in directories)
    if params["unfinished_uploads"]:
        values["uploads"] = describe_uploads(config, store.list_multiparts(named or base))
    return Outcome(changed=False, values=values)


def describe(config: S3Config, info: ObjectInfo, *, whole: bool) -> dict[str, Any]:
    """An object as modules return it.

    Args:
        config: Whose prefix is taken off.
        info: The object.
        whole: Also what only looking at the object itself tells, not a listing.
    """
    listed = {
        "key": relative(config, info.key),
        "s3_key": info.key,
        "size": info.size,
        "etag": info.etag,
        "last_modified": _time(info.last_modified),
        "storage_class": info.storage_class,
    }
    if not whole:
        return listed
    return dict(
        listed,
        sha256=info.sha256,
        version_id=info.version_id,
        content_type=info.content_type,
        metadata={name: value for name, value in info.metadata.items() if name not in ("sha256", "vmforge-upload")},
        server_side_encryption=info.server_side_encryption,
        lock_mode=info.lock_mode,
        locked_until=_time(info.locked_until),
        legal_hold=info.legal_hold,
    )


def _described(config: S3Config, objects: Any) -> list[dict[str, Any]]:
    return [describe(config, info, whole=False) for info in sorted(objects, key=lambda info: info.key)]


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
