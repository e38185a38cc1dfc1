# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case behind ``vmforge_s3_object``: look, plan, execute."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    InputError,
    NotFoundError,
    S3Error,
    StorageError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_duration
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import OCTETS, S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import CORRUPT, DENIED
from ansible_collections.vmforge.backup.plugins.module_utils._s3_files import file_sha256
from ansible_collections.vmforge.backup.plugins.module_utils._s3_multipart import MIN_PART_SIZE
from ansible_collections.vmforge.backup.plugins.module_utils._s3_plan import (
    DELETE,
    NONE,
    REAP,
    ObjectPlan,
    Wanted,
    checked_metadata,
    checked_sha256,
    plan_download,
    plan_upload,
    relative,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import NO_VERSION, ObjectInfo
from ansible_collections.vmforge.backup.plugins.module_utils._signals import cancelled_by_signals

OBJECT_ARGUMENTS: dict[str, dict[str, Any]] = {
    # "key" is an object's name here, nothing secret.
    "key": {"type": "str", "no_log": False},
    "state": {"type": "str", "choices": ["present", "absent", "downloaded", "reaped"], "default": "present"},
    "src": {"type": "path"},
    "content": {"type": "str"},
    "dest": {"type": "path"},
    "mode": {"type": "str", "default": "0600"},
    "sha256": {"type": "str"},
    "version_id": {"type": "str"},
    "overwrite": {"type": "bool", "default": True},
    "metadata": {"type": "dict", "default": {}},
    "content_type": {"type": "str"},
    "part_size": {"type": "bytes", "default": "16M"},
    "parallel": {"type": "int", "default": 4},
    "age": {"type": "str", "default": "1d"},
    **S3_ARGUMENTS,
}
_UNSEEN = "The keys have no right to look at objects: whether it was there already is not known."


@dataclass(frozen=True)
class _Task:
    """The options of one call, checked."""

    params: Mapping[str, Any]
    config: S3Config
    check_mode: bool

    @property
    def key(self) -> str:
        return self.config.key(self.params["key"])

    def store(self) -> S3Store:
        return S3Store(self.config)

    def outcome(self, plan: ObjectPlan, warnings: tuple[str, ...] = (), **values: Any) -> Outcome:
        name = self.params.get("key") or ""
        diff = {
            side: {} if value is None else {name: dict(value)}
            for side, value in (("before", plan.before), ("after", plan.after))
        }
        values.update(action=plan.action, reasons=list(plan.reasons))
        return Outcome(plan.changes, values, diff, warnings)

    def describe(self, size: int, sha256: str | None, etag: str | None, version_id: str | None) -> dict[str, Any]:
        return {
            "key": relative(self.config, self.key),
            "s3_key": self.key,
            "bucket": self.config.bucket,
            "size": size,
            "sha256": sha256,
            "etag": etag,
            "version_id": version_id,
        }


def keep_object(request: Request) -> Outcome:
    """Make an object, or a copy of one, be as wanted."""
    params = request.params
    if not 1 <= params["parallel"] <= 64:
        raise InputError(f"Option parallel: {params['parallel']} is not from 1 to 64.")
    if params["part_size"] < MIN_PART_SIZE:
        raise InputError(f"Option part_size: {params['part_size']} bytes are too few, S3 wants at least 5M.")
    task = _Task(params, S3Config.from_params(params), request.check_mode)
    steps = {"present": _present, "absent": _absent, "downloaded": _downloaded, "reaped": _reaped}
    with cancelled_by_signals():
        return steps[params["state"]](task)


def _present(task: _Task) -> Outcome:
    params, key = task.params, task.key
    wanted = _wanted(params, task.config)
    store = task.store()
    found, seen = _look(store, key)
    plan = plan_upload(wanted, found, seen=seen, overwrite=params["overwrite"], name=key)
    if plan.action == NONE and found is not None:
        described = task.describe(found.size, found.sha256, found.etag, found.version_id)
        return task.outcome(plan, object=described)
    etag = version = None
    if not task.check_mode:
        etag, version = _upload(store, key, wanted, params)
    warnings = () if seen else (_UNSEEN,)
    return task.outcome(plan, warnings, object=task.describe(wanted.size, wanted.sha256, etag, version))


def _upload(store: S3Store, key: str, wanted: Wanted, params: Mapping[str, Any]) -> tuple[str, str | None]:
    content_type = wanted.content_type or OCTETS
    if params["src"] is None:
        stored = store.put(
            key,
            params["content"].encode(),
            sha256=wanted.sha256,
            content_type=content_type,
            metadata=wanted.metadata,
            only_if_absent=not params["overwrite"],
        )
    else:
        stored = store.upload_file(
            key,
            params["src"],
            part_size=params["part_size"],
            sha256=wanted.sha256,
            content_type=content_type,
            metadata=wanted.metadata,
            parallel=params["parallel"],
        )
    return stored.etag, stored.version_id


def _wanted(params: Mapping[str, Any], config: S3Config) -> Wanted:
    if params["src"] is None:
        data = params["content"].encode()
        size, sha256 = len(data), hashlib.sha256(data).hexdigest()
    else:
        size, sha256 = _file_size(params["src"]), file_sha256(params["src"])
    expected = checked_sha256(params["sha256"])
    if expected is not None and expected != sha256:
        what = params["src"] or "content"
        raise InputError(f"The SHA-256 of {what} is {sha256}, not {expected} as option sha256 says.")
    return Wanted(size, sha256, params["content_type"], checked_metadata(params["metadata"]), config.storage_class)


def _absent(task: _Task) -> Outcome:
    store = task.store()
    found = store.plan_deletion(task.key)
    plan = _plan_absent(found.existed, store.config.bucket)
    if not plan.changes or task.check_mode:
        versions = [version for version, _is_marker in found.versions or () if version != NO_VERSION]
        return task.outcome(plan, object=None, versions=versions, confirmed=not plan.changes)
    done = store.execute_deletion(found)
    warnings = () if done.note is None else (f"{task.key}: {done.note}",)
    return task.outcome(plan, warnings, object=None, versions=list(done.versions), confirmed=done.confirmed)


def _plan_absent(existed: bool | None, bucket: str) -> ObjectPlan:
    if existed is False:
        return ObjectPlan(NONE, ("the object does not exist",))
    reason = "it exists" if existed else "the keys have no right to see whether it is there"
    return ObjectPlan(DELETE, (reason,), {"bucket": bucket, "exists": existed}, None)


def _downloaded(task: _Task) -> Outcome:
    params, key = task.params, task.key
    mode = _mode(params["mode"])
    store = task.store()
    info = store.head(key, version_id=params["version_id"])
    if info is None:
        raise NotFoundError(f"There is no '{key}' in {task.config.where}: nothing to download.")
    expected = checked_sha256(params["sha256"]) or info.sha256
    if params["sha256"] and info.sha256 and expected != info.sha256:
        raise S3Error(f"'{key}' has the SHA-256 {info.sha256}, not {expected} as option sha256 says.", code=CORRUPT)
    size = _file_size(params["dest"]) if os.path.lexists(params["dest"]) else None
    local = file_sha256(params["dest"]) if size == info.size and expected else None
    plan = plan_download(info, expected, size, local, overwrite=params["overwrite"], dest=params["dest"])
    if plan.changes and not task.check_mode:
        store.download_file(
            key,
            params["dest"],
            sha256=expected,
            version_id=info.version_id,
            part_size=params["part_size"],
            parallel=params["parallel"],
            mode=mode,
        )
    return task.outcome(plan, object=task.describe(info.size, expected, info.etag, info.version_id))


def _reaped(task: _Task) -> Outcome:
    store, config = task.store(), task.config
    prefix = task.key + "/" if task.params["key"] else (config.prefix + "/" if config.prefix else "")
    before = datetime.now(timezone.utc) - parse_duration(task.params["age"])
    old = [upload for upload in store.list_multiparts(prefix) if upload[2] <= before]
    if old and not task.check_mode:
        store.abort_uploads(prefix, old)
    uploads = describe_uploads(config, old)
    if not old:
        return task.outcome(ObjectPlan(NONE, ("there are no unfinished uploads of that age",)), uploads=uploads)
    names = {"unfinished_uploads": [upload["key"] for upload in uploads]}
    plan = ObjectPlan(REAP, (f"{len(old)} unfinished uploads are older than {task.params['age']}",), names, None)
    return task.outcome(plan, uploads=uploads)


def describe_uploads(config: S3Config, uploads: Any) -> list[dict[str, str]]:
    """Unfinished uploads as modules return them, the oldest first."""
    return [
        {
            "key": relative(config, key),
            "upload_id": upload_id,
            "begun_at": begun.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        for key, upload_id, begun in sorted(uploads, key=lambda upload: (upload[2], upload[0]))
    ]


def _look(store: S3Store, key: str) -> tuple[ObjectInfo | None, bool]:
    """The object, and whether the keys may look at all."""
    try:
        return store.head(key), True
    except S3Error as error:
        if error.code != DENIED:
            raise
        return None, False


def _file_size(path: str) -> int:
    try:
        if not os.path.isfile(path):
            raise StorageError(f"{path} is not a regular file, or does not exist, on this host.")
        return os.path.getsize(path)
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from None


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise InputError(f"Option mode: {text!r} is not an octal number such as '0600'.")
    return mode
