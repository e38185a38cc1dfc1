# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the backups that lie here and in a bucket, each with all its copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._deps import need
from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import (
    StoredBackup,
    UnreadableError,
    open_backup,
)
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain, open_chain

Key = tuple[str, str]


@dataclass(frozen=True)
class Found:
    """All backups that could be looked at.

    Attributes:
        backups: By UUID and id.
        unreadable: Those without a manifest that can be believed, or that could not be read now.
    """

    backups: Mapping[Key, StoredBackup]
    unreadable: Mapping[Key, UnreadableError | StorageError]

    def chain(self, backup: StoredBackup) -> StoredChain:
        """A backup with all that it builds on. Raises ``ChainError``, ``StorageError``."""
        uuid = backup.manifest.vm.uuid

        def find(backup_id: str) -> StoredBackup:
            if (uuid, backup_id) in self.unreadable:
                raise self.unreadable[uuid, backup_id]
            if (uuid, backup_id) not in self.backups:
                raise NotFoundError(f"There is no backup {backup_id} of {uuid}.", code="backup_not_found")
            return self.backups[uuid, backup_id]

        return open_chain(backup, find)


@contextmanager
def open_store(config: S3Config | None) -> Iterator[S3Store | None]:
    """The bucket, if there is one."""
    if config is None:
        yield None
        return
    need("boto3")
    with closing(S3Store(config)) as store:
        yield store


def find_backups(
    path: Path, store: S3Store | None, names: Sequence[str], checksums: Mapping[str, str] | None = None
) -> Found:
    """Every backup here and in the bucket.

    Args:
        path: ``backup_dir``; a host without one may still read a bucket.
        store: The bucket; None looks only here.
        names: Where all are UUIDs, only these VMs are looked at; names need every manifest.
        checksums: ``<vm_uuid>/<id>`` -> SHA-256 of its manifest, kept elsewhere.

    Raises:
        StorageError: The directory cannot be listed.
        S3Error: The bucket cannot be listed, or read.
    """
    backups: dict[Key, StoredBackup] = {}
    unreadable: dict[Key, UnreadableError | StorageError] = {}
    for uuid in sorted(_uuids(path, store, names)):
        directory = BackupDirectory(str(path)).vm(uuid)
        offsite = OffsiteVm(store, uuid) if store is not None else None
        ids = set(directory.ids()) if directory.path.is_dir() else set()
        ids |= set(offsite.ids() or ()) if offsite is not None else set()
        claims: dict[str, list[str]] = {}
        # Children first: each says which manifest its parent has.
        for backup_id in sorted(ids, reverse=True):
            known = (checksums or {}).get(f"{uuid}/{backup_id}")
            try:
                found = _open(directory, offsite, backup_id, [known] if known else [*claims.get(backup_id, ()), None])
            except NotFoundError:
                # Half an upload, or deleted just now.
                continue
            except (UnreadableError, StorageError) as error:
                unreadable[uuid, backup_id] = error
                continue
            backups[uuid, backup_id] = found
            parent = found.manifest.parent
            if parent is not None:
                claims.setdefault(parent["id"], []).append(parent["manifest_sha256"])
    return Found(backups, unreadable)


def _open(
    directory: VmDirectory, offsite: OffsiteVm | None, backup_id: str, expected: Sequence[str | None]
) -> StoredBackup:
    """Open a backup by the first checksum of its manifest that fits; None takes what it says itself."""
    for checksum in dict.fromkeys(expected):
        try:
            return open_backup(
                directory.uuid,
                backup_id,
                directory=directory.entry(backup_id),
                place=offsite.backup(backup_id) if offsite is not None else None,
                expected=checksum,
            )
        except UnreadableError as error:
            failure = error
    raise failure


def _uuids(path: Path, store: S3Store | None, names: Sequence[str]) -> set[str]:
    wanted = {canonical_uuid(name) for name in names}
    if wanted and None not in wanted:
        return {uuid for uuid in wanted if uuid is not None}
    found: set[str] = set()
    if path.is_dir():
        found |= {directory.uuid for directory in BackupDirectory(str(path)).vms()}
    if store is not None:
        prefix = store.config.prefix
        there = (found_prefix.rstrip("/").rsplit("/", 1)[-1] for found_prefix in store.list_directories(prefix))
        found |= {name for name in there if canonical_uuid(name) == name}
    return {uuid for uuid in found if canonical_uuid(uuid) == uuid}
