# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifies backups with all that they build on: each once, the ancestors first."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._find_backups import Found, Key
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import ChainError
from ansible_collections.vmforge.backup.plugins.module_utils._verify_one import (
    BAD,
    FAILED,
    PLANNED,
    REPAIRED,
    Below,
    Verification,
)
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VerifyOptions


class ChainVerifier:
    """The backups that one call verifies, and their ancestors.

    Args:
        found: Where ancestors are looked for.
        chosen: What was asked for.
    """

    def __init__(self, options: VerifyOptions, found: Found, chosen: Sequence[StoredBackup]) -> None:
        self._options, self._found = options, found
        self._chosen = {_key(backup) for backup in chosen}
        self._parents: dict[Key, Key] = {}
        # In the order in which they are verified.
        self._works: dict[Key, Verification] = {}
        for backup in chosen:
            self._add(backup)

    @property
    def changed(self) -> bool:
        """Whether anything was mended."""
        return any(work.result == REPAIRED for work in self._works.values())

    def entries(self) -> list[dict[str, Any]]:
        """What will be done."""
        return [work.entry(PLANNED) for work in self._works.values() if work.backup.copies]

    def run(self) -> list[dict[str, Any]]:
        """Do it; what fails is in the entries."""
        done = []
        for key, work in self._works.items():
            if key in self._parents:
                work.below = self._works[self._parents[key]].for_children()
            # An ancestor that is out of reach is told of by those that build on it.
            done += [work.run()] if work.backup.copies else []
        return done

    def _add(self, backup: StoredBackup) -> None:
        members: tuple[StoredBackup, ...] = (backup,)
        below = None
        try:
            members = self._found.chain(backup).members
        except ChainError as error:
            below = Below(BAD, f"its ancestor {error.ancestor} {error.problem}")
        except StorageError as error:
            below = Below(FAILED, f"an ancestor of it cannot be read: {error.message.rstrip('.')}")
        parent = None
        for member in reversed(members):
            key = _key(member)
            if key not in self._works:
                # A machine that nobody asked for is not booted.
                whole = functools.partial(self._found.chain, member) if key in self._chosen else None
                self._works[key] = Verification(
                    self._options, member, self._directory(member), below, [*member.damages], whole=whole
                )
                if parent is not None:
                    self._parents[key] = parent
            parent = key

    def _directory(self, backup: StoredBackup) -> VmDirectory | None:
        path = self._options.backup_dir
        return BackupDirectory(str(path)).vm(backup.manifest.vm.uuid) if path.is_dir() else None


def _key(backup: StoredBackup) -> Key:
    return backup.manifest.vm.uuid, backup.manifest.id
