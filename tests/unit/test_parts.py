# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts: any sequence of appends gives the concatenation, every part is full but the last, the first comes last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._parts import (
    MAX_PARTS,
    MIN_PART_SIZE,
    PartCutter,
    choose_part_size,
)
from ansible_collections.vmforge.backup.plugins.module_utils._plan import part_size_for

TIB = 1 << 40


class Taken:
    """Buffers that are used again, as in the pipeline, and the parts that came out."""

    def __init__(self, part_size: int) -> None:
        self.part_size = part_size
        self.free: list[bytearray] = []
        self.parts: list[tuple[int, bytes]] = []

    def take(self) -> bytearray:
        return self.free.pop() if self.free else bytearray(b"\xee" * self.part_size)

    def emit(self, number: int, buffer: bytearray, length: int) -> None:
        assert len(buffer) == self.part_size
        self.parts.append((number, bytes(buffer[:length])))
        buffer[:] = b"\xee" * self.part_size
        self.free.append(buffer)


@given(
    part_size=st.integers(16, 64),
    hole=st.integers(1, 16),
    header=st.binary(max_size=16),
    pieces=st.lists(st.binary(max_size=200), max_size=12),
)
def test_any_appends_are_the_concatenation(part_size: int, hole: int, header: bytes, pieces: list[bytes]) -> None:
    taken = Taken(part_size)
    cutter = PartCutter(part_size=part_size, hole=hole, take=taken.take, emit=taken.emit)
    size = hole
    for piece in pieces:
        cutter.append(memoryview(piece))
        size += len(piece)
        assert cutter.size == size
    if len(header) > hole:
        with pytest.raises(ValueError, match="header"):
            cutter.finish(header)
        return
    cutter.finish(header)
    numbers = [number for number, _data in taken.parts]
    assert numbers == [*range(2, len(numbers) + 1), 1]
    ordered = [data for _number, data in sorted(taken.parts)]
    assert all(len(data) == part_size for data in ordered[:-1])
    assert b"".join(ordered) == header.ljust(hole, b"\0") + b"".join(pieces)


def test_a_part_that_is_exactly_full_begins_no_empty_one() -> None:
    taken = Taken(16)
    cutter = PartCutter(part_size=16, hole=4, take=taken.take, emit=taken.emit)
    cutter.append(bytes(12))
    cutter.finish(b"head")
    assert taken.parts == [(1, b"head" + bytes(12))]


@pytest.mark.parametrize(
    ("expected", "size"),
    [
        (0, MIN_PART_SIZE),
        (MIN_PART_SIZE * MAX_PARTS, MIN_PART_SIZE),
        (MIN_PART_SIZE * MAX_PARTS + 1, MIN_PART_SIZE + (1 << 20)),
        (TIB, 105 << 20),
    ],
)
def test_part_sizes(expected: int, size: int) -> None:
    assert choose_part_size(expected) == size


@given(st.integers(0, 64 * TIB))
def test_never_more_than_ten_thousand_parts(expected: int) -> None:
    size = choose_part_size(expected)
    assert size >= MIN_PART_SIZE
    assert size % (1 << 20) == 0
    assert -(-expected // size) <= MAX_PARTS


@given(virtual=st.integers(0, 16 * TIB), share=st.floats(0, 1))
def test_the_worst_image_has_room(virtual: int, share: float) -> None:
    read = int(virtual * share) // 65536 * 65536
    # Nothing compresses; every L2 table, the L1 table and the refcounts of all of it, one gap for alignment.
    worst = read + 65536 * (3 + -(-virtual // (1 << 29))) + virtual // (1 << 26) + read // (1 << 15) + (1 << 18)
    assert -(-worst // part_size_for(virtual_size=virtual, read_bytes=read)) <= MAX_PARTS


def test_memory_of_a_tebibyte_disk_is_bounded() -> None:
    assert 3 * part_size_for(virtual_size=TIB, read_bytes=TIB) <= 400 << 20
