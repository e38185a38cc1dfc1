# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The freeze watchdog: a process of its own that thaws a guest when this one cannot any more.

It is forked before any thread exists and before libvirt is connected, and opens its own connection only when it has
to act: when its pipe closes (this process died) or the deadline passes while the guest is frozen.
"""

from __future__ import annotations

import os
import select
import signal
import time

from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded

_ARM, _DISARM = b"A", b"D"
# The agent may still be answering the freeze itself; libvirt gives one command at a time to it.
_TRY_SECONDS = 60.0
_RETRY_SECONDS = 1.0


class ThawWatchdog:
    """Guards one domain.

    Args:
        uri: libvirt's connection URI.
        uuid: Of the domain.
        deadline: Seconds that the guest may stay frozen.
    """

    def __init__(self, uri: str, uuid: str, *, deadline: float) -> None:
        self._uri, self._uuid, self._deadline = uri, uuid, deadline
        reader, self._pipe = os.pipe()
        self._thawed = True
        # A signal for all of the group must not raise in the child, which would go on as its parent.
        with shielded():
            self._pid = os.fork()
            if self._pid == 0:
                _in_child(self, reader)
        os.close(reader)

    def arm(self) -> None:
        """The guest is about to be frozen."""
        os.write(self._pipe, _ARM)

    def disarm(self) -> None:
        """The guest is thawed."""
        os.write(self._pipe, _DISARM)

    def close(self) -> bool:
        """End the watchdog; still armed, it thaws first. Waits for it.

        Returns:
            False when it had to thaw and could not: the guest may still be frozen.
        """
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            _pid, status = os.waitpid(self._pid, 0)
            self._thawed = status == 0
        return self._thawed

    def watch(self, pipe: int) -> bool:
        """Its own life: until the pipe closes; thaws then, or at the deadline, if need be. Whether that worked."""
        armed_until: float | None = None
        thawed = True
        while True:
            wait = None if armed_until is None else max(0.0, armed_until - time.monotonic())
            ready, _writable, _failed = select.select([pipe], [], [], wait)
            order = os.read(pipe, 1) if ready else b""
            if order == _ARM:
                armed_until = time.monotonic() + self._deadline
            elif order == _DISARM:
                armed_until = None
            elif armed_until is None:
                return thawed
            else:
                thawed = self._thaw()
                armed_until = None

    def _thaw(self) -> bool:
        until = time.monotonic() + _TRY_SECONDS
        while True:
            try:
                domain = Domain(Hypervisor(self._uri), self._uuid, self._uuid)
                if domain.state().active:
                    domain.thaw()
                return True
            except NotFoundError:
                return True
            except VMForgeError:
                # Told by the exit status; there is nobody else to tell.
                if time.monotonic() > until:
                    return False
            time.sleep(_RETRY_SECONDS)


def _in_child(watchdog: ThawWatchdog, pipe: int) -> None:
    """Never returns. Whatever ends the parent's group must not end this one; nothing of the parent's is kept open."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        keep = {pipe}
        for entry in os.listdir("/proc/self/fd"):
            descriptor = int(entry)
            if descriptor not in keep:
                _close_quietly(descriptor)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        status = 0 if watchdog.watch(pipe) else 1
    finally:
        os._exit(status)


def _close_quietly(descriptor: int) -> None:
    """Close a descriptor that may be gone: the one that listed the directory is."""
    try:
        os.close(descriptor)
    except OSError:
        return
