# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bitmap calls clean: what of it is compared with the parent, and what must not differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils import _changes
from ansible_collections.vmforge.backup.plugins.module_utils._changes import MismatchError
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._extents import widen
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent
from ansible_collections.vmforge.backup.plugins.module_utils._open_disk import OpenDisk

CLUSTER = 65536
COUNT = 60
SIZE = COUNT * CLUSTER - 512
DISK = Disk("vda", "file", "qcow2", "/i/vda")
FEW = st.frozensets(st.integers(0, COUNT - 1))
SETS = st.one_of(FEW, FEW.map(frozenset(range(COUNT)).difference))


class Image:
    """An export of these clusters, each of one byte over and over; ``-1`` cannot be read."""

    def __init__(self, clusters: dict[int, int], size: int = SIZE) -> None:
        self._clusters, self._size = clusters, size

    def allocated(self) -> tuple[int, list[Extent]]:
        return self._size, extents(self._clusters)

    def read(self, wanted: Iterable[Extent]) -> Iterator[tuple[int, bytes]]:
        for extent in wanted:
            value = self._clusters.get(extent.offset // CLUSTER, 0)
            if value < 0:
                raise SourceError("an I/O error")
            yield extent.offset, bytes([value]) * extent.length

    def close(self) -> None:
        """Nothing to do."""


def extents(clusters: Iterable[int]) -> list[Extent]:
    return widen([Extent(number * CLUSTER, 512) for number in sorted(clusters)], size=SIZE)


def opened(image: Image) -> OpenDisk:
    export: Any = image
    return OpenDisk.of(DISK, export)


@given(SETS, SETS, SETS)
@example(now=frozenset(range(COUNT)), before=frozenset(range(COUNT - 6)), dirty=frozenset({COUNT - 1}))
def test_the_sample(now: frozenset[int], before: frozenset[int], dirty: frozenset[int]) -> None:
    disk = opened(Image(dict.fromkeys(now, 1)))
    found = _changes._sample(disk, extents(before), extents(dirty))
    clean = now - dirty
    chosen = [extent.offset // CLUSTER for extent in found]
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= clean
    assert len(chosen) == min(len(clean), 10)
    assert not clean or {min(clean), max(clean)} <= set(chosen)
    # Where the parent has nothing, a bitmap that lies would hide most.
    assert len(set(chosen) - before) >= min(len(clean - before), 4)
    assert all(extent.length == min(CLUSTER, SIZE - extent.offset) for extent in found)


@given(SETS, SETS, SETS)
def test_nothing_is_gone_without_a_word(now: frozenset[int], before: frozenset[int], dirty: frozenset[int]) -> None:
    disk, parent = opened(Image(dict.fromkeys(now, 1))), Image(dict.fromkeys(before, 1))
    stored: Any = parent
    if before - dirty - now:
        with pytest.raises(MismatchError, match="shrunk and grown again"):
            _changes._compare_allocation(disk, extents(dirty), stored)
    else:
        assert _changes._compare_allocation(disk, extents(dirty), stored) == extents(before)


def test_another_size() -> None:
    stored: Any = Image({}, SIZE - 512)
    with pytest.raises(MismatchError, match=f"had {SIZE - 512} bytes in the parent, and has {SIZE} now"):
        _changes._compare_allocation(opened(Image({})), [], stored)


@pytest.mark.parametrize(
    ("now", "before", "error", "says"),
    [
        ({3: 1, 5: 2}, {3: 1, 5: 2}, None, ""),
        ({3: 1, 5: 2}, {3: 1, 5: 3}, MismatchError, f"at offset {5 * CLUSTER} differs from the parent"),
        # Zeroes that are written are no change.
        ({3: 0, 5: 2}, {5: 2}, None, ""),
        ({3: 1, 5: 2}, {5: 2}, MismatchError, f"at offset {3 * CLUSTER} differs"),
        # Which of them cannot be read decides whether it is a reason for a full backup, or for none.
        ({3: 1, 5: 2}, {3: 1, 5: -1}, _changes._ParentError, "its parent cannot be read: an I/O error"),
        ({3: 1, 5: -1}, {3: 1, 5: 2}, SourceError, "an I/O error"),
    ],
)
def test_clusters_that_ought_to_be_the_same(
    monkeypatch: pytest.MonkeyPatch,
    now: dict[int, int],
    before: dict[int, int],
    error: type[Exception] | None,
    says: str,
) -> None:
    monkeypatch.setattr(_changes, "BlockReader", lambda export, **_stopped: export)
    disk, stored = opened(Image(now)), Image(before)
    parent: Any = stored
    clusters = _changes._sample(disk, extents(before), [])
    if error is None:
        _changes._compare_clusters(disk, parent, clusters, lambda: False)
    else:
        with pytest.raises(error, match=says):
            _changes._compare_clusters(disk, parent, clusters, lambda: False)


def test_a_parent_whose_server_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reason to make no backup at all."""
    disk, stored = opened(Image({3: 1})), Image({3: 1})
    parent: Any = stored

    def connect(export: Any, **_stopped: Any) -> Any:
        if export is parent:
            raise SourceError("nobody listens")
        return export

    monkeypatch.setattr(_changes, "BlockReader", connect)
    with pytest.raises(_changes._ParentError, match="its parent cannot be read: nobody listens"):
        _changes._compare_clusters(disk, parent, extents([3]), lambda: False)
