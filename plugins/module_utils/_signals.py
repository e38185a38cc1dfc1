# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Being asked to stop: the first SIGTERM, SIGINT or SIGHUP becomes an exception in the main thread, later ones nothing.

What must be done whatever happens, such as thawing a guest, is shielded: the exception waits for its end.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal. No ``Exception``: botocore takes those for failures of the network, and tries again."""

    def as_error(self) -> CancelledError:
        """What is told to people."""
        return CancelledError(f"The run was stopped by {self}; what was unfinished was undone.")


class _Pending:
    """The state of this process: signal handlers have no other place for one."""

    shields = 0
    name: str | None = None


def raise_on_signals() -> None:
    """From now on, for the rest of this process, the first signal raises ``Interrupted`` in the main thread."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """From now on, for the rest of this process: what there was to stop is done."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """The same for a body only, and as one of our errors.

    Raises:
        CancelledError: After the body has cleaned up behind itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        yield
    except Interrupted as interrupted:
        raise interrupted.as_error() from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Let the body end before a signal is raised. For the main thread; of no effect in others, which get none.

    Raises:
        Interrupted: A signal came meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Pending.shields += 1
    try:
        yield
    finally:
        _Pending.shields -= 1
    if not _Pending.shields and _Pending.name is not None:
        name, _Pending.name = _Pending.name, None
        raise Interrupted(name)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    ignore_signals()
    name = signal.Signals(number).name
    if _Pending.shields:
        _Pending.name = name
    else:
        raise Interrupted(name)
