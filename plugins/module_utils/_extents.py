# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of bytes of a disk, as ascending extents that neither touch nor overlap. Pure."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE


def widen(extents: Iterable[Extent], *, size: int) -> list[Extent]:
    """Widen to whole clusters, and merge what touches then.

    Args:
        extents: Ascending.
        size: Of the disk; its last cluster may be partial.
    """
    found: list[Extent] = []
    for extent in extents:
        start = extent.offset - extent.offset % CLUSTER_SIZE
        end = min(size, -(-(extent.offset + extent.length) // CLUSTER_SIZE) * CLUSTER_SIZE)
        if found and found[-1].offset + found[-1].length >= start:
            start = found.pop().offset
        if end > start:
            found.append(Extent(start, end - start))
    return found


def intersect(first: Sequence[Extent], second: Sequence[Extent]) -> list[Extent]:
    """What is in both."""
    found: list[Extent] = []
    here = there = 0
    while here < len(first) and there < len(second):
        one, other = first[here], second[there]
        start = max(one.offset, other.offset)
        end = min(one.offset + one.length, other.offset + other.length)
        if start < end:
            found.append(Extent(start, end - start))
        if one.offset + one.length <= other.offset + other.length:
            here += 1
        else:
            there += 1
    return found


def subtract(first: Sequence[Extent], second: Sequence[Extent]) -> list[Extent]:
    """What is in the first and not in the second."""
    found: list[Extent] = []
    there = 0
    for extent in first:
        start, end = extent.offset, extent.offset + extent.length
        while there < len(second) and second[there].offset + second[there].length <= start:
            there += 1
        at = there
        while at < len(second) and second[at].offset < end:
            if second[at].offset > start:
                found.append(Extent(start, second[at].offset - start))
            start = second[at].offset + second[at].length
            at += 1
        if start < end:
            found.append(Extent(start, end - start))
    return found


def total(extents: Iterable[Extent]) -> int:
    """Bytes in all of them."""
    return sum(extent.length for extent in extents)


def count_clusters(extents: Iterable[Extent]) -> int:
    """How many clusters there are in extents of whole clusters."""
    return sum(-(-extent.length // CLUSTER_SIZE) for extent in extents)


def edge_clusters(extents: Sequence[Extent]) -> list[Extent]:
    """The first and the last cluster of extents of whole clusters; fewer where there are not two."""
    if not extents:
        return []
    first, last = extents[0], extents[-1]
    start = last.offset + (last.length - 1) // CLUSTER_SIZE * CLUSTER_SIZE
    found = [Extent(first.offset, min(CLUSTER_SIZE, first.length)), Extent(start, last.offset + last.length - start)]
    return found if first.offset < start else found[:1]


def sample_clusters(extents: Sequence[Extent], count: int) -> list[Extent]:
    """Choose clusters at random.

    Args:
        extents: In whole clusters, but for the disk's end.
        count: How many, if there are so many.

    Returns:
        One extent for each cluster, ascending.
    """
    ends = list(accumulate(-(-extent.length // CLUSTER_SIZE) for extent in extents))
    there = ends[-1] if ends else 0
    chosen: list[Extent] = []
    for number in sorted(random.SystemRandom().sample(range(there), min(there, count))):
        index = bisect_right(ends, number)
        skipped = (number - (ends[index - 1] if index else 0)) * CLUSTER_SIZE
        chosen.append(Extent(extents[index].offset + skipped, min(CLUSTER_SIZE, extents[index].length - skipped)))
    return chosen
