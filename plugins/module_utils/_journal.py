# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that can be undone, by this run or by the one after it was killed: each is written down before it is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    read_json,
    storage_error,
    storage_errors,
    sync_directory,
    write_json,
)

_SCHEMA = 1
Undo = Callable[[Mapping[str, Any]], None]


class Journal:
    """The steps of one run.

    Args:
        path: Of the file; its directory exists.
        undoers: Kind of step -> what takes it back. Each must be fine with a step that was not done.
    """

    def __init__(self, path: Path, undoers: Mapping[str, Undo]) -> None:
        self._path = path
        self._undoers = {"rename": undo_rename, **undoers}
        self._steps: list[dict[str, Any]] = []

    def load(self) -> bool:
        """Take over what a dead run has left; whether there was anything.

        Raises:
            FormatError: The file is damaged.
        """
        try:
            self._steps = list(read_json(self._path)["steps"])
        except FileNotFoundError:
            return False
        return bool(self._steps)

    def note(self, kind: str, **facts: Any) -> None:
        """Write down a step that is about to be done."""
        self._steps.append({"kind": kind, **facts})
        write_json(self._path, {"schema": _SCHEMA, "steps": self._steps})

    def rename(self, source: Path, target: Path, **facts: Any) -> None:
        """Rename a file or a directory. Nothing may be there under the new name.

        Args:
            facts: For whoever takes it back.

        Raises:
            StorageError: It could not be renamed.
        """
        if os.path.lexists(target):
            raise StorageError(f"{source} is not renamed to {target}, for that is there already.")
        self.note("rename", source=str(source), target=str(target), **facts)
        with storage_errors(f"renaming {source} to {target}"):
            os.rename(source, target)
            sync_directory(target.parent)

    def undo(self) -> str | None:
        """Take all steps back, the last one first.

        Returns:
            Why it ended early, in words; what is left stays written down.
        """
        while self._steps:
            step = self._steps[-1]
            try:
                self._undoers[step["kind"]](step)
            except (VMForgeError, OSError) as error:
                # What comes before builds on it: a disk must not be taken from a machine that could not be stopped.
                failure = error if isinstance(error, VMForgeError) else storage_error("undoing a step", error)
                write_json(self._path, {"schema": _SCHEMA, "steps": self._steps})
                return failure.message
            self._steps.pop()
        self.close()
        return None

    def close(self) -> None:
        """All is done for good: nothing is to be undone any more."""
        self._steps = []
        with storage_errors(f"removing {self._path}"):
            self._path.unlink(missing_ok=True)
            sync_directory(self._path.parent)


def undo_rename(step: Mapping[str, Any]) -> None:
    """Give the old name back, if that has not been done yet."""
    source, target = Path(step["source"]), Path(step["target"])
    if os.path.lexists(target) and not os.path.lexists(source):
        os.rename(target, source)
        sync_directory(source.parent)
