# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``progress.json``: how far a run is, for whoever looks while it runs. Replaced by rename, once a second."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time, utc_now


class Progress:
    """Counts, and writes what it counted.

    Args:
        path: Of the file.
        facts: Fixed values that are written along: id, VM, node.
        monotonic: The clock for the rate, in seconds.

    Attributes:
        read: Bytes read of the guest's disks.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path, self._monotonic = path, monotonic
        self._facts = dict(facts, pid=os.getpid(), started=format_time(utc_now()))
        self._lock = threading.Lock()
        self.phase = "starting"
        self.total = 0
        self.done = 0
        self.stored = 0
        self.read = 0
        self._phase_began = monotonic()

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
        temporary = self._path.with_name(f".{self._path.name}.new")
        with storage_errors(f"writing {self._path}"):
            temporary.write_text(json.dumps(self.snapshot(), indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, self._path)
