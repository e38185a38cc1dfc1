# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof itself: it must accept every instant of a writer's life, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bed.records import BrokenError, Geometry, check

Disks = "list[list[list[int]]]"


def life(geometry: Geometry, places: list[int], last: int) -> Disks:
    """Replay what a writer does to its disks, up to and with record ``last``."""
    disks = [[[0] * (geometry.kib // 4) for _slot in range(count)] for count in places]
    for number in range(1, last + 1):
        disk = (number - 1) % len(disks)
        slot = (number - 1) // len(disks) * 7919 % places[disk]
        value = number if geometry.kind(number) == "write" else 0
        disks[disk][slot] = [value] * (geometry.kib // 4)
    return disks


@st.composite
def writers(draw: st.DrawFn) -> tuple[Geometry, list[int], int]:
    places = draw(st.lists(st.integers(3, 12), min_size=1, max_size=3))
    geometry = Geometry(kib=draw(st.sampled_from([4, 8, 64])), mix=draw(st.booleans()))
    return geometry, places, draw(st.integers(0, 80))


@given(writers())
def test_every_instant_is_accepted(writer: tuple[Geometry, list[int], int]) -> None:
    geometry, places, last = writer
    expected = last
    while expected and geometry.kind(expected) != "write":
        expected -= 1
    # A zeroed slot does not tell the number of the record that zeroed it.
    assert check(life(geometry, places, last), geometry) == expected


@given(writers(), st.integers(1, 15))
def test_a_part_of_the_next_record_is_accepted(writer: tuple[Geometry, list[int], int], blocks: int) -> None:
    geometry, places, last = writer
    after = last + 1
    if geometry.kib < 64 or geometry.kind(after) != "write":
        return
    disks = life(geometry, places, last)
    slot = disks[last % len(disks)][last // len(disks) * 7919 % places[last % len(disks)]]
    slot[:blocks] = [after] * blocks
    assert check(disks, geometry) == last


@given(writers(), st.data())
def test_a_mixture_of_two_instants_is_refused(writer: tuple[Geometry, list[int], int], data: st.DataObject) -> None:
    geometry, places, last = writer
    if len(places) < 2:
        return
    later = life(geometry, places, last + len(places) * 2 + 8)
    mixed = life(geometry, places, last)
    disk = data.draw(st.integers(0, len(places) - 1))
    mixed[disk] = later[disk]
    with pytest.raises(BrokenError):
        check(mixed, geometry)


@pytest.mark.parametrize("block", [0, 1])
def test_a_lost_write_is_refused(block: int) -> None:
    geometry = Geometry(kib=8)
    disks = life(geometry, [5], 4)
    disks[0][7919 % 5][block] = 0
    with pytest.raises(BrokenError, match="holds record 0 where 2 belongs"):
        check(disks, geometry)
