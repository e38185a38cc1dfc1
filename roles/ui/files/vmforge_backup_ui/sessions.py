# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is signed in. Kept in memory, so that signing out is certain and a restart signs everybody out. No clock."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from threading import Lock

IDLE_SECONDS = 30 * 60
LONGEST_SECONDS = 12 * 3600
_MOST = 10_000


@dataclass
class _Session:
    name: str
    mark: str
    began: float
    used: float


class Sessions:
    """Tokens, and whom they stand for."""

    def __init__(self) -> None:
        self._known: dict[str, _Session] = {}
        self._lock = Lock()

    def open(self, name: str, mark: str, *, now: float) -> str:
        """Begin one; its token. The mark is handed back with the name: it tells of what was proved."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._known = {key: item for key, item in self._known.items() if _lives(item, now)}
            if len(self._known) >= _MOST:
                self._known.pop(min(self._known, key=lambda key: self._known[key].used))
            self._known[token] = _Session(name, mark, now, now)
        return token

    def find(self, token: str, *, now: float, used: bool = True) -> tuple[str, str] | None:
        """Whose it is, and its mark; None when it is over. If somebody uses it, it lives on from now."""
        with self._lock:
            found = self._known.get(token)
            if found is None or not _lives(found, now):
                self._known.pop(token, None)
                return None
            found.used = now if used else found.used
            return found.name, found.mark

    def close(self, token: str) -> None:
        """End one."""
        with self._lock:
            self._known.pop(token, None)


def _lives(session: _Session, now: float) -> bool:
    return now - session.used < IDLE_SECONDS and now - session.began < LONGEST_SECONDS
