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
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import (
    StoredBackup,
    UnreadableError,
    open_backup,
)

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
        for backup_id in sorted(ids):
            try:
                backups[uuid, backup_id] = open_backup(
                    uuid,
                    backup_id,
                    directory=directory.entry(backup_id),
                    place=offsite.backup(backup_id) if offsite is not None else None,
                    expected=(checksums or {}).get(f"{uuid}/{backup_id}"),
                )
            except NotFoundError:
                # Half an upload, or deleted just now.
                continue
            except (UnreadableError, StorageError) as error:
                unreadable[uuid, backup_id] = error
    return Found(backups, unreadable)


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
