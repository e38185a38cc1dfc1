# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup together with all that it builds on: each disk of an incremental one is several images, one over the other.

Pure, but for how an ancestor is found. Names of backing files in images are never believed; manifests are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, NotFoundError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord, FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup

# Finds a backup of the same VM by its id. Raises NotFoundError or FormatError where there is none that can be believed.
Find = Callable[[str], StoredBackup]


class ChainError(FormatError):
    """A backup whose chain is not whole, so that nothing can be restored from it.

    Args:
        head: The backup.
        ancestor: Id of the one that is to blame.
        problem: What is wrong with it, to follow its id.
    """

    code = "chain_broken"

    def __init__(self, head: StoredBackup, ancestor: str, problem: str) -> None:
        manifest = head.manifest
        super().__init__(
            f"Backup {manifest.id} of {manifest.vm.name!r} cannot be restored: its ancestor {ancestor} {problem}."
        )
        self.ancestor, self.problem = ancestor, problem


@dataclass(frozen=True)
class Layer:
    """One image of a disk.

    Attributes:
        backup: That it lies in.
        disk: As that backup's manifest has it.
        record: Of its file there.
    """

    backup: StoredBackup
    disk: DiskRecord
    record: FileRecord

    @property
    def id(self) -> str:
        """Of its backup."""
        return self.backup.manifest.id


@dataclass(frozen=True)
class StoredChain:
    """A backup and its ancestors.

    Attributes:
        members: The newest first; the last one is a full backup.
    """

    members: tuple[StoredBackup, ...]

    @property
    def head(self) -> StoredBackup:
        """The backup itself."""
        return self.members[0]

    def layers(self, target: str) -> tuple[Layer, ...]:
        """The images of one of its disks, the topmost first, down to one that needs no other.

        Raises:
            NotFoundError: The backup has no such disk.
        """
        found: list[Layer] = []
        for member in self.members:
            layer = _layer(member, target)
            if layer is None:
                break
            found.append(layer)
            if layer.disk.type == "full":
                return tuple(found)
        manifest = self.head.manifest
        raise NotFoundError(f"Backup {manifest.id} of {manifest.vm.name!r} has no disk {target}.")


def open_chain(head: StoredBackup, find: Find) -> StoredChain:
    """Find all that a backup builds on, and make sure that it is what the backup was made on.

    Raises:
        ChainError: An ancestor is missing, cannot be believed, is another one, or lacks a disk.
        S3Error, StorageError: An ancestor cannot be looked at, which says nothing about it.
    """
    members = [head]
    while members[-1].manifest.parent is not None:
        members.append(_parent(head, members[-1], find))
    return StoredChain(tuple(members))


def layered(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """QEMU's description of a disk that lies in several images, complete, so that no name in an image is followed.

    Args:
        files: Where each image lies, as a block device of the protocol layer; the topmost first.
    """
    node: dict[str, Any] | None = None
    for file in reversed(files):
        node = {"driver": "qcow2", "read-only": True, "file": dict(file), "backing": node}
    if node is None:
        raise ValueError("a disk without an image")
    return node


def _parent(head: StoredBackup, child: StoredBackup, find: Find) -> StoredBackup:
    wanted = child.manifest.parent or {}
    parent_id = wanted["id"]
    if parent_id >= child.manifest.id:
        # Ids of one VM only grow; so this ends.
        raise ChainError(head, parent_id, "is not older than what builds on it")
    try:
        parent = find(parent_id)
    except NotFoundError:
        raise ChainError(head, parent_id, "is missing") from None
    except FormatError as error:
        raise ChainError(head, parent_id, f"cannot be used: {error.message.rstrip('.')}") from error
    if parent.sha256 != wanted["manifest_sha256"] or parent.manifest.vm.uuid != child.manifest.vm.uuid:
        raise ChainError(head, parent_id, "is not the one that it was made on")
    for disk in child.manifest.disks:
        below = _layer(parent, disk.target)
        if disk.type == "full":
            continue
        if below is None:
            raise ChainError(head, parent_id, f"has no disk {disk.target}")
        if disk.backing != f"../{parent_id}/{below.disk.file}":
            raise ChainError(head, parent_id, f"is not what disk {disk.target} builds on, for that is {disk.backing!r}")
    return parent


def _layer(backup: StoredBackup, target: str) -> Layer | None:
    disk = next((disk for disk in backup.manifest.disks if disk.target == target), None)
    if disk is None:
        return None
    record = next(record for record in backup.manifest.files if record.name == disk.file)
    return Layer(backup, disk, record)
