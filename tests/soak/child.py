# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Use cases of the collection, each in a process group of its own that can be killed at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils import _model
from ansible_collections.vmforge.backup.plugins.module_utils._backup import manage_backups
from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._options import BACKUP_ARGUMENTS


def module_params(**given: Any) -> dict[str, Any]:
    """The options of ``vmforge_backup`` as Ansible would hand them over."""
    unknown = set(given) - set(BACKUP_ARGUMENTS)
    if unknown:
        raise ValueError(f"vmforge_backup has no options {sorted(unknown)}")
    return {**{name: spec.get("default") for name, spec in BACKUP_ARGUMENTS.items()}, **given}


@dataclass
class Child:
    """A running use case. Forked, for that spares the second that Python takes to import it all."""

    pid: int
    report: Path
    began: float
    ended: float | None = None

    def seconds(self) -> float:
        """How long it ran, or has run."""
        return (self.ended or time.monotonic()) - self.began

    def worker(self) -> int | None:
        """The process that makes the backup, if there is one now."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])
        return None

    def running(self) -> bool:
        """Whether any process of the group is left."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            self.ended = self.ended or time.monotonic()
            return False
        return True

    def wait(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Wait until all of the group has ended; whether it has."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                return False
            meanwhile()
            time.sleep(0.02)
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def result(self) -> dict[str, Any] | None:
        """What it reported, None if it ended without a word."""
        try:
            value: dict[str, Any] = json.loads(self.report.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return value

    def errors(self) -> str:
        """What it wrote to stderr: nothing, or a traceback."""
        return _errors(self.report).read_text() if _errors(self.report).exists() else ""


@dataclass
class Step:
    """The host's clock is set.

    Attributes:
        after: Seconds until then.
        by: Seconds; negative for back.
    """

    after: float
    by: float

    def take(self) -> None:
        """From now on this process sees it so. The machine's own clock is everybody's."""
        at, by = time.monotonic() + self.after, timedelta(seconds=self.by)

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.now(tz) + (by if time.monotonic() >= at else timedelta())

        # What ``utc_now`` asks.
        vars(_model)["datetime"] = Clock


def run_child(params: dict[str, Any], report: Path, *, clock: Step | None = None) -> Child:
    """Begin a call of ``vmforge_backup``."""
    report.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return Child(pid, report, time.monotonic())
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if clock is not None:
            clock.take()
        os.dup2(os.open(_errors(report), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        value = call(params)
        temporary = report.with_name(report.name + ".new")
        temporary.write_text(json.dumps(value))
        temporary.rename(report)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def _errors(report: Path) -> Path:
    return report.with_suffix(".stderr")


def call(params: dict[str, Any]) -> dict[str, Any]:
    """Call the use case of ``vmforge_backup``; what the module would return, or ``failed`` and ``code``."""
    try:
        outcome = manage_backups(Request(params=params))
    except VMForgeError as error:
        return {"failed": error.message, "code": error.code}
    return {"failed": outcome.failure, **outcome.values, "warnings": list(outcome.warnings)}
