# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ids, times, durations and UUIDs: what is accepted, what is refused, and that ids only ever grow."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import (
    MAX_CLOCK_AHEAD,
    canonical_uuid,
    format_bytes,
    format_id,
    format_time,
    is_id,
    next_id,
    parse_duration,
    parse_id,
    parse_time,
    parse_utc,
)

NOW = datetime(2026, 11, 22, 15, 12, 0, 250_000, tzinfo=timezone.utc)
moments = st.datetimes(
    datetime(1971, 1, 1), datetime(9000, 1, 1), timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=-7))])
)


@given(moments)
def test_times_come_back(moment: datetime) -> None:
    text = format_time(moment)
    assert text.endswith("Z")
    assert parse_time(text) == moment


@pytest.mark.parametrize("text", ["2026-11-22T15:12:00", "yesterday", "", "2026-11-22"])
def test_times_without_an_offset_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        parse_time(text)


@given(moments)
def test_ids_come_back(moment: datetime) -> None:
    assert parse_id(format_id(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20261122T151200",
        "20261122T151200Z\n",
        "20261122T151200Z.partial",
        "../20261122T151200Z",
        "２０２６1122T151200Z",
        "20261322T151200Z",
        "20261122t151200z",
    ],
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        parse_id(text)


@pytest.mark.parametrize("text", ["20261122T151200Z\n", "２０２６1122T151200Z", "20261122T151200Z/.."])
def test_the_pattern_alone_keeps_paths_safe(text: str) -> None:
    assert not is_id(text)


@given(known=st.lists(st.integers(-100_000, int(MAX_CLOCK_AHEAD.total_seconds()) - 2), max_size=6))
def test_the_next_id_is_greater_than_all(known: list[int]) -> None:
    ids = [format_id(NOW + timedelta(seconds=second)) for second in known]
    chosen, wait = next_id(ids, now=NOW)
    assert all(chosen > other for other in ids)
    # The wait ends when the clock has reached the id, and not much later.
    assert timedelta(0) <= NOW + timedelta(seconds=wait) - parse_id(chosen) <= timedelta(seconds=1)
    assert wait >= 0


@given(steps=st.lists(st.floats(-3, 3), min_size=1, max_size=20))
def test_ids_grow_although_the_clock_jumps(steps: list[float]) -> None:
    known: list[str] = []
    now = NOW
    for step in steps:
        now += timedelta(seconds=step)
        chosen, wait = next_id(known, now=now)
        assert not known or chosen > known[-1]
        known.append(chosen)
        now += timedelta(seconds=wait)


def test_an_id_far_ahead_is_an_error() -> None:
    ahead = format_id(NOW + MAX_CLOCK_AHEAD + timedelta(seconds=1))
    with pytest.raises(InputError, match=f"{ahead}, lies in the future.*Correct the clock"):
        next_id([ahead], now=NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("20h", 72000), ("7d", 604800), ("2 w", 1209600), (" 1.5h ", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1y", "1h30m", "1e3s", "20 h 1", "9" * 400 + "w", "99999999999d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "uuid"),
    [
        ("0D6C63D8-64F7-4685-8B7D-FD3E5B49C83B", "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"),
        ("0d6c63d864f746858b7dfd3e5b49c83b", "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"),
        ("0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b\n", None),
        ("{0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b}", None),
        ("urn:uuid:0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b", None),
        ("web1", None),
        ("", None),
        ("../../etc/passwd", None),
    ],
)
def test_uuids(text: str, uuid: str | None) -> None:
    assert canonical_uuid(text) == uuid


@given(st.text(max_size=40))
def test_anything_may_be_asked_for_as_a_uuid(text: str) -> None:
    found = canonical_uuid(text)
    assert found is None or canonical_uuid(found) == found


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 50, "3072.0 TiB")]
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T15:12:00Z", "2026-11-22T15:12:00Z"),
        (" 2026-11-22t15:12:00z ".upper(), "2026-11-22T15:12:00Z"),
        ("2026-11-22 16:12:00+01:00", "2026-11-22T15:12:00Z"),
        ("2026-11-22T15:12:00", "2026-11-22T15:12:00Z"),
        ("2026-11-22", "2026-11-22T00:00:00Z"),
    ],
)
def test_times_of_people_are_utc_unless_they_say_otherwise(text: str, expected: str) -> None:
    assert format_time(parse_utc(text)) == expected


@pytest.mark.parametrize("text", ["", "Z", "soon", "0001-01-01T00:00:00+01:00"])
def test_what_is_no_time_of_people(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        parse_utc(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("20261122T151200Z", True),
        ("20240229T235959Z", True),
        ("20260229T000000Z", False),
        ("99999999T999999Z", False),
        ("20261122T151200Z.partial", False),
        ("20261122T151200Z\n", False),
        ("", False),
    ],
)
def test_what_only_looks_like_an_id_is_none(text: str, good: bool) -> None:
    assert is_id(text) is good
