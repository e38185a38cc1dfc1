# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain values that the layers share. No I/O, no Ansible."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError

_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z\Z")
_ID_FORMAT = "%Y%m%dT%H%M%SZ"
# A newest id further ahead than this means that some clock is wrong; waiting would not help.
MAX_CLOCK_AHEAD = timedelta(minutes=5)

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\Z")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw]?)\Z")
_DURATION_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class VmRef:
    """Which machine: ``uuid`` is canonical lower case and safe in a path; ``name`` never is."""

    uuid: str
    name: str
    node: str


@dataclass(frozen=True)
class Extent:
    """A run of bytes of a disk, ``length`` > 0, both in bytes."""

    offset: int
    length: int


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(timezone.utc)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds when there are any: ``2026-11-22T15:12:00.250000Z``."""
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """The reverse of :func:`format_time`; any RFC 3339 offset is accepted (Python 3.9 knows no ``Z``).

    Raises:
        ValueError: Not a time, or one without an offset.
    """
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no offset")
    return moment


def parse_utc(text: str) -> datetime:
    """A time as people write it: one without an offset is UTC. Raises ``ValueError`` or ``OverflowError`` for none."""
    text = text.strip()
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)


def format_id(moment: datetime) -> str:
    """The id of a backup: a UTC second."""
    return moment.astimezone(timezone.utc).strftime(_ID_FORMAT)


def parse_id(text: str) -> datetime:
    """The second that an id names, aware. Raises ``ValueError`` when it is no id."""
    if not _ID.match(text):
        raise ValueError(f"{text!r} is not a backup id such as 20261122T151200Z")
    # strptime() takes seven times as long, and there may be many.
    date, clock = (int(text[:4]), int(text[4:6]), int(text[6:8])), (int(text[9:11]), int(text[11:13]), int(text[13:15]))
    return datetime(*date, *clock, tzinfo=timezone.utc)


def is_id(text: str) -> bool:
    """Whether it is the id of a backup: of that form, and a time that there is."""
    try:
        parse_id(text)
    except ValueError:
        return False
    return True


def next_id(known: Iterable[str], *, now: datetime) -> tuple[str, float]:
    """Choose an id strictly greater than every known one.

    Returns:
        The id, and the seconds to wait until the clock has reached it.

    Raises:
        InputError: The newest known id lies too far ahead of the clock.
    """
    newest = max(known, default=None)
    chosen = now.replace(microsecond=0)
    if newest is not None:
        chosen = max(chosen, parse_id(newest) + timedelta(seconds=1))
    ahead = chosen - now
    if ahead > MAX_CLOCK_AHEAD:
        raise InputError(
            f"The newest backup of this VM, {newest}, lies in the future: this host's clock says {format_time(now)}. "
            "Correct the clock, or move that backup away if its own time is wrong.",
            code="clock",
        )
    return format_id(chosen), max(0.0, ahead.total_seconds())


@lru_cache(maxsize=1024)
def canonical_uuid(text: str) -> str | None:
    """A UUID in libvirt's form, or None for anything else."""
    return str(uuid.UUID(text)) if _UUID.match(text) else None


def parse_duration(text: str) -> timedelta:
    """``90``, ``90s``, ``15m``, ``20h``, ``7d``, ``2w`` as a time span.

    Raises:
        InputError: Anything else.
    """
    match = _DURATION.match(text.strip())
    if not match:
        raise InputError(f"{text!r} is not a duration. Write a number and one of s, m, h, d or w, such as 20h.")
    try:
        return timedelta(seconds=float(match.group(1)) * _DURATION_UNITS[match.group(2)])
    except OverflowError as error:
        raise InputError(f"The duration {text!r} is too long.") from error


def format_bytes(count: float) -> str:
    """A size for people: ``4.6 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
