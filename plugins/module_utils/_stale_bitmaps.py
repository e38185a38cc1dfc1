# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bitmaps of ours that no backup will be built on: every disk keeps that of the newest checkpoint, and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from ansible_collections.vmforge.backup.plugins.module_utils._basis import ImageFacts
from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint import Checkpoints
from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint_xml import checkpoint_name, is_checkpoint_of
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._local import FAILED, MANIFEST, PARTIAL, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._parent import checkpoints_here
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded

_MOST_FAILED = 3


class StaleBitmaps:
    """Removes them from the disks of a running domain; those of a stopped one wait until it runs.

    What cannot be removed is told, and hinders nothing.

    Args:
        directory: Of the VM's backups.
        disks: Of the domain.
    """

    def __init__(self, domain: Domain, directory: VmDirectory, disks: Sequence[Disk]) -> None:
        self._domain, self._directory = domain, directory
        self._targets = [disk.target for disk in disks if disk.format == "qcow2"]
        self._removed: set[str] = set()

    def clear(self, images: Mapping[str, ImageFacts]) -> list[str]:
        """Remove all but the newest: before a backup, and behind its commit what it has replaced.

        Args:
            images: Target -> what its image said before the backup. Bitmaps that were made since the domain was started
                are not in it; those that a crash broke are, of which libvirt knows nothing, and QEMU resizes no disk.
        """
        here = list(islice(checkpoints_here(self._directory), 2))
        newest = [name for _id, name in here]
        kept = {*newest[:1], *self._unfinished()}
        stale: dict[str, list[str]] = {}
        for target, image in images.items():
            for bitmap in image.bitmaps:
                if is_checkpoint_of(bitmap.name, self._domain.uuid) and bitmap.name not in kept:
                    stale.setdefault(bitmap.name, []).append(target)
        problems: list[str] = []
        for name, targets in stale.items():
            if name not in self._removed:
                self._removed.add(name)
                problems += self._attempt(name, targets, certain=True)
        # Of a run that was killed behind its commit, and of those that another program has cleared up after.
        for name in [*newest[1:], *self._failed(since=here[0][0] if here else "")]:
            if name not in kept:
                others = [target for target in self._targets if target not in stale.get(name, ())]
                problems += self._attempt(name, others, certain=False)
        return problems

    def drop(self, backup_id: str) -> list[str]:
        """Remove those of a backup that was not finished."""
        return self._attempt(checkpoint_name(backup_id, self._domain.uuid), self._targets, certain=False)

    def _failed(self, *, since: str) -> list[str]:
        ids = [backup_id for backup_id in self._directory.ids(FAILED) if backup_id > since]
        return [checkpoint_name(backup_id, self._domain.uuid) for backup_id in ids[-_MOST_FAILED:]]

    def _unfinished(self) -> list[str]:
        """Of backups that lack only their last step."""
        ids = self._directory.ids(PARTIAL)
        return [
            checkpoint_name(backup_id, self._domain.uuid)
            for backup_id in ids
            if (self._directory.entry(backup_id, PARTIAL) / MANIFEST).exists()
        ]

    def _attempt(self, name: str, targets: Sequence[str], *, certain: bool) -> list[str]:
        checkpoints = Checkpoints(self._domain)
        try:
            if not targets or not self._domain.state().active:
                return []
            with shielded():
                problems = checkpoints.remove(name, targets) if certain else checkpoints.remove_if_there(name, targets)
        except VMForgeError as error:
            problems = [error.message]
        return [f"The bitmap {name} could not be removed; the next run tries again: {text}" for text in problems]
