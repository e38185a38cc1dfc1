# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``progress.json``: how far a run is, for whoever looks while it runs. Replaced by rename, once a second.

A run that goes on by itself (``_job.py``) shares it: the same lies in a directory, by process, for whoever follows.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time, utc_now

_SHARE_SECONDS = 0.5
# Where all progress of this process and its children is shared.
_shared: list[Path] = []


def share_progress(directory: Path) -> None:
    """Write all progress of this process, and of those that it forks, to this directory as well."""
    _shared[:] = [directory]


def read_shared(directory: Path) -> list[dict[str, Any]]:
    """How far the processes are that share their progress there and still run."""
    found = []
    for path in sorted(directory.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            said = json.loads(path.read_bytes())
            if os.path.exists(f"/proc/{said['pid']}"):
                found.append(said)
    return sorted(found, key=lambda said: str(said.get("vm", {}).get("name")))


class Progress:
    """Counts, and writes what it counted.

    Args:
        path: Of the file. None where it is only shared.
        facts: Fixed values that are written along: id, VM, node.
        monotonic: The clock for the rate, in seconds.

    Attributes:
        read: Bytes read of the guest's disks.
    """

    def __init__(
        self, path: Path | None, facts: dict[str, Any], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._monotonic = path, monotonic
        self._facts = dict(facts, pid=os.getpid(), started=format_time(utc_now()))
        self._lock = threading.Lock()
        self.phase = "starting"
        self.total = 0
        self.done = 0
        self.stored = 0
        self.read = 0
        self._phase_began = self._shared_at = monotonic()

    def enter(self, phase: str, *, total: int | None = None) -> None:
        """Begin a phase, with a new total where it counts bytes of its own."""
        with self._lock:
            self.phase, self._phase_began = phase, self._monotonic()
            if total is not None:
                self.total, self.done = total, 0
        self.write()

    def advance(self, done: int, stored: int = 0) -> None:
        """Count bytes; from any thread."""
        with self._lock:
            self.done += done
            self.stored += stored
            if self.phase == "reading":
                self.read += done
            now = self._monotonic()
            late = bool(_shared) and now - self._shared_at >= _SHARE_SECONDS
            if late:
                self._shared_at = now
        if late:
            self._share()

    def snapshot(self) -> dict[str, Any]:
        """What the file says. ``rate`` is bytes a second in this phase, ``eta`` the seconds left or None."""
        with self._lock:
            elapsed = max(self._monotonic() - self._phase_began, 1e-6)
            rate = self.done / elapsed
            eta = (self.total - self.done) / rate if rate and self.total else None
            return dict(
                self._facts,
                phase=self.phase,
                bytes_done=self.done,
                bytes_total=self.total,
                bytes_stored=self.stored,
                rate=int(rate),
                eta=None if eta is None else max(0, round(eta)),
                updated=format_time(utc_now()),
            )

    def write(self) -> None:
        """Replace the file. Not synced: it is of no use after a crash."""
        if self._path is not None:
            with storage_errors(f"writing {self._path}"):
                _replace(self._path, self.snapshot())
        self._share()

    def _share(self) -> None:
        # A backup must not fail because nobody can be told how far it is.
        with contextlib.suppress(OSError):
            for directory in _shared:
                _replace(directory / f"{self._facts['pid']}.json", self.snapshot())


def _replace(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}.new")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
