# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is watched while a backup runs: space, and that the source is still what it was. One thread, twice a second."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError, VMForgeError, internal_errors
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_error
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._pipeline import Stop

_MIB = 1 << 20
_LEAST_RESERVE, _MOST_RESERVE = 64 * _MIB, 1024 * _MIB


class Ticker:
    """Calls functions at an interval in a thread of its own, until closed. A failure stops the run.

    Args:
        interval: Seconds.
        calls: Each is called every time.
        stop: Told of the first failure.
        on_failure: Called then, in this thread: the others may still be waiting for a network.
    """

    def __init__(
        self,
        interval: float,
        calls: Sequence[Callable[[], None]],
        stop: Stop,
        *,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self._interval, self._calls, self._stop, self._on_failure = interval, calls, stop, on_failure
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            error = self._call_all()
            if error is not None:
                self._stop.fail(error)
                if self._on_failure is not None:
                    self._on_failure()
                return

    def _call_all(self) -> VMForgeError | None:
        try:
            with internal_errors():
                for call in self._calls:
                    call()
        except VMForgeError as error:
            return error
        except OSError as error:
            return storage_error("watching the backup", error)
        return None


def free_bytes(path: str) -> int:
    """Bytes that a process may still write to the file system of a path."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def reserve_bytes(path: str) -> int:
    """Bytes of a file system that are never touched: 2 %, from 64 MiB to 1 GiB."""
    status = os.statvfs(path)
    return min(_MOST_RESERVE, max(_LEAST_RESERVE, status.f_blocks * status.f_frsize // 50))


class SpaceGuard:
    """Raises before a file system is full. For a target, and for scratch files, on which a running guest depends.

    Args:
        path: A directory of the file system.
        what: For the message: what lies there.
        code: Of the error.
    """

    def __init__(self, path: str, *, what: str, code: str) -> None:
        self._path, self._what, self._code = path, what, code
        self._reserve = reserve_bytes(path)

    def __call__(self) -> None:
        """Raise ``StorageError`` when less than the reserve is free."""
        free = free_bytes(self._path)
        if free < self._reserve:
            raise StorageError(
                f"Only {format_bytes(free)} are left in {self._path}, where {self._what}; the backup was stopped "
                f"before that could hurt a guest (reserve: {format_bytes(self._reserve)}). Free space there.",
                code=self._code,
            )


class ScratchGuard:
    """Raises when the scratch files of a job have grown beyond a limit.

    Args:
        paths: Of the scratch files.
        limit: Bytes for all of them.
    """

    def __init__(self, paths: Iterable[str], *, limit: int) -> None:
        self._paths, self._limit = tuple(paths), limit

    def __call__(self) -> None:
        """Raise ``StorageError`` with code ``scratch_full``."""
        used = sum(_allocated(path) for path in self._paths)
        if used > self._limit:
            raise StorageError(
                f"The guest overwrote {format_bytes(used)} while it was backed up, more than scratch_max "
                f"({format_bytes(self._limit)}) allows; the backup was stopped before the guest could be hurt. "
                "Raise scratch_max (with the playbooks: vmforge_backup_scratch_max), or back up when the guest "
                "writes less.",
                code="scratch_full",
            )


def _allocated(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
