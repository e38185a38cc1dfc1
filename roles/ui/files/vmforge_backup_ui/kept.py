# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was read and worked out once is kept, as long as a cheap question says that it is still the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A few values by key, each with a stamp; of too many the one that was asked for longest ago goes.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, tuple[Any, Value]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, stamp: Any, make: Callable[[], Value]) -> Value:
        """The value of this stamp; made, and kept in the place of that of another stamp, if there is none."""
        with self._lock:
            found = self._known.get(key)
            if found is not None and found[0] == stamp:
                self._known.move_to_end(key)
                return found[1]
        # Two may make it at the same time: that is better than to let all wait for one.
        value = make()
        with self._lock:
            self._known[key] = (stamp, value)
            self._known.move_to_end(key)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return value
