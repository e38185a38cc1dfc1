# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of bytes, against Python's own sets of blocks."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._extents import (
    count_clusters,
    edge_clusters,
    intersect,
    sample_clusters,
    subtract,
    total,
    widen,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent

CLUSTER = 65536
# In sectors: four make a quarter of a cluster here, so that partial clusters are common.
STEP = CLUSTER // 4


def extents(blocks: Iterable[int]) -> list[Extent]:
    found: list[Extent] = []
    for block in sorted(blocks):
        if found and found[-1].offset + found[-1].length == block * STEP:
            found[-1] = Extent(found[-1].offset, found[-1].length + STEP)
        else:
            found.append(Extent(block * STEP, STEP))
    return found


def blocks(found: Iterable[Extent]) -> list[int]:
    return [
        block for extent in found for block in range(extent.offset // STEP, (extent.offset + extent.length) // STEP)
    ]


SETS = st.frozensets(st.integers(0, 60))


@given(SETS, SETS)
def test_both_and_only_the_first(first: frozenset[int], second: frozenset[int]) -> None:
    assert intersect(extents(first), extents(second)) == extents(first & second)
    assert blocks(subtract(extents(first), extents(second))) == sorted(first - second)
    assert subtract(extents(first), extents(second)) == extents(first - second)
    assert total(extents(first)) == len(first) * STEP


@given(SETS, st.integers(61, 64))
def test_whole_clusters(chosen: frozenset[int], size: int) -> None:
    clusters = {block // 4 for block in chosen}
    wanted = [block for cluster in sorted(clusters) for block in range(cluster * 4, min(size, cluster * 4 + 4))]
    found = widen(extents(chosen), size=size * STEP)
    assert found == extents(wanted)


@given(SETS, st.integers(0, 20))
def test_a_sample_is_of_whole_clusters_that_are_there(chosen: frozenset[int], count: int) -> None:
    size = 61 * STEP
    whole = widen(extents(chosen), size=size)
    clusters = {block // 4 for block in chosen}
    assert count_clusters(whole) == len(clusters)
    found = sample_clusters(whole, count)
    assert len(found) == min(len(clusters), count)
    numbers = [extent.offset // CLUSTER for extent in found]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= clusters
    assert all(extent.length == min(CLUSTER, size - extent.offset) for extent in found)


@given(SETS)
def test_the_outermost_clusters(chosen: frozenset[int]) -> None:
    whole = widen(extents(chosen), size=61 * STEP)
    every = sample_clusters(whole, 61)
    assert edge_clusters(whole) == (every if len(every) < 2 else [every[0], every[-1]])
