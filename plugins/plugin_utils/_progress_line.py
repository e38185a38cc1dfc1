# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far work is, as a line for people, and how often to print it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._table import printable

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FIRST, _LONGEST, _SHARE = 5.0, 60.0, 0.1
_QUIET = 30.0


class Interval:
    """How many seconds to wait before the next lines.

    Args:
        seconds: As somebody set it: 0 for no lines at all. None begins with 5 seconds and grows with the time that
            the work takes, up to a minute: soon enough on a terminal, not too much in a log.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    @property
    def silent(self) -> bool:
        """Whether nothing is to be printed."""
        return self._seconds == 0

    def after(self, elapsed: float) -> float:
        """Seconds to wait when the work has taken so many."""
        if self._seconds is None:
            return max(_FIRST, min(_LONGEST, elapsed * _SHARE))
        return _QUIET if self.silent else max(1.0, min(_LONGEST, self._seconds))


def parse_interval(value: Any) -> Interval:
    """Understand a setting: nothing, or a number of seconds.

    Raises:
        ValueError: It is neither.
    """
    if value is None or str(value).strip() == "":
        return Interval(None)
    seconds = float(str(value))
    if not 0 <= seconds < float("inf"):
        raise ValueError(value)
    return Interval(seconds)


def progress_line(said: Mapping[str, Any]) -> str:
    """Tell how far one virtual machine is: ``web1  42 %  1.9 of 4.6 GiB  612 MiB/s  0:04 left``.

    Args:
        said: Of its ``progress.json``. A phase other than reading is named.
    """
    name, phase = str(said.get("vm", {}).get("name") or "?"), str(said.get("phase") or "working")
    done, total = int(said.get("bytes_done") or 0), int(said.get("bytes_total") or 0)
    words = [printable(name)]
    if phase != "reading" or total <= 0:
        words.append(printable(phase))
    if total > 0:
        done = min(done, total)
        words += [f"{done * 100 // total} %", _share(done, total)]
        if said.get("rate"):
            words.append(f"{_amount(int(said['rate']))}/s")
        if said.get("eta") is not None:
            words.append(f"{_clock(int(said['eta']))} left")
    return "  ".join(words)


def _unit(count: int) -> tuple[int, str]:
    power = 0
    while power < len(_UNITS) - 1 and count >= 1024 ** (power + 1):
        power += 1
    return 1024**power, _UNITS[power]


def _number(count: int, size: int) -> str:
    value = count / size
    return f"{value:.0f}" if size == 1 or value >= 100 else f"{value:.1f}"


def _amount(count: int) -> str:
    size, name = _unit(count)
    return f"{_number(count, size)} {name}"


def _share(done: int, total: int) -> str:
    size, name = _unit(total)
    return f"{_number(done, size)} of {_number(total, size)} {name}"


def _clock(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
