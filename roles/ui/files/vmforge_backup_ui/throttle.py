# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often somebody may fail to sign in. Pure: no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Lock

_MOST = 10_000


class Throttle:
    """Counts failures in a sliding window, by key.

    Args:
        limit: How many are allowed.
        seconds: The length of the window.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.seconds = limit, seconds
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = Lock()

    def wait(self, key: str, *, now: float) -> float:
        """Seconds until the next try is allowed; 0 for at once."""
        with self._lock:
            found = self._failures.get(key)
            if found is None:
                return 0
            while found and found[0] <= now - self.seconds:
                found.popleft()
            if len(found) < self.limit:
                return 0
            return found[-self.limit] + self.seconds - now

    def failed(self, key: str, *, now: float) -> None:
        """Count one; of too many keys the one that failed longest ago is forgotten."""
        with self._lock:
            self._failures.setdefault(key, deque(maxlen=self.limit)).append(now)
            self._failures.move_to_end(key)
            if len(self._failures) > _MOST:
                self._failures.popitem(last=False)

    def forget(self, key: str) -> None:
        """Begin anew, after success."""
        with self._lock:
            self._failures.pop(key, None)
