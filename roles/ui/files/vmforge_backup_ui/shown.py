# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values as people read them; filters of the templates. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_time

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(value: Any) -> str:
    """Bytes, as ``1.9 GiB``."""
    number, unit = float(value or 0), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return (
        f"{number:.0f} {_UNITS[unit]}"
        if unit == 0 or number >= 100 or number == int(number)
        else f"{number:.1f} {_UNITS[unit]}"
    )


def moment(value: Any) -> str:
    """A time, as ``2026-11-22 15:12``; the pages say once that it is UTC."""
    at = _time(value)
    return f"{at:%Y-%m-%d %H:%M}" if at else ""


def age(value: Any, now: datetime) -> str:
    """How long ago, as ``3 h``."""
    at = _time(value)
    if at is None:
        return "never"
    past = now - at
    if past < timedelta(0):
        return "in the future"
    for unit, length in (("d", timedelta(days=2)), ("h", timedelta(hours=2)), ("min", timedelta(minutes=1))):
        if past >= length:
            return (
                f"{past // {'d': timedelta(days=1), 'h': timedelta(hours=1), 'min': timedelta(minutes=1)}[unit]} {unit}"
            )
    return "now"


def _time(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or timezone.utc).astimezone(timezone.utc)
    try:
        return parse_time(str(value)).astimezone(timezone.utc)
    except ValueError:
        return None
