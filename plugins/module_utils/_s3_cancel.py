# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Being asked to stop: signals as one error, so that what is under way is undone before the process ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Interrupted(BaseException):
    """No Exception: botocore takes those for failures of the network, and tries again."""


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """Turn the first SIGTERM, SIGINT or SIGHUP into an exception in the main thread; later ones are ignored.

    Raises:
        CancelledError: After the body has cleaned up behind itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    except _Interrupted as error:
        raise CancelledError(f"The run was stopped by {error}; what was unfinished was undone.") from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise _Interrupted(signal.Signals(number).name)
