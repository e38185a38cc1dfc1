# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup that a new one can build on: the one that owns the newest checkpoint, with its chain."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from ansible_collections.vmforge.backup.plugins.module_utils._basis import Parent
from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint_xml import CHECKPOINT, noted_files
from ansible_collections.vmforge.backup.plugins.module_utils._copies import LOCAL, S3
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    NotFoundError,
    S3Error,
    SourceChangedError,
    StorageError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import read_json
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, OFFSITE, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import check_place, decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup, open_backup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain, open_chain
from ansible_collections.vmforge.backup.plugins.module_utils._verified import bad_copies


class ParentLostError(SourceChangedError):
    """What a backup builds on was deleted while it was made: what was read is discarded."""

    code = "parent_gone"


@dataclass(frozen=True)
class ParentChain:
    """A parent that can be read.

    Attributes:
        facts: For the decision.
        chain: It and its ancestors, each with those copies only that nothing bad is known of.
    """

    facts: Parent
    chain: StoredChain


def checkpoints_here(directory: VmDirectory) -> Iterator[tuple[str, str]]:
    """Checkpoints of the backups that lie here, the newest first: id and name."""
    for backup_id in reversed(directory.ids()):
        path = directory.entry(backup_id) / MANIFEST
        try:
            manifest = decode_manifest(path.read_bytes(), where=str(path))
            check_place(manifest, directory.uuid, backup_id, where=str(path))
        except (FileNotFoundError, FormatError):
            # Told by whoever plans the turn; it is no backup.
            continue
        if manifest.checkpoint is not None:
            yield backup_id, manifest.checkpoint


def find_parent(
    directory: VmDirectory, offsite: OffsiteVm | None, *, damaged: Collection[str] = ()
) -> ParentChain | str:
    """The backup that owns the newest checkpoint, or why nothing can build on it. Reads manifests only.

    Args:
        damaged: Ids of backups whose local copy was just found to be damaged.
    """
    backup_id, _name = next(checkpoints_here(directory), (None, None))
    if backup_id is None:
        return "no backup here has a checkpoint to build on"
    try:
        chain = open_chain(
            _open(directory, offsite, backup_id, damaged), lambda ancestor: _open(directory, offsite, ancestor, damaged)
        )
        problem = _not_offsite(directory, offsite, chain) if offsite is not None else None
    except (NotFoundError, FormatError, StorageError, S3Error) as error:
        return f"backup {backup_id}, which has the last checkpoint, cannot be built on: {error.message}"
    return problem or ParentChain(_facts(chain, _files(directory, backup_id)), chain)


def refuse_lost(chain: StoredChain, offsite: OffsiteVm | None) -> None:
    """Raise ``ParentLostError`` where a parent that lies in S3 alone was deleted there, which no lock of ours hinders.

    Looked at behind the last byte and before the commit. What the parent builds on goes after it.

    Raises:
        S3Error: That cannot be told.
    """
    parent = chain.head
    if offsite is None or any(copy.name == LOCAL for copy in parent.copies):
        return
    if not offsite.backup(parent.manifest.id).complete():
        raise ParentLostError(f"Backup {parent.manifest.id}, on which this one builds, was deleted in S3 meanwhile.")


def _not_offsite(directory: VmDirectory, offsite: OffsiteVm, chain: StoredChain) -> str | None:
    """Why a copy in this bucket would be worth nothing: it is that of a chain, which must lie there as a whole.

    A member whose upload is still to be completed will lie there.
    """
    for member in chain.members:
        backup_id = member.manifest.id
        path = directory.entry(backup_id)
        if not path.is_dir():
            # It was found in the bucket.
            continue
        try:
            noted = read_json(path / OFFSITE)
        except FileNotFoundError:
            noted = {}
        if not noted or not offsite.backup(backup_id).is_place_of(noted):
            return f"backup {backup_id}, on which it would depend, has no copy in this bucket"
        if S3 in bad_copies(member.records.values(), member.sha256):
            return f"the copy of backup {backup_id} in S3, on which it would depend, was verified as bad"
    return None


def _open(directory: VmDirectory, offsite: OffsiteVm | None, backup_id: str, damaged: Collection[str]) -> StoredBackup:
    """With its good copies. S3 is asked only where the local one is not enough: it costs time for each member."""
    here = directory.entry(backup_id)
    if here.is_dir() and backup_id not in damaged:
        try:
            stored = _good(open_backup(directory.uuid, backup_id, directory=here, place=None))
        except (NotFoundError, FormatError):
            stored = None
        if stored is not None and any(copy.name == LOCAL for copy in stored.copies):
            return stored
    if offsite is None:
        raise NotFoundError(f"no copy of {backup_id} is here, or none that is good", code="backup_not_found")
    local = here if backup_id not in damaged else None
    stored = _good(open_backup(directory.uuid, backup_id, directory=local, place=offsite.backup(backup_id)))
    if not stored.copies:
        raise NotFoundError(f"no copy of {backup_id} is good", code="backup_not_found")
    return stored


def _good(stored: StoredBackup) -> StoredBackup:
    """Without the copies of which something bad is known: by an earlier verification, or for want of their manifest."""
    bad = bad_copies(stored.records.values(), stored.sha256) | {damage.copy for damage in stored.damages}
    return replace(stored, copies=tuple(copy for copy in stored.copies if copy.name not in bad))


def _files(directory: VmDirectory, backup_id: str) -> dict[str, str]:
    """What was noted of the images' files. Of a note that cannot be read nothing is believed."""
    try:
        return noted_files((directory.entry(backup_id) / CHECKPOINT).read_text(errors="replace"))
    except (FileNotFoundError, FormatError):
        return {}


def _facts(chain: StoredChain, files: Mapping[str, str]) -> Parent:
    manifest = chain.head.manifest
    return Parent(
        id=manifest.id,
        sha256=chain.head.sha256,
        node=manifest.vm.node,
        checkpoint=manifest.checkpoint or "",
        disks={disk.target: disk for disk in manifest.disks},
        full_instant=parse_time(chain.members[-1].manifest.instant),
        incrementals=len(chain.members) - 1,
        files=files,
    )
