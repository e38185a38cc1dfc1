# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table for people."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.plugin_utils import _table
from ansible_collections.vmforge.backup.plugins.plugin_utils._table import printable, render

COLUMNS = [
    {"key": "vm", "title": "VM"},
    {"key": "size", "title": "SIZE", "kind": "bytes"},
    {"key": "copies", "title": "COPIES", "kind": "list"},
]


def test_columns_line_up_and_numbers_stand_to_the_right() -> None:
    rows = [{"vm": "web", "size": 1536, "copies": ["local", "s3"]}, {"vm": "a-long-name", "size": 10}, {"vm": "x"}]
    assert render(COLUMNS, rows) == [
        "VM              SIZE  COPIES",
        "web          1.5 KiB  local+s3",
        "a-long-name     10 B  -",
        "x                  -  -",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert render([{"key": "n", "title": "N", "kind": "bytes"}], [{"n": count}])[1].strip() == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (86400 * 40 + 3600 * 5, "40d 5h"), (-5, "in the future")],
)
def test_age_has_two_units(ago: int, text: str) -> None:
    now = datetime(2026, 11, 22, 15, 12, tzinfo=timezone.utc)
    for moment in (
        now - timedelta(seconds=ago),
        (now - timedelta(seconds=ago)).astimezone(timezone(timedelta(hours=2))),
    ):
        assert _table._age(moment.isoformat().replace("+00:00", "Z"), now=lambda: now) == text


def test_control_characters_cannot_reach_the_terminal() -> None:
    assert printable("a\x1b[2J\nb") == "a\\x1b[2J\\x0ab"
    assert render([{"key": "vm", "title": "VM"}], [{"vm": "a\nb"}]) == ["VM", "a\\x0ab"]


def test_wide_characters_take_two_columns() -> None:
    columns = [{"key": "vm", "title": "VM"}, {"key": "n", "title": "N"}]
    assert render(columns, [{"vm": "日本", "n": "1"}, {"vm": "abcd", "n": "2"}]) == ["VM    N", "日本  1", "abcd  2"]


@given(st.lists(st.fixed_dictionaries({"vm": st.text(), "size": st.none() | st.integers(0, 1 << 60)}), max_size=5))
def test_every_row_is_one_line(rows: list[dict[str, object]]) -> None:
    lines = render(COLUMNS[:2], rows)
    assert len(lines) == len(rows) + 1
    assert all(line.isprintable() for line in lines)
