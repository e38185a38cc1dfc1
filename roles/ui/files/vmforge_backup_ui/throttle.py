# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often somebody may fail to sign in. Pure: no clock."""

from __future__ import annotations

import ipaddress
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

    def take(self, key: str, *, now: float) -> float:
        """Begin a try; it counts as a failure until it is given back, for many may be made at the same time.

        Returns:
            0, or the seconds to wait where it may not be made.
        """
        with self._lock:
            found = self._failures.setdefault(key, deque())
            self._failures.move_to_end(key)
            while found and found[0] <= now - self.seconds:
                found.popleft()
            if len(found) >= self.limit:
                return found[0] + self.seconds - now
            found.append(now)
            # Of too many keys the one that was tried longest ago is forgotten.
            if len(self._failures) > _MOST:
                self._failures.popitem(last=False)
            return 0

    def give_back(self, key: str) -> None:
        """A try was no failure."""
        with self._lock:
            found = self._failures.get(key)
            if found:
                found.pop()

    def forget(self, key: str) -> None:
        """Begin anew, after success."""
        with self._lock:
            self._failures.pop(key, None)


def network_of(address: str) -> str:
    """What counts as one address: of IPv6, whoever has one has all that begin with the same 64 bits."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((int(found), 64), strict=False))
