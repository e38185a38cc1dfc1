# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that goes on when whoever asked for it is gone, and that the same question finds again.

``/run/vmforge-backup/jobs/<key>-<token>/`` holds ``lock`` (held while the work goes on), ``job.json`` (what it is),
``progress/`` (see ``_progress.py``) and at the end ``answer.json``, which becomes ``told.json`` once it was told.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Callable, NoReturn

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    NotFoundError,
    VMForgeError,
    describe_error,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import read_json, storage_errors, write_json
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._progress import read_shared, share_progress

JOBS = Path("/run/vmforge-backup/jobs")
# An answer that nobody got is told to the same question for so long; later, new work is what is wanted.
TELL_SECONDS = 900
_KEEP_SECONDS = 3600
_ANSWER, _TOLD, _FACTS, _LOCK, _PROGRESS = "answer.json", "told.json", "job.json", "lock", "progress"


def job_key(module: str, params: Mapping[str, Any], without: Iterable[str]) -> str:
    """Name a question: the same for the same options, secrets left out."""
    left_out = set(without)
    asked = {name: value for name, value in params.items() if name not in left_out}
    return sha256(json.dumps([module, asked], sort_keys=True, default=str).encode()).hexdigest()[:16]


class Job:
    """One piece of work, from outside."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Its name, by which it is followed."""
        return self.path.name

    def wait(self, seconds: float, *, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Wait for its end; False if it still goes on then.

        Raises:
            VMForgeError: It ended without an answer.
        """
        deadline, pause = time.monotonic() + seconds, 0.02
        while True:
            alive = self.is_alive()
            if self.is_done():
                return True
            if not alive:
                raise VMForgeError(
                    "The work ended without telling how: its process was killed. "
                    "Look at the system's log, and run it again.",
                    code="died",
                )
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            sleep(min(pause, left))
            pause = min(pause * 1.5, 0.25)

    def is_alive(self) -> bool:
        """Whether its process, or one that it started, holds its lock."""
        try:
            with storage_errors(f"reading {self.path}"):
                descriptor = os.open(self.path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def is_done(self) -> bool:
        """Whether there is an answer."""
        # In this order, for to tell it is to rename it.
        return (self.path / _ANSWER).exists() or self.is_told()

    def is_told(self) -> bool:
        """Whether somebody got its answer."""
        return (self.path / _TOLD).exists()

    def is_untold(self) -> bool:
        """Whether it succeeded, nobody was told, and that is not too long ago. What failed is tried again."""
        try:
            young = time.time() - (self.path / _ANSWER).stat().st_mtime < TELL_SECONDS
            return young and "failure" not in read_json(self.path / _ANSWER)
        except FileNotFoundError:
            return False

    def take(self) -> dict[str, Any]:
        """Its answer, which counts as told from now on."""
        # Somebody else who waited may have been faster.
        with storage_errors(f"reading {self.path}"), contextlib.suppress(FileNotFoundError):
            os.rename(self.path / _ANSWER, self.path / _TOLD)
        return read_json(self.path / _TOLD)

    def state(self) -> dict[str, Any]:
        """What it is and how far: ``job, module, vm, pid, begun, progress``."""
        return {**read_json(self.path / _FACTS), "progress": read_shared(self.path / _PROGRESS)}


class Jobs:
    """All of this host."""

    def __init__(self, directory: Path = JOBS) -> None:
        self._directory = directory

    def begin_or_join(
        self, key: str, facts: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]
    ) -> tuple[Job, bool]:
        """Let work go on in a process of its own, unless the same goes on already or has an answer that nobody got.

        Args:
            key: See ``job_key``.
            facts: ``module`` and ``vm``, for whoever looks.
            work: Its answer is one that JSON can hold.

        Returns:
            The job, and whether it was there before.
        """
        with self._locked():
            self._forget_old()
            for job in self._all(f"{key}-*"):
                if not job.is_told() and (job.is_alive() or job.is_untold()):
                    return job, True
            return self._begin(Job(self._directory / f"{key}-{secrets.token_hex(4)}"), facts, work), False

    def get(self, name: str) -> Job:
        """A job by its name.

        Raises:
            NotFoundError: There is none, because the host was restarted or the job ended long ago.
        """
        for job in self._all():
            if job.name == name:
                return job
        raise NotFoundError(
            f"Nothing is known of the work {name!r}. The host may have been restarted. "
            "Look what there is, and run it again."
        )

    def running(self) -> list[Job]:
        """Those that go on, and have said what they are."""
        return [job for job in self._all() if job.is_alive() and (job.path / _FACTS).exists()]

    def _all(self, pattern: str = "*-*") -> list[Job]:
        return [Job(path) for path in sorted(self._directory.glob(pattern))]

    def _forget_old(self) -> None:
        for job in self._all():
            if time.time() - job.path.stat().st_mtime > _KEEP_SECONDS and not job.is_alive():
                with storage_errors(f"removing {job.path}"):
                    shutil.rmtree(job.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with storage_errors(f"creating {self._directory}"):
            self._directory.parent.mkdir(mode=0o700, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Not by closing it alone: a process that was forked meanwhile has it too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _begin(self, job: Job, facts: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> Job:
        with storage_errors(f"creating {job.path}"):
            (job.path / _PROGRESS).mkdir(mode=0o700, parents=True)
            job.path.chmod(0o700)
            lock = os.open(job.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            pid = os.fork()
            if pid == 0:
                _work(job, {"job": job.name, **facts}, work, lock)
        finally:
            os.close(lock)
        return job


def _work(job: Job, facts: Mapping[str, Any], work: Callable[[], Mapping[str, Any]], lock: int) -> NoReturn:
    """Be the process of a job, without anything that leads to whoever asked for it."""
    answer: Mapping[str, Any] | None = None
    try:
        os.setsid()
        os.chdir("/")
        _let_go(lock)
        write_json(job.path / _FACTS, {**facts, "pid": os.getpid(), "begun": format_time(utc_now())})
        share_progress(job.path / _PROGRESS)
        answer = work()
    finally:
        try:
            write_json(job.path / _ANSWER, answer if answer is not None else _fault(sys.exc_info()[1]))
        finally:
            os._exit(0)


def _fault(error: BaseException | None) -> dict[str, Any]:
    """What a work did not deal with itself is a fault of ours: somebody has to be told."""
    text = f"An error inside vmforge.backup: {describe_error(error)}. Please report it with this line."
    return {"failure": text, "values": {"code": "internal"}}


def _let_go(keep: int) -> None:
    """Close everything that was inherited but one descriptor; what is written to the terminal goes nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        if number > 2 and number != keep:
            # That of the listing itself is closed already.
            with contextlib.suppress(OSError):
                os.close(number)
