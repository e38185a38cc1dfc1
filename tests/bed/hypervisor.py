# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirtd for tests: the machine's own, else one that is stopped again; or a private one to kill."""

from __future__ import annotations

import contextlib
import grp
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bed.guest import CONNECT

_DAEMONS = ("virtlogd", "libvirtd")

_KVM = Path("/dev/kvm")
_KVM_BEFORE = Path("/run/vmforge-bed-kvm")


def answers(run: Callable[[Sequence[str]], object] | None = None) -> bool:
    """Tell whether libvirt answers a question."""
    argv = ["virsh", "-q", "-c", CONNECT, "version"]
    if run is None:
        return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0
    try:
        run(argv)
    except RuntimeError:
        return False
    return True


def _wait(ready: Callable[[], bool], what: str, timeout: float = 180) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not ready within {timeout} s")
        time.sleep(0.1)


def start_missing() -> list[int]:
    """Start virtlogd and libvirtd if libvirt does not answer; the process ids of what was started."""
    if answers():
        return []
    _open_kvm()
    started = []
    for daemon in _DAEMONS:
        program = shutil.which(daemon, path="/usr/sbin:/usr/bin:/sbin")
        if program is None:
            raise RuntimeError(f"{daemon} is not installed: make deps installs it")
        pidfile = Path(f"/run/{daemon}.pid")
        if _alive(pidfile):
            continue
        subprocess.run([program, "-d"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        _wait(lambda pidfile=pidfile: _alive(pidfile), daemon)
        started.append(int(pidfile.read_text()))
    _wait(answers, "libvirtd")
    return started


def _alive(pidfile: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return is_daemon(int(pidfile.read_text()), pidfile.stem)
    return False


def is_daemon(pid: int, *names: str) -> bool:
    """Tell whether a process is one of these daemons, by default any of libvirt's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() in (names or _DAEMONS)
    return False


def _open_kvm() -> bool:
    """Give /dev/kvm to its group, as udev does on a machine that has one; tells whether that was needed.

    With a /dev/kvm of root alone libvirt's probe (which may override permissions) finds KVM, the later check as QEMU's
    user does not, and QEMU is probed anew for every call: 4 s each, 70 s for a define. *(seen with libvirt 9.0)*
    """
    with contextlib.suppress(OSError, KeyError):
        before = _KVM.stat()
        group = before.st_gid == grp.getgrnam("kvm").gr_gid and before.st_mode & 0o060 == 0o060
        if not group and before.st_mode & 0o006 != 0o006:
            _KVM_BEFORE.write_text(f"{before.st_mode & 0o777:o} {before.st_uid} {before.st_gid}\n")
            shutil.chown(_KVM, group="kvm")
            _KVM.chmod(0o660)
            return True
    return False


def _restore_kvm() -> None:
    with contextlib.suppress(OSError):
        mode, uid, gid = _KVM_BEFORE.read_text().split()
        _KVM.chmod(int(mode, 8))
        os.chown(_KVM, int(uid), int(gid))
        _KVM_BEFORE.unlink()


def stop(pids: Sequence[int]) -> None:
    """Stop daemons that :func:`start_missing` started, the last one first."""
    if pids:
        _end(pids)
        _restore_kvm()


def _end(pids: Sequence[int]) -> None:
    for pid in reversed(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            _wait(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"end of process {pid}")


@contextlib.contextmanager
def system_libvirt() -> Iterator[None]:
    """Make sure that libvirt answers for the length of a block; stop afterwards only what was started here."""
    started = start_missing()
    try:
        yield
    finally:
        stop(started)


@dataclass
class PrivateLibvirt:
    """A libvirtd in a mount namespace of its own, which a test may kill and start at will."""

    holder: int
    directory: Path

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs ``argv`` beside this libvirtd."""
        return ["nsenter", "-m", "-t", str(self.holder), "--", *argv]

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program beside this libvirtd; RuntimeError if it fails. Fit for ``Guest(run=…)``."""
        done = subprocess.run(self.argv(argv), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)} failed ({done.returncode}): {done.stderr.strip()}")
        return done

    def start(self) -> None:
        """Start whichever of virtlogd and libvirtd is not running, and wait until libvirt answers."""
        for daemon in _DAEMONS:
            if not self.pid(daemon):
                self.run([daemon, "-d"])
        _wait(lambda: answers(self.run), "the private libvirtd")

    def pid(self, daemon: str = "libvirtd") -> int:
        """Return a daemon's process id, 0 if it is not running."""
        pidfile = Path(f"/proc/{self.holder}/root/run/{daemon}.pid")
        return int(pidfile.read_text()) if _alive(pidfile) else 0

    def kill(self, how: int = signal.SIGKILL) -> None:
        """End libvirtd; guests go on."""
        pid = self.pid()
        os.kill(pid, how)
        _wait(lambda: not Path(f"/proc/{pid}").exists(), "end of libvirtd")


# The namespace: an empty /run, and libvirt's own directories empty as well, so that no domain of the machine is seen.
_SETUP = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
for pair in etc/libvirt:etc lib/libvirt/qemu:lib log/libvirt:log cache/libvirt:cache; do
    target=/var/${pair%%:*}
    [ "${pair#*:}" != etc ] || target=/etc/libvirt
    [ -d "$target" ] || continue
    mount --bind "$1/${pair#*:}" "$target"
done
echo ready
# Until the one who asked for it closes this pipe, or dies in whatever way: nothing must outlive it.
read -r unused || :
for pidfile in /run/libvirt/qemu/*.pid /run/libvirtd.pid /run/virtlogd.pid; do
    [ ! -f "$pidfile" ] || kill "$(cat "$pidfile" 2>/dev/null)" 2>/dev/null || :
done
"""


@contextlib.contextmanager
def private_libvirt(directory: Path) -> Iterator[PrivateLibvirt]:
    """Run a libvirtd that shares nothing with the machine's own; ends it and its guests' daemons afterwards.

    Args:
        directory: Empty, on a file system with room; QEMU's user must be able to enter it.
    """
    for name in ("lib", "log", "cache"):
        (directory / name).mkdir(mode=0o755)
    shutil.copytree("/etc/libvirt", directory / "etc", symlinks=True)
    for networks in (directory / "etc" / "qemu").glob("**/*.xml"):
        networks.unlink()
    owner = Path("/var/lib/libvirt/qemu").stat()
    os.chown(directory / "lib", owner.st_uid, owner.st_gid)
    holder = subprocess.Popen(
        ["unshare", "-m", "sh", "-euc", _SETUP, "setup", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    private = PrivateLibvirt(holder=holder.pid, directory=directory)
    opened = _open_kvm()
    try:
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != "ready":
            raise RuntimeError("could not make a mount namespace for a private libvirtd")
        private.start()
        yield private
    finally:
        _end([pid for daemon in _DAEMONS if (pid := private.pid(daemon))])
        holder.communicate()
        if opened:
            _restore_kvm()
