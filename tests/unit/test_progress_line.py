# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The line that tells how far work is, and how often it is printed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.plugin_utils._progress_line import parse_interval, progress_line

GIB = 1 << 30


def said(
    phase: str, done: int, total: int, rate: int = 0, eta: int | None = None, name: str = "web1"
) -> dict[str, Any]:
    return {
        "vm": {"name": name},
        "phase": phase,
        "bytes_done": done,
        "bytes_total": total,
        "rate": rate,
        "eta": eta,
    }


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            said("reading", int(1.93 * GIB), int(4.6 * GIB), 612 << 20, 4),
            "web1  41 %  1.9 of 4.6 GiB  612 MiB/s  0:04 left",
        ),
        (said("reading", 0, 10 * GIB), "web1  0 %  0.0 of 10.0 GiB"),
        (said("verifying", 5, 10, 3, 3671), "web1  verifying  50 %  5 of 10 B  3 B/s  1:01:11 left"),
        (said("reading", 20, 10), "web1  100 %  10 of 10 B"),
        (said("starting", 0, 0), "web1  starting"),
        (said("reading", 0, 0), "web1  reading"),
        (said("starting", 0, 0, name="a\x1b[2J"), "a\\x1b[2J  starting"),
        ({}, "?  working"),
    ],
)
def test_a_line(entry: dict[str, Any], line: str) -> None:
    assert progress_line(entry) == line


@given(st.integers(0, 1 << 62), st.integers(0, 1 << 62), st.integers(0, 1 << 62), st.integers(0, 10**9))
def test_any_numbers_make_one_line_below_101_percent(done: int, total: int, rate: int, eta: int) -> None:
    line = progress_line(said("reading", done, total, rate, eta))
    assert line.isprintable()
    if total:
        assert 0 <= int(line.split("  ")[1].removesuffix(" %")) <= 100


@pytest.mark.parametrize(
    ("value", "elapsed", "seconds", "silent"),
    [
        (None, 0, 5, False),
        ("", 40, 5, False),
        (None, 200, 20, False),
        (None, 10**6, 60, False),
        (2, 500, 2, False),
        ("0.1", 0, 1, False),
        (3600, 0, 60, False),
        ("0", 0, 30, True),
    ],
)
def test_how_long_to_wait(value: Any, elapsed: float, seconds: float, silent: bool) -> None:
    interval = parse_interval(value)
    assert (interval.after(elapsed), interval.silent) == (seconds, silent)


@pytest.mark.parametrize("value", ["often", "-1", "nan", "inf", [1]])
def test_a_wrong_setting(value: Any) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_interval(value)
