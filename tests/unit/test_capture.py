# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a disk is prepared for reading: what will be read is known, and costs no memory worth speaking of."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._capture import Capture
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent
from ansible_collections.vmforge.backup.plugins.module_utils._open_disk import OpenDisk
from ansible_collections.vmforge.backup.plugins.module_utils._pipeline import Stop
from ansible_collections.vmforge.backup.plugins.module_utils._signals import Interrupted

DISK = Disk("vda", "file", "qcow2", "/i/vda")
MIB, TIB = 1 << 20, 1 << 40


class Told:
    """An export that has told this."""

    def __init__(self, size: int, *extents: tuple[int, int]) -> None:
        self._answer = size, [Extent(*extent) for extent in extents]

    def allocated(self) -> tuple[int, list[Extent]]:
        return self._answer


def opened(size: int, *extents: tuple[int, int]) -> OpenDisk:
    export: Any = Told(size, *extents)
    return OpenDisk.of(DISK, export)


@pytest.mark.parametrize(
    ("extents", "read"),
    [
        ([], 0),
        ([(0, 512)], 65536),
        ([(65535, 2)], 131072),
        ([(0, 512), (1024, 512)], 65536),
        ([(0, 65536), (65536, 65536)], 131072),
        ([(MIB - 512, 512)], 65536),
        ([(0, MIB)], MIB),
    ],
)
def test_what_will_be_read_is_known_beforehand(extents: list[tuple[int, int]], read: int) -> None:
    disk = opened(MIB, *extents)
    assert disk.read_bytes == read
    for _turn in range(2):
        assert sum(extent.length for extent in disk.ranges()) == read


def test_a_full_disk_of_a_tebibyte_takes_no_memory() -> None:
    tracemalloc.start()
    disk = opened(TIB, (0, TIB))
    ranges = disk.ranges()
    assert next(ranges) == Extent(0, MIB)
    assert next(ranges) == Extent(MIB, MIB)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert disk.read_bytes == TIB
    assert peak < MIB


def test_an_odd_size_is_refused() -> None:
    with pytest.raises(SourceError, match="Disk vda has 1000 bytes"):
        opened(1000)


def test_only_changes() -> None:
    """What changed is read where there is something, and called zero where there is nothing."""
    cluster = 65536
    whole = opened(8 * cluster, (0, 3 * cluster), (6 * cluster, cluster))
    dirty = [Extent(2 * cluster, 2 * cluster), Extent(6 * cluster, 2 * cluster)]
    disk = whole.only(dirty, backing="../20261122T151200Z/vda.qcow2")
    assert list(disk.extents) == [Extent(2 * cluster, cluster), Extent(6 * cluster, cluster)]
    assert list(disk.zeros) == [Extent(3 * cluster, cluster), Extent(7 * cluster, cluster)]
    assert (disk.read_bytes, disk.backing) == (2 * cluster, "../20261122T151200Z/vda.qcow2")
    assert (whole.backing, list(whole.zeros)) == (None, [])


@pytest.mark.parametrize(
    ("watched", "told"),
    [
        (SourceError("the scratch files are full", code="scratch_full"), "scratch_full"),
        (None, "job_lost"),
        # What another thread has read.
        (SourceError("the connection is closed"), "job_lost"),
    ],
)
def test_why_a_job_ended(watched: SourceError | None, told: str) -> None:
    """Whoever reads notices first that it is gone; the watch that has ended it knows why."""
    stop = Stop()

    class Gone:
        def allocated(self) -> tuple[int, list[Extent]]:
            if watched is not None:
                stop.fail(watched)
            raise SourceError("the connection is closed")

    class Source:
        def __init__(self) -> None:
            self.exports = {"vda": Gone()}

        def confirm(self) -> None:
            raise SourceError("the backup job was ended by someone else", code="job_lost")

    capture, source = Capture.__new__(Capture), Source()
    capture.disks, capture.stop = [DISK], stop
    given: Any = source
    with pytest.raises(SourceError) as caught:
        capture._read(given)
    assert caught.value.code == told


def test_a_signal_that_comes_as_the_source_is_closed() -> None:
    """It keeps that from happening, and must not: a job that is left fills its scratch files."""
    closed: list[bool] = []

    class Source:
        checkpoint = None

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_exception: object) -> None:
            if not closed:
                closed.append(False)
                raise Interrupted("SIGTERM")
            closed.append(True)

        def watches(self) -> list[Any]:
            return []

        def release(self) -> None:
            """Nothing to do."""

    def gone() -> None:
        raise SourceError("the domain is gone")

    given: Any = Source()
    domain: Any = SimpleNamespace(spec=gone)
    capture = Capture.__new__(Capture)
    capture.stop, capture._written, capture.domain = Stop(), [], domain
    with pytest.raises(Interrupted):
        capture.run(given)
    assert closed == [False, True]
