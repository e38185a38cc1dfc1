# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of one VM's backups in S3: the same files under the same names, the manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    NotFoundError,
    S3Error,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import decode_json
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import (
    Manifest,
    decode_manifest,
    manifest_sha256,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time, is_id, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_multipart import MultipartUpload
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import StoredObject
from ansible_collections.vmforge.backup.plugins.module_utils._signals import cancelled_by_signals

MAX_MANIFEST_SIZE = 256 << 20
_MAX_SIDECAR_SIZE = 16 << 20
_DENIED = "s3_denied"
# What another moment may cure; everything else is a mistake in the configuration.
_PASSING = ("s3_unreachable", "s3_timeout", "s3_busy", "s3_dns", "s3_full")
_PROBE = ".vmforge-access-probe"


def check_access(store: S3Store, *, must_answer: bool) -> None:
    """Find out before anything is touched whether S3 can be used as it is configured.

    Args:
        must_answer: Also an S3 that is away for the moment is an error: without a local copy it is the only place.

    Raises:
        S3Error: Keys, bucket, region, clock, certificate or protocol are wrong.
    """
    try:
        with cancelled_by_signals():
            store.learn_checksum()
        store.list(store.config.key(_PROBE))
        store.clear_probes()
    except S3Error as error:
        # Keys that may only write are a supported case.
        if error.code != _DENIED and (must_answer or error.code not in _PASSING):
            raise


def is_passing(error: VMForgeError) -> bool:
    """Whether another moment may cure it, rather than another configuration."""
    return isinstance(error, S3Error) and error.code in _PASSING


class OffsiteVm:
    """One VM's place in the bucket.

    Args:
        store: The bucket.
        uuid: Of the VM.
    """

    def __init__(self, store: S3Store, uuid: str) -> None:
        self.store = store
        self.uuid = uuid

    def ids(self) -> list[str] | None:
        """Ids of everything that lies there; None where the keys may not list.

        Raises:
            S3Error: The listing failed for another reason.
        """
        try:
            found = self.store.list_directories(self.store.config.key(self.uuid))
        except S3Error as error:
            if error.code == _DENIED:
                return None
            raise
        names = (prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in found)
        return [name for name in names if is_id(name)]

    def backup(self, backup_id: str) -> OffsiteBackup:
        """One backup's place."""
        return OffsiteBackup(self.store, self.uuid, backup_id)


class OffsiteBackup:
    """``<prefix>/<vm_uuid>/<id>/``: one backup in the bucket, whole or in the making."""

    def __init__(self, store: S3Store, uuid: str, backup_id: str) -> None:
        self.store = store
        self.endpoint, self.bucket = store.config.endpoint, store.config.bucket
        self.prefix = store.config.key(uuid, backup_id)
        self._place = (uuid, backup_id)
        self._objects: dict[str, Any] = {}

    def is_place_of(self, offsite: Mapping[str, Any]) -> bool:
        """Whether an ``offsite.json`` speaks of this place, and not of one that was used before."""
        return self.store.config.is_place_of(offsite, *self._place)

    def key(self, name: str) -> str:
        """The key of one file."""
        return self.store.config.key(*self._place, name)

    def begin(self, name: str) -> MultipartUpload:
        """Begin the upload of a streamed file."""
        return self.store.multipart(self.key(name))

    def note(self, name: str, stored: StoredObject) -> None:
        """Remember what the server said of a finished file."""
        self._objects[name] = {"version_id": stored.version_id, "size": stored.size}

    def put(self, name: str, data: bytes) -> None:
        """Upload a small file."""
        digest = hashlib.sha256(data).hexdigest()
        self.note(name, self.store.put(self.key(name), data, sha256=digest))

    def complete(self) -> bool:
        """Whether its manifest is there. Raises ``S3Error`` when that cannot be told."""
        return self.store.head(self.key(MANIFEST)) is not None

    def is_of_another(self, nodes: Collection[str], sha256: str | None = None, *, patient: bool = False) -> bool:
        """Whether another backup lies here: S3 has one place for an id, and two nodes may have made one each.

        Args:
            nodes: That may have made the one that is meant.
            sha256: Of its manifest; None where that is not known.
            patient: Outlive a restart of the server.

        Raises:
            S3Error: That cannot be told. Keys that may not read are told no.
        """
        try:
            data = self.store.get(self.key(MANIFEST), max_size=MAX_MANIFEST_SIZE, patient=patient)
            node = decode_manifest(data, where=self.key(MANIFEST)).vm.node
        except (NotFoundError, FormatError):
            return False
        except S3Error as error:
            if error.code != _DENIED:
                raise
            return False
        return node not in nodes or sha256 not in (None, manifest_sha256(data))

    def refuse_taken(self, manifest: bytes | None = None) -> None:
        """Raise ``S3Error`` with code ``s3_taken`` where another backup lies here.

        Two nodes may back up one machine in the same second: S3 has one place for both.

        Args:
            manifest: That may lie here already; None for a backup that has none yet.
        """
        nodes = set() if manifest is None else {decode_manifest(manifest, where=self.key(MANIFEST)).vm.node}
        if self.is_of_another(nodes, manifest_sha256(manifest) if manifest is not None else None, patient=True):
            raise self._taken("another backup lies there")

    def put_manifest(self, data: bytes) -> None:
        """Make the copy complete; the last thing that is written, and only beside images that are its own.

        Raises:
            S3Error: With code ``s3_taken`` where they are another backup's.
        """
        self.refuse_taken(data)
        manifest = decode_manifest(data, where=self.key(MANIFEST))
        sizes = {record.name: record.size for record in manifest.files}
        try:
            for disk in manifest.disks:
                found = self.store.head(self.key(disk.file), patient=True)
                if found is None or found.size != sizes[disk.file]:
                    raise self._taken(f"{disk.file} is not what was uploaded")
        except S3Error as error:
            # Keys that may only write cannot look.
            if error.code != _DENIED:
                raise
        self.put(MANIFEST, data)

    def _taken(self, what: str) -> S3Error:
        return S3Error(
            f"{self.prefix} in {self.store.config.where} is taken: {what}. Two nodes have backed up this machine in "
            "the same second, perhaps one that it was moved away from: undefine it there.",
            code="s3_taken",
        )

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a small JSON file of it; None where there is none.

        Raises:
            FormatError: It is not a JSON object.
        """
        try:
            data = self.store.get(self.key(name), max_size=_MAX_SIDECAR_SIZE)
        except NotFoundError:
            return None
        return decode_json(data, where=self.key(name))

    def refuse_incomplete(self, manifest: Manifest) -> None:
        """Raise ``S3Error`` unless every file of a manifest lies here, in its size: else it would claim what is not."""
        sizes = {found.key: found.size for found in self.store.list(self.prefix + "/")}
        missing = [record.name for record in manifest.files if sizes.get(self.key(record.name)) != record.size]
        if missing:
            raise S3Error(
                f"{self.prefix} in bucket {self.store.config.bucket!r} lacks {', '.join(missing)} of it: it was "
                "begun in another place, or what it had there was removed.",
                code="s3_incomplete",
            )

    def refuse_locked(self) -> None:
        """Raise ``S3Error`` with code ``s3_locked`` when object lock protects any version of any file of it."""
        for key in self.store.list_stored(self.prefix + "/"):
            self.store.plan_deletion(key)

    def delete_all(self) -> None:
        """Delete it: the manifest first, so that what is left at any time is no backup; every version, and confirmed.

        Raises:
            S3Error: Something is still there, or may be.
        """
        self.store.delete(self.key(MANIFEST))
        for key in self.store.list_stored(self.prefix + "/"):
            self.store.delete(key)
        self.store.abort_multiparts(self.prefix + "/")

    def discard(self) -> bool:
        """Remove what a run that failed has left: unfinished uploads, then objects. Never with a manifest there.

        Returns:
            Whether all of it is gone.

        Raises:
            S3Error: Something could not be removed, or not be looked at.
        """
        self.store.abort_multiparts(self.prefix + "/")
        if self.complete():
            return False
        for key in self.store.list_stored(self.prefix + "/"):
            self.store.delete(key)
        return True

    def abort_unfinished(self) -> None:
        """Remove unfinished uploads of an earlier attempt; silent where the keys may not list them."""
        try:
            self.store.abort_multiparts(self.prefix + "/")
        except S3Error as error:
            if error.code != _DENIED:
                raise

    def record(self, *, completed: bool, local_kept: bool) -> dict[str, Any]:
        """The content of ``offsite.json``."""
        return {
            "endpoint": self.endpoint,
            "bucket": self.bucket,
            "prefix": self.prefix,
            "completed_at": format_time(utc_now()) if completed else None,
            "objects": self._objects,
            "local": "kept" if local_kept else "dropped",
        }
