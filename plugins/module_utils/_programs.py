# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other programs: one that is waited for, and one that runs beside us. Never through a shell."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ansible_collections.vmforge.backup.plugins.module_utils._errors import DependencyError
from ansible_collections.vmforge.backup.plugins.module_utils._signals import SIGNALS, shielded

SYSTEM_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Finished:
    """How a program ended. ``output`` is what it wrote to stdout, ``errors`` what it wrote to stderr."""

    status: int
    output: str
    errors: str


def need_program(name: str, *, debian: str, redhat: str) -> str:
    """The path of a program.

    Args:
        name: What it is called.
        debian: The package on Debian and Ubuntu.
        redhat: The package on Enterprise Linux.

    Raises:
        DependencyError: It is missing; names the packages.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if path is None:
        raise DependencyError(
            f"The program {name} is missing on this host: package {debian} on Debian and Ubuntu, {redhat} on "
            "Enterprise Linux. The role vmforge.backup.node installs it."
        )
    return path


def run_program(argv: Sequence[str], *, timeout: float) -> Finished:
    """Run a program to its end.

    Args:
        argv: Path and arguments.
        timeout: Seconds; the program is killed after them.

    Raises:
        TimeoutError: It did not end in time.
    """

    async def run() -> Finished:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), timeout)
        except asyncio.TimeoutError as error:
            process.kill()
            await process.wait()
            raise TimeoutError(f"{argv[0]} did not end within {timeout:g} seconds") from error
        return Finished(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))

    return asyncio.run(run())


class Background:
    """A program that runs beside us.

    Args:
        argv: Path and arguments.
        log: Takes what it says.
    """

    def __init__(self, argv: Sequence[str], *, log: Path) -> None:
        self._log = log
        self._status: int | None = None
        # Everything else that is open here is closed by the exec (PEP 446).
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A signal for all of the group must not raise in the child, which would go on as its parent.
            with shielded():
                self._pid = os.fork()
                if self._pid == 0:
                    _become(argv, null, out)
        finally:
            os.close(out)
            os.close(null)

    def ended(self) -> bool:
        """Whether it has ended."""
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def status(self) -> int:
        """How it ended, as a shell has it; a signal is negative. Only once it has."""
        if self._status is None:
            raise ValueError("the program still runs")
        return os.waitstatus_to_exitcode(self._status)

    def said(self) -> str:
        """What it has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace").strip()

    def stop(self, *, patience: float) -> None:
        """End it: SIGTERM, and SIGKILL after so many seconds."""
        deadline = time.monotonic() + patience
        if not self.ended():
            os.kill(self._pid, signal.SIGTERM)
        while not self.ended():
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)


def _become(argv: Sequence[str], null: int, out: int) -> NoReturn:
    """Be another program. There may have been threads: nothing is done here that takes a lock."""
    try:
        for name in SIGNALS:
            signal.signal(name, signal.SIG_DFL)
        for number, descriptor in enumerate((null, out, out)):
            os.dup2(descriptor, number)
        os.execv(argv[0], list(argv))
    finally:
        os._exit(127)
