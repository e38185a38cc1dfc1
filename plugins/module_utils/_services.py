# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that outlive this process: transient units where systemd runs, else processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceError, describe_error
from ansible_collections.vmforge.backup.plugins.module_utils._programs import need_program, run_program
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded

_SYSTEMD = Path("/run/systemd/system")
_SECONDS = 60
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
# A socket of such a program is open to whoever gets into its directory.
_UMASK = 0o111


@dataclass(frozen=True)
class Service:
    """One program.

    Attributes:
        name: Unique on this host; that of the unit.
        argv: Path and arguments.
        socket: Where it listens; what is there when it starts is a dead one's.
        log: Takes what it says.
        revived: Started again by systemd when it fails; otherwise that it has failed is for others to see.
    """

    name: str
    argv: tuple[str, ...]
    socket: Path
    log: Path
    revived: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For a note on disk."""
        places = {"socket": str(self.socket), "log": str(self.log)}
        return {"name": self.name, "argv": list(self.argv), **places, "revived": self.revived}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Service:
        """From a note on disk."""
        return cls(value["name"], tuple(value["argv"]), Path(value["socket"]), Path(value["log"]), value["revived"])


class Services:
    """Starts and ends them.

    Args:
        directory: Takes a note of each process's number, where there is no systemd.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._systemd = _SYSTEMD.is_dir()

    def running(self, service: Service) -> bool:
        """Whether it runs, or is just being started again."""
        if not self._systemd:
            return self._process(service) is not None
        return self._systemctl("is-active", service).strip() in ("active", "activating")

    def start(self, service: Service) -> None:
        """Start it. A signal waits until it is known how to end it.

        Raises:
            SourceError: It cannot be started.
        """
        service.socket.unlink(missing_ok=True)
        with shielded():
            if self._systemd:
                self._run_unit(service)
            else:
                self._detach(service)

    def _run_unit(self, service: Service) -> None:
        program = need_program("systemd-run", debian="systemd", redhat="systemd")
        remove = need_program("rm", debian="coreutils", redhat="coreutils")
        properties = [
            f"Restart={'on-failure' if service.revived else 'no'}",
            "RestartSec=1",
            f"UMask={_UMASK:04o}",
            f"ExecStartPre={remove} -f {service.socket}",
            f"StandardOutput=append:{service.log}",
            f"StandardError=append:{service.log}",
        ]
        options = [f"--property={text}" for text in properties]
        done = run_program(
            [program, "--quiet", "--collect", f"--unit={service.name}", *options, "--", *service.argv], timeout=_SECONDS
        )
        if done.status:
            raise SourceError(f"The unit {service.name} cannot be started: {done.errors.strip()}.", code="unserved")

    def stop(self, service: Service) -> None:
        """End it; one that does not run is fine."""
        if self._systemd:
            self._systemctl("stop", service)
        else:
            self._kill(service)
        service.socket.unlink(missing_ok=True)

    def _systemctl(self, verb: str, service: Service) -> str:
        program = need_program("systemctl", debian="systemd", redhat="systemd")
        return run_program([program, verb, f"{service.name}.service"], timeout=_SECONDS).output

    def _note(self, service: Service) -> Path:
        return self._directory / f"{service.name}.pid"

    def _detach(self, service: Service) -> None:
        """A session of its own, so that no terminal's end ends it; init takes it over when this process ends."""
        pid = os.fork()
        if pid:
            self._note(service).write_text(f"{pid} {_started(pid)}\n", encoding="utf-8")
            return
        try:
            os.setsid()
            out = os.open(service.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for number, descriptor in enumerate((null, out, out)):
                os.dup2(descriptor, number)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.umask(_UMASK)
            os.chdir("/")
            os.execv(service.argv[0], list(service.argv))
        finally:
            os.write(2, f"{describe_error(sys.exc_info()[1])}\n".encode())
            os._exit(127)

    def _process(self, service: Service) -> int | None:
        """Its number, unless that is another's by now."""
        try:
            pid, started = self._note(service).read_text(encoding="utf-8").split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _started(int(pid)) == started else None

    def _kill(self, service: Service) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        number = signal.SIGTERM
        while (pid := self._process(service)) is not None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                break
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            time.sleep(_POLL_SECONDS)
        self._note(service).unlink(missing_ok=True)


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty where there is none, or only what is left of one."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # Behind the name, which may hold anything: the state is the first field, the start the twentieth.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
