# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much is stored, as lines of an SVG. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

WIDTH, HEIGHT, DAYS = 720, 180, 365
_STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Label:
    """A line of the grid: where, and what it means."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Two areas, one on the other.

    Attributes:
        local: Points of the outline of what lies on nodes, as SVG takes them; ``s3`` stands on top of it.
        top: Bytes at the upper edge.
        total: Bytes at the end.
        table: The same as numbers: the last day of each month, bytes on nodes and in S3.
    """

    local: str
    s3: str
    top: int
    total: int
    days: tuple[Label, ...]
    levels: tuple[Label, ...]
    table: tuple[tuple[date, int, int], ...]


def first_day(today: date) -> date:
    """How far back a chart goes."""
    return today - timedelta(days=DAYS - 1)


def chart(steps: Iterable[tuple[date, str, int]], *, today: date) -> Chart | None:
    """Add up what was stored, day by day.

    Args:
        steps: Day, ``local``, ``s3`` or ``hybrid``, and bytes: below 0 for what went on that day. A hybrid one lies in
            both. What is older than the chart is there from its first day on.

    Returns:
        None where nothing is stored.
    """
    growth: dict[date, list[int]] = {}
    for day, storage, size in steps:
        step = growth.setdefault(min(day, today), [0, 0])
        step[0] += size if storage != "s3" else 0
        step[1] += size if storage != "local" else 0
    if not growth:
        return None
    first = max(min(growth), first_day(today))
    first = min(first, today - timedelta(days=1))
    rows = _rows(growth, first, today)
    top = _round_up(max(local + remote for _day, local, remote in rows))
    return Chart(
        local=_outline([(day, 0, local) for day, local, _remote in rows], first, today, top),
        s3=_outline([(day, local, local + remote) for day, local, remote in rows], first, today, top),
        top=top,
        total=rows[-1][1] + rows[-1][2],
        days=tuple(_months(first, today)),
        levels=tuple(Label(round(HEIGHT - HEIGHT * part / 4, 1), str(top * part // 4)) for part in (0, 2, 4)),
        table=tuple(row for row in rows if row[0] == today or (row[0] + timedelta(days=1)).day == 1),
    )


def _rows(growth: Mapping[date, list[int]], first: date, today: date) -> list[tuple[date, int, int]]:
    local = sum(step[0] for day, step in growth.items() if day < first)
    remote = sum(step[1] for day, step in growth.items() if day < first)
    rows, day = [], first
    while day <= today:
        step = growth.get(day, [0, 0])
        local, remote = local + step[0], remote + step[1]
        # A clock that was wrong may let something go before it came.
        rows.append((day, max(local, 0), max(remote, 0)))
        day += timedelta(days=1)
    return rows


def _outline(rows: list[tuple[date, int, int]], first: date, today: date, top: int) -> str:
    """Along the upper edge and back along the lower one."""
    upper = [(_x(day, first, today), HEIGHT - HEIGHT * high / top) for day, _low, high in rows]
    lower = [(_x(day, first, today), HEIGHT - HEIGHT * low / top) for day, low, _high in reversed(rows)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (*upper, *lower))


def _x(day: date, first: date, today: date) -> float:
    return WIDTH * (day - first).days / max((today - first).days, 1)


def _months(first: date, today: date) -> Iterable[Label]:
    """The first days of months, at most a dozen; the ends where there is none."""
    found = [first + timedelta(days=number) for number in range((today - first).days + 1)]
    months = [day for day in found if day.day == 1]
    months = months[:: max(1, -(-len(months) // 8))]
    return [
        Label(round(_x(day, first, today), 1), f"{day:%Y-%m}") for day in months if _x(day, first, today) < WIDTH - 40
    ]


def _round_up(size: int) -> int:
    """1, 2 or 5 times a power of 1024 and of ten: so that a quarter of it is a number that people can read."""
    unit = 1024
    while unit * 1024 <= size:
        unit *= 1024
    step = unit
    while True:
        for factor in _STEPS:
            if step * factor >= size:
                return step * factor
        step *= 10
