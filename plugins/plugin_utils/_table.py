# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A table for people, as lines of text. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import format_bytes, parse_time

_MISSING = "-"


def render(columns: Sequence[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lay out rows below a heading; numbers stand to the right.

    Args:
        columns: Each with ``key``, ``title`` and ``kind``, which is ``text`` unless it is given.
        rows: Values by key; one that is missing or None is shown as ``-``.
    """
    kinds = [column.get("kind", "text") for column in columns]
    body = [[_FORMATS[kind](row.get(column["key"])) for column, kind in zip(columns, kinds)] for row in rows]
    table = [[str(column["title"]) for column in columns], *body]
    widths = [max(_width(line[index]) for line in table) for index in range(len(columns))]
    return ["  ".join(_pad(*cell) for cell in zip(line, widths, kinds)).rstrip() for line in table]


def printable(text: str) -> str:
    """Text on one line of a terminal: names may hold anything, control sequences too."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _pad(text: str, width: int, kind: str) -> str:
    space = " " * (width - _width(text))
    return space + text if kind in ("bytes", "seconds", "age") else text + space


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def _text(value: Any) -> str:
    return printable(str(value)) if value not in (None, "") else _MISSING


def _list(value: Any) -> str:
    return "+".join(_text(item) for item in value) if value else _MISSING


def _bytes(value: Any) -> str:
    if value is None:
        return _MISSING
    return format_bytes(float(value))


def _seconds(value: Any) -> str:
    return _MISSING if value is None else f"{float(value):.1f}"


def _age(value: Any, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> str:
    """How long ago an RFC 3339 time was, in its two largest units."""
    if not value:
        return _MISSING
    seconds = int((now() - parse_time(str(value))).total_seconds())
    if seconds < 0:
        return "in the future"
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


_FORMATS: Mapping[str, Callable[[Any], str]] = {
    "text": _text,
    "list": _list,
    "bytes": _bytes,
    "seconds": _seconds,
    "age": _age,
}
