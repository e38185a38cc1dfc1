# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data path without libvirt, NBD and zstd: what is read is what reaches the sink, and every failure ends it."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error, SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent
from ansible_collections.vmforge.backup.plugins.module_utils._pipeline import (
    ImageStream,
    RateLimit,
    Stop,
    StreamSettings,
    split_ranges,
)
from tests.unit.test_qcow2 import Parser

CLUSTER = 65536
MIB = 1 << 20

extents = st.lists(st.tuples(st.integers(0, 3 * MIB), st.integers(1, MIB)), max_size=8)


@given(found=extents, size=st.integers(1, 3 * MIB), limit=st.sampled_from([CLUSTER, 4 * CLUSTER, MIB]))
def test_ranges_cover_every_extent_once(found: list[tuple[int, int]], size: int, limit: int) -> None:
    offsets = sorted(found)
    ascending = [Extent(offset, min(length, size - offset)) for offset, length in offsets if offset < size]
    ranges = list(split_ranges(ascending, size=size, limit=limit))
    done = 0
    for piece in ranges:
        assert piece.offset % CLUSTER == 0
        assert piece.offset >= done, "nothing twice, and in order"
        assert 0 < piece.length <= limit
        assert piece.length % CLUSTER == 0 or piece.offset + piece.length == size
        done = piece.offset + piece.length
    assert done <= size
    touched = {
        cluster
        for piece in ranges
        for cluster in range(piece.offset // CLUSTER, -(-(piece.offset + piece.length) // CLUSTER))
    }
    wanted = {c for e in ascending for c in range(e.offset // CLUSTER, -(-(e.offset + e.length) // CLUSTER))}
    assert touched == wanted


class Memory:
    """A disk in memory that is a reader, and a sink that is a file in memory."""

    def __init__(self, disk: bytes) -> None:
        self.disk = disk
        self.image = bytearray()
        self.lock = threading.Lock()
        self.closed = 0
        self.fail_reading_at: int | None = None
        self.fail_part: int | None = None

    def read(self, ranges: Iterator[Extent]) -> Iterator[tuple[int, bytearray]]:
        for piece in ranges:
            if self.fail_reading_at is not None and piece.offset >= self.fail_reading_at:
                raise SourceError("The disk went away.")
            yield piece.offset, bytearray(self.disk[piece.offset : piece.offset + piece.length])

    def close(self) -> None:
        self.closed += 1

    def write_part(self, number: int, offset: int, data: memoryview, digest: bytes) -> None:
        if number == self.fail_part:
            raise S3Error("The store went away.")
        assert digest == hashlib.sha256(data).digest()
        with self.lock:
            if len(self.image) < offset + len(data):
                self.image.extend(bytes(offset + len(data) - len(self.image)))
            self.image[offset : offset + len(data)] = data

    def stream(
        self,
        *,
        readers: int = 2,
        part_size: int = 2 * CLUSTER,
        stop: Stop | None = None,
        backing: tuple[str, str] | None = None,
        zeros: tuple[Extent, ...] = (),
        reads: bool = True,
    ) -> ImageStream:
        size = len(self.disk)
        return ImageStream(
            lambda: self,
            size=size,
            ranges=split_ranges([Extent(0, size)] if size and reads else [], size=size, limit=4 * CLUSTER),
            zeros=zeros,
            sink=self,
            settings=StreamSettings(compression="zlib", readers=readers, part_size=part_size, backing=backing),
            stop=stop or Stop(),
            limit=RateLimit(None),
            advance=lambda _read, _stored: None,
        )


def some_disk(seed: int, clusters: int, tail: int) -> bytes:
    """Random, compressible and zero clusters; the last one partial."""
    source = random.Random(seed)
    kinds = [source.randbytes(CLUSTER), b"text " * (CLUSTER // 5) + b"\n", bytes(CLUSTER)]
    return b"".join(source.choice(kinds) for _number in range(clusters)) + source.choice(kinds)[: tail * 512]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), clusters=st.integers(0, 20), tail=st.integers(0, 127), readers=st.integers(1, 3))
def test_the_image_holds_the_disk(seed: int, clusters: int, tail: int, readers: int) -> None:
    memory = Memory(some_disk(seed, clusters, tail))
    streamed = memory.stream(readers=readers).run()
    assert memory.closed == readers
    assert streamed.size == len(memory.image)
    pieces = [memory.image[at : at + 2 * CLUSTER] for at in range(0, streamed.size, 2 * CLUSTER)]
    assert streamed.parts == tuple(hashlib.sha256(piece).digest() for piece in pieces)
    image = Parser(bytes(memory.image)).parse()
    read = b"".join(image.clusters.get(n) or bytes(CLUSTER) for n in range(-(-len(memory.disk) // CLUSTER)))
    assert read[: len(memory.disk)] == memory.disk
    assert not any(read[len(memory.disk) :])
    assert streamed.data_bytes == CLUSTER * len(image.clusters)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), clusters=st.integers(0, 20), tail=st.integers(0, 127))
def test_an_image_over_another_hides_all_of_it(seed: int, clusters: int, tail: int) -> None:
    """Every cluster that was read or called zero is in it, those that hold nothing as zero clusters."""
    memory = Memory(some_disk(seed, clusters, tail))
    whole = -(-len(memory.disk) // CLUSTER)
    stream = memory.stream(backing=("../20261122T151200Z/vda.qcow2", "qcow2"))
    streamed = stream.run()
    image = Parser(bytes(memory.image)).parse()
    assert sorted(image.clusters) == list(range(whole))
    read = b"".join(image.clusters[number] or bytes(CLUSTER) for number in range(whole))
    assert read[: len(memory.disk)] == memory.disk
    assert all(data is None or any(data) for data in image.clusters.values())
    assert streamed.data_bytes == CLUSTER * sum(data is not None for data in image.clusters.values())


def test_what_was_discarded_is_not_read() -> None:
    memory = Memory(bytes(3 * CLUSTER + 512))
    zeros = (Extent(CLUSTER, CLUSTER), Extent(3 * CLUSTER, 512))
    memory.stream(backing=("b", "qcow2"), zeros=zeros, reads=False).run()
    assert Parser(bytes(memory.image)).parse().clusters == {1: None, 3: None}


@pytest.mark.parametrize("where", ["reading", "first part", "last part", "asked to"])
def test_a_failure_anywhere_ends_all_of_it(where: str) -> None:
    memory = Memory(random.Random(1).randbytes(40 * CLUSTER))
    stop = Stop()
    if where == "reading":
        memory.fail_reading_at = 20 * CLUSTER
    elif where == "asked to":
        stop.fail(S3Error("Enough."))
    else:
        # The first part, with the header, is written last.
        memory.fail_part = 1 if where == "last part" else 2
    threads = threading.active_count()
    with pytest.raises((SourceError, S3Error), match="went away|Enough"):
        memory.stream(stop=stop).run()
    assert stop()
    deadline = time.monotonic() + 180
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads


def test_the_first_reason_stays() -> None:
    stop = Stop()
    stop.check()
    stop.fail(SourceError("first"))
    stop.fail(SourceError("second"))
    with pytest.raises(SourceError, match="first"):
        stop.check()


def test_the_rate_is_kept_over_all_threads() -> None:
    limit, stop = RateLimit(1_000_000), Stop()
    begun = time.monotonic()
    threads = [threading.Thread(target=lambda: [limit.wait(50_000, stop) for _n in range(4)]) for _m in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The first 50,000 bytes are free.
    assert time.monotonic() - begun >= 0.34
    RateLimit(None).wait(1 << 60, stop)
    stop.fail(SourceError("enough"))
    limit.wait(1 << 40, stop)


@pytest.mark.parametrize("tail", [0, 512, CLUSTER - 512])
def test_what_reads_zero_is_not_stored(tail: int) -> None:
    """A cluster counts as soon as one byte of it, wherever, is not zero."""
    clusters = [bytes(CLUSTER) for _number in range(5)]
    clusters[1] = b"\1" + clusters[1][1:]
    clusters[3] = clusters[3][:-1] + b"\1"
    memory = Memory(b"".join(clusters) + bytes(tail))
    streamed = memory.stream().run()
    assert streamed.data_bytes == 2 * CLUSTER
    assert sorted(Parser(bytes(memory.image)).parse().clusters) == [1, 3]
