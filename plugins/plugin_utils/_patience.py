# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking again over a connection that was lost and may come back. Pure but for the waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Answer = TypeVar("Answer")
# A minute in all: a switch that starts again, not a host.
PAUSES = (1, 2, 4, 8, 16, 32)


def patiently(
    ask: Callable[[], Answer],
    lost: type[Exception],
    reconnect: Callable[[], None],
    *,
    pauses: Sequence[float] = PAUSES,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Ask until there is an answer; what asks must do no harm twice.

    Args:
        ask: Raises ``lost`` when the connection is gone.
        reconnect: What to do before the next try, after a pause.

    Raises:
        Exception: ``lost``, after the last pause.
    """
    for pause in pauses:
        try:
            return ask()
        except lost:
            sleep(pause)
            reconnect()
    return ask()
