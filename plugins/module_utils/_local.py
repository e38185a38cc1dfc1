# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup directory of one host: locks, ids, files that are safe on disk, and what lies there."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import BusyError, FormatError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors, sync_directory
from ansible_collections.vmforge.backup.plugins.module_utils._model import is_id, next_id, utc_now

PARTIAL, DELETING, FAILED = ".partial", ".deleting", ".failed.json"
MANIFEST, OFFSITE, PROGRESS = "manifest.json", "offsite.json", "progress.json"
_DIRECTORY_MODE = 0o700


class BackupDirectory:
    """``backup_dir``: one directory per VM below it. Never created here, for a missing one is often a missing mount.

    Args:
        path: An absolute path.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def check(self, *, touch: bool = True) -> None:
        """Raise ``StorageError`` unless the directory is there and can be written.

        Args:
            touch: Find out by writing; otherwise the kernel's word is taken.
        """
        if not self.path.is_absolute():
            raise StorageError(f"backup_dir {str(self.path)!r} is not an absolute path.", code="invalid_input")
        if not self.path.is_dir():
            raise StorageError(
                f"The backup directory {self.path} does not exist or is no directory. Is its file system mounted? "
                "The role vmforge.backup.node creates it.",
                code="backup_dir_missing",
            )
        if not touch:
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise StorageError(f"The backup directory {self.path} cannot be written.", code="backup_dir_unwritable")
            return
        try:
            probe = self.path / f".write-test-{os.getpid()}"
            with probe.open("xb"):
                pass
            probe.unlink()
        except OSError as error:
            raise StorageError(
                f"The backup directory {self.path} cannot be written: {error.strerror}.", code="backup_dir_unwritable"
            ) from error

    def vm(self, uuid: str) -> VmDirectory:
        """The directory of one VM, by canonical UUID."""
        return VmDirectory(self.path / uuid)

    def vms(self) -> list[VmDirectory]:
        """The directories of all VMs. Raises ``StorageError`` when they cannot be listed."""
        with storage_errors(f"listing {self.path}"):
            names = sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir(follow_symlinks=False))
        return [VmDirectory(self.path / name) for name in names if len(name) == 36 and name.count("-") == 4]


class VmDirectory:
    """``<backup_dir>/<vm_uuid>``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def uuid(self) -> str:
        """The VM's UUID."""
        return self.path.name

    @contextmanager
    def lock(self, *, timeout: float = 0, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Hold the lock of this VM's backups; it ends with this process at the latest.

        Raises:
            BusyError: Someone else holds it after ``timeout`` seconds.
        """
        with storage_errors(f"locking {self.path}"):
            self._make()
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        try:
            while not _try_flock(descriptor):
                if time.monotonic() >= deadline:
                    raise BusyError(
                        f"Another process is working on the backups in {self.path}. Wait for it, or raise "
                        "lock_timeout (with the playbooks: vmforge_backup_lock_timeout).",
                        code="locked",
                    )
                sleep(0.2)
            yield
        finally:
            os.close(descriptor)

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=_DIRECTORY_MODE)
        except FileExistsError:
            return
        # What is committed in it must not be lost with its name.
        sync_directory(self.path.parent)

    def entries(self) -> list[str]:
        """Names of everything in it; empty when the VM has none. Raises ``StorageError`` when it cannot be listed."""
        with storage_errors(f"listing {self.path}"):
            try:
                return sorted(os.listdir(self.path))
            except FileNotFoundError:
                return []

    def ids(self, suffix: str = "", *, entries: Iterable[str] | None = None) -> list[str]:
        """Ids of the entries with a suffix, oldest first: committed ones by default.

        Args:
            entries: A listing made before, to see one moment through several questions.
        """
        listed = self.entries() if entries is None else entries
        names = (name[: len(name) - len(suffix)] for name in listed if name.endswith(suffix))
        return [name for name in names if is_id(name)]

    def known_ids(self) -> set[str]:
        """Every id that was ever reserved here, whatever became of it."""
        return {name for entry in self.entries() if is_id(name := entry.split(".", 1)[0])}

    def reserve(self, elsewhere: Iterable[str], *, clock: Callable[[], datetime] = utc_now) -> str:
        """Take a new id by creating its ``.partial`` directory.

        Args:
            elsewhere: Ids known in other places, such as S3.

        Raises:
            InputError: The newest id lies in the future.
        """
        other = set(elsewhere)
        while True:
            chosen, wait = next_id(self.known_ids() | other, now=clock())
            time.sleep(wait)
            try:
                with storage_errors(f"creating {self.path / chosen}{PARTIAL}"):
                    (self.path / (chosen + PARTIAL)).mkdir(mode=_DIRECTORY_MODE)
                return chosen
            except FileExistsError:
                other.add(chosen)

    def entry(self, backup_id: str, suffix: str = "") -> Path:
        """The path of a backup, or of what it is called in another state."""
        if not is_id(backup_id):
            raise FormatError(f"{backup_id!r} is not a backup id such as 20261122T151200Z.")
        return self.path / (backup_id + suffix)

    def commit(self, backup_id: str) -> Path:
        """Turn a complete partial directory into a backup; durable when it returns."""
        source, target = self.entry(backup_id, PARTIAL), self.entry(backup_id)
        with storage_errors(f"committing {target}"):
            sync_directory(source)
            os.rename(source, target)
            sync_directory(self.path)
        return target


def _try_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
