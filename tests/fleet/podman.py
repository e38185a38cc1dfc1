# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""podman, as the fleet uses it: privileged containers with systemd, made with runc."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# crun, podman's default, cannot make containers where control groups are of version 1.
_PODMAN = ("podman", "--runtime", "runc")


def podman(*argv: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman; raise RuntimeError with what it said if it fails."""
    command = [*_PODMAN, *argv]
    # No terminal and, without any text, nothing to read.
    done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, check=False)
    if check and done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise RuntimeError(f"{shlex.join(command)[:300]} failed ({done.returncode}): {said}")
    return done


def wait(ready: Callable[[], bool], what: str, timeout: float = 300) -> None:
    """Wait until something is true; TimeoutError says what was not."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not ready within {timeout:.0f} s")
        time.sleep(0.2)


@dataclass(frozen=True)
class Container:
    """A host of the fleet.

    Attributes:
        name: podman's name of it.
        host: What the host calls itself, and what the inventory calls it.
    """

    name: str
    host: str

    def create(self, image: str, network: str, address: str, mounts: Sequence[Path]) -> None:
        """Make and start it; systemd begins to boot. Directories are mounted at their own paths."""
        volumes = [word for path in mounts for word in ("-v", f"{path}:{path}")]
        limits = ["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=10000:10000"]
        place = ["--hostname", self.host, "--network", network, "--ip", address]
        place += ["--network-alias", self.host]
        machine = ["--systemd=always", "--privileged", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:ro"]
        podman("run", "-d", "--name", self.name, *place, *machine, *limits, *volumes, image, "/sbin/init")

    def start(self) -> None:
        """Switch it on again after :meth:`kill`."""
        podman("start", self.name)
        self.wait_booted()

    def kill(self) -> None:
        """Pull the plug, of its guests as well."""
        podman("kill", "--signal", "KILL", self.name)

    def remove(self) -> None:
        """End it and remove all of it; no error if it is not there."""
        podman("rm", "-f", "-t", "0", self.name, check=False)

    def wait_booted(self) -> None:
        """Wait until systemd has started what it should."""
        # It waits by itself, as soon as there is somebody to ask: each question costs the start of a process.
        argv = ["systemctl", "is-system-running", "--wait"]
        wait(lambda: self.run(argv, check=False).stdout.strip() in ("running", "degraded"), f"systemd of {self.host}")

    def run(
        self, argv: Sequence[str], *, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host as root. Fit for ``Guest(run=…)``."""
        options = ["-i"] if stdin is not None else []
        return podman("exec", *options, self.name, *argv, stdin=stdin, check=check)

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Put a file onto the host."""
        self.run(["install", "-D", "-m", mode, "/dev/stdin", path], stdin=text)
