# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pack's rows mean, what may be adopted, and what many nodes say of it together."""

from __future__ import annotations

import struct
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._adopt import (
    PackRow,
    choose_id,
    is_of_pack,
    read_row,
    refusal,
    utc_instants,
)
from ansible_collections.vmforge.backup.plugins.module_utils._adopt_files import _digest
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import describe_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id, parse_id
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2_header import read_header
from ansible_collections.vmforge.backup.plugins.plugin_utils._adoption import report, undecided

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
UUID = "7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed"


def row(**more: Any) -> PackRow:
    values = {
        "row": 1,
        "uuid": UUID,
        "name": "web1",
        "instant": NOW - timedelta(days=1),
        "sha256": "a" * 64,
        "path": "/b/web1.qcow2",
        "s3_key": None,
    }
    return PackRow(**{**values, **more})


@pytest.mark.parametrize(
    ("zone", "wall", "utc", "ambiguous"),
    [
        ("UTC", (2025, 7, 1, 12), (2025, 7, 1, 12), False),
        ("Europe/Berlin", (2025, 7, 1, 12), (2025, 7, 1, 10), False),
        ("Europe/Berlin", (2025, 12, 1, 12), (2025, 12, 1, 11), False),
        ("Asia/Kathmandu", (2025, 12, 1, 12), (2025, 12, 1, 6, 15), False),
        ("Europe/Berlin", (2025, 10, 26, 2, 30), (2025, 10, 26, 0, 30), True),
        # The clock went from 02:00 to 03:00: a time that never was is taken for one before the change.
        ("Europe/Berlin", (2025, 3, 30, 2, 30), (2025, 3, 30, 1, 30), False),
    ],
)
def test_wall_clocks(zone: str, wall: tuple[int, ...], utc: tuple[int, ...], ambiguous: bool) -> None:
    found = utc_instants([datetime(*wall)], ZoneInfo(zone))
    assert found == [(datetime(*utc, tzinfo=timezone.utc), ambiguous)]


@given(st.lists(st.integers(min_value=-7200, max_value=7200), max_size=8))
def test_rows_in_the_order_of_time_keep_it_through_the_hour_that_comes_twice(seconds: list[int]) -> None:
    change = datetime(2025, 10, 26, 1, tzinfo=timezone.utc)
    real = sorted(change + timedelta(seconds=offset) for offset in seconds)
    walls = [moment.astimezone(BERLIN).replace(tzinfo=None, fold=0) for moment in real]
    found = [moment for moment, _ambiguous in utc_instants(walls, BERLIN)]
    # Never out of order, and each shows the time that the panel's clock showed.
    assert found == sorted(found)
    assert [moment.astimezone(BERLIN).replace(tzinfo=None, fold=0) for moment in found] == walls
    assert all(guess <= moment for guess, moment in zip(found, real))


@given(st.sets(st.integers(min_value=-5, max_value=20)), st.integers(min_value=0, max_value=10))
def test_ids_are_free_seconds_not_before_the_instant_and_never_after_now(taken: set[int], age: int) -> None:
    instant = NOW - timedelta(seconds=age)
    known = {format_id(instant + timedelta(seconds=number)) for number in taken}
    try:
        chosen = choose_id(instant, known, now=NOW)
    except InputError:
        assert all(format_id(instant + timedelta(seconds=number)) in known for number in range(age + 1))
        return
    assert chosen not in known
    assert instant <= parse_id(chosen) <= NOW


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({}, None),
        ({"uuid": None}, "UUID"),
        ({"sha256": None}, "checksum"),
        ({"instant": NOW + timedelta(minutes=6)}, "future"),
        ({"instant": NOW + timedelta(minutes=4)}, None),
        ({"path": "b/web1.qcow2"}, "absolute"),
        ({"path": "/b/web\0.qcow2"}, "absolute"),
        ({"path": f"/b/{UUID}/20251122T151200Z/vda.qcow2"}, "within a backup"),
        ({"path": f"/b/{UUID}/20251122T151200Z.partial/vda.qcow2"}, "within a backup"),
        ({"path": None, "s3_key": f"p/{UUID}/20251122T151200Z/vda.qcow2"}, "within a backup"),
        ({"path": None, "s3_key": f"p/{UUID}/20251122T151200Z.qcow2"}, None),
    ],
)
def test_what_may_not_be_adopted(more: dict[str, Any], word: str | None) -> None:
    found = refusal(row(**more), now=NOW)
    assert found is None if word is None else word in (found or "")


def test_rows_are_read_as_they_come() -> None:
    value = {"row": 7, "vm_uuid": UUID.upper(), "instant": "2025-07-01T10:00:00Z", "checksum_sha256": " " + "A" * 64}
    found = read_row(value)
    assert (found.uuid, found.name, found.sha256, found.sources) == (UUID, UUID, "a" * 64, ())
    assert read_row({**value, "checksum_sha256": "short", "path": "/x"}).sha256 is None
    with pytest.raises(InputError, match="instant"):
        read_row({**value, "instant": "2025-07-01 10:00:00"})


@pytest.mark.parametrize(
    ("values", "meta", "expected"),
    [
        ({"path": "/b/a.qcow2"}, {}, True),
        ({"s3_key": "p/a.qcow2"}, {}, True),
        ({"path": "/b/a.qcow2"}, {"node": "n1"}, False),
        ({"path": "/b/a.qcow2", "status": "deleted"}, {}, False),
        ({"path": f"/b/{UUID}/20251122T151200Z"}, {}, False),
        ({}, {}, False),
    ],
)
def test_which_rows_are_the_packs(values: dict[str, Any], meta: dict[str, Any], expected: bool) -> None:
    assert is_of_pack({"status": "ready", "path": None, "s3_key": None, **values}, meta) is expected


def header(**more: int) -> bytes:
    values = {"version": 3, "backing": 0, "bits": 16, "size": 1 << 30, "crypt": 0, "features": 0, "compression": 0}
    values.update(more)
    data = bytearray(112)
    struct.pack_into(
        ">IIQIIQI",
        data,
        0,
        0x514649FB,
        values["version"],
        values["backing"],
        0,
        values["bits"],
        values["size"],
        values["crypt"],
    )
    struct.pack_into(">Q", data, 72, values["features"])
    data[104] = values["compression"]
    return bytes(data)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({}, None),
        ({"version": 2}, None),
        # Version 2 ends before the features: what stands there means nothing.
        ({"version": 2, "features": 4}, None),
        ({"backing": 200}, "overlay"),
        ({"crypt": 1}, "encrypted"),
        ({"features": 2}, "corrupt"),
        ({"features": 4}, "another file"),
        ({"features": 1 << 9}, "does not know"),
        ({"features": 1}, None),
        ({"size": 1000}, "multiple of 512"),
    ],
)
def test_images_that_cannot_stand_for_themselves(more: dict[str, int], word: str | None) -> None:
    found = read_header(header(**more)).obstacle
    assert found is None if word is None else word in (found or "")


def test_headers_tell_size_and_compression() -> None:
    found = read_header(header(features=8, compression=1))
    assert (found.virtual_size, found.compression) == (1 << 30, "zstd")
    assert read_header(header()).compression == "zlib"
    for wrong in (b"", b"QFI\xfb", b"\0" * 112, header(version=4), header(bits=5)):
        with pytest.raises(FormatError):
            read_header(wrong)


@given(st.binary(max_size=300), st.integers(min_value=1, max_value=64), st.integers(min_value=1, max_value=70))
def test_hashes_are_those_of_a_manifest_however_the_blocks_fall(data: bytes, part_size: int, block: int) -> None:
    found = _digest((data[at : at + block] for at in range(0, len(data), block)), part_size, ())
    assert found.record("vda.qcow2") == describe_bytes("vda.qcow2", data, part_size=part_size)


def test_the_best_word_on_a_row_counts() -> None:
    rows = [{"row": number, "vm_name": "web", "created_at": "then"} for number in range(1, 5)]

    def said(node: str, **results: str) -> dict[str, Any]:
        return {
            "rows": [
                {"row": int(key[1:]), "node": node, "result": result, "notes": [f"{node} says"], "id": "x"}
                for key, result in results.items()
            ]
        }

    nodes = {
        "a": [said("a", r1="missing", r2="refused", r3="missing"), {"skipped": True}],
        "b": [said("b", r1="adopted", r2="missing", r3="missing"), said("b", r4="failed")],
        "c": [{"unreachable": True, "msg": "No route"}, {}],
    }
    found = report(rows, nodes)
    assert [(item["result"], item["node"]) for item in found["rows"]] == [
        ("adopted", "b"),
        ("refused", "a"),
        ("missing", "-"),
        ("failed", "b"),
    ]
    assert [item["row"] for item in found["adopted"]] == [1]
    assert [item["place"] for item in found["problems"]] == ["c", "web row 2", "web row 3", "web row 4"]
    assert any("may be on one that was not (c)" in note for note in found["notes"])
    assert undecided(rows, [answer for answers in nodes.values() for answer in answers]) == [rows[2]]
