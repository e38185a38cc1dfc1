# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The qcow2 writer against a parser of its own, written from QEMU's specification and from nothing else of ours."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE, ImageWriter

INDEXES = 24
TIB = 1 << 40


@dataclass
class Image:
    """What the parser made of an image: guest cluster -> content; None for one that reads zero by its flag."""

    virtual_size: int
    clusters: dict[int, bytes | None]
    backing: str | None
    backing_format: str | None
    compression: int


class Parser:
    """Reads an image and counts references, as ``qemu-img check`` does."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.references = [0] * -(-len(data) // CLUSTER_SIZE)

    def number(self, offset: int, form: str = ">Q") -> int:
        return int(struct.unpack_from(form, self.data, offset)[0])

    def refer(self, offset: int, length: int) -> None:
        for cluster in range(offset // CLUSTER_SIZE, (offset + length - 1) // CLUSTER_SIZE + 1):
            self.references[cluster] += 1

    def parse(self) -> Image:
        assert self.data[:4] == b"QFI\xfb"
        assert self.number(4, ">I") == 3
        assert self.number(20, ">I") == 16, "cluster bits"
        assert self.number(32, ">I") == 0, "encryption"
        assert (self.number(60, ">I"), self.number(64)) == (0, 0), "internal snapshots"
        assert (self.number(80), self.number(88)) == (0, 0), "compatible and autoclear features"
        assert self.number(96, ">I") == 4, "refcount order"
        assert self.number(100, ">I") == 112, "header length"
        kind = self.data[104]
        assert self.number(72) == (8 if kind else 0), "the bit for a compression type that is not zlib"
        self.refer(0, 1)
        backing_offset, backing_length = self.number(8), self.number(16, ">I")
        backing = self.data[backing_offset : backing_offset + backing_length].decode() if backing_offset else None
        image = Image(self.number(24), {}, backing, self.extension(0xE2792ACA), kind)
        self.read_tables(image)
        self.check_references()
        return image

    def extension(self, wanted: int) -> str | None:
        offset, found = 112, None
        while (kind := self.number(offset, ">I")) != 0:
            length = self.number(offset + 4, ">I")
            if kind == wanted:
                found = self.data[offset + 8 : offset + 8 + length].decode()
            offset += 8 + -(-length // 8) * 8
        return found

    def read_tables(self, image: Image) -> None:
        size, offset = self.number(36, ">I"), self.number(40)
        clusters = -(-image.virtual_size // CLUSTER_SIZE)
        assert size >= -(-clusters // 8192)
        assert offset % CLUSTER_SIZE == 0
        if size:
            self.refer(offset, size * 8)
        for index in range(size):
            entry = self.number(offset + index * 8)
            if entry:
                assert entry >> 63 == 1, "an L1 entry owns its table"
                table = entry & ~(1 << 63)
                assert table % CLUSTER_SIZE == 0
                self.refer(table, CLUSTER_SIZE)
                for slot in range(8192):
                    self.read_cluster(image, index * 8192 + slot, self.number(table + slot * 8))

    def read_cluster(self, image: Image, index: int, entry: int) -> None:
        if not entry:
            return
        assert index < -(-image.virtual_size // CLUSTER_SIZE)
        if entry >> 62 & 1:
            assert entry >> 63 == 0, "a compressed cluster is never marked as its entry's own"
            offset, sectors = entry & (1 << 54) - 1, entry >> 54 & 0xFF
            end = (offset // 512 + sectors + 1) * 512
            self.refer(offset, min(end, len(self.data)) - offset)
            image.clusters[index] = zlib.decompressobj(-12).decompress(self.data[offset:end], CLUSTER_SIZE)
            assert len(image.clusters[index] or b"") == CLUSTER_SIZE
        elif entry & 1:
            assert entry == 1
            image.clusters[index] = None
        else:
            offset = entry & ~(1 << 63)
            assert entry >> 63 == 1
            assert offset % CLUSTER_SIZE == 0
            self.refer(offset, CLUSTER_SIZE)
            image.clusters[index] = self.data[offset : offset + CLUSTER_SIZE]

    def check_references(self) -> None:
        table, clusters = self.number(48), self.number(56, ">I")
        self.refer(table, clusters * CLUSTER_SIZE)
        blocks = [self.number(table + n * 8) for n in range(clusters * 8192)]
        for block in filter(None, blocks):
            self.refer(block, CLUSTER_SIZE)
        for cluster, wanted in enumerate(self.references):
            block = blocks[cluster // 32768]
            stored = self.number(block + cluster % 32768 * 2, ">H") if block else 0
            assert stored == wanted, f"cluster {cluster}: refcount {stored}, but {wanted} references"


def add_cluster(writer: ImageWriter, index: int, how: str, content: bytes) -> None:
    if how == "zero":
        writer.add_zero(index)
    elif how == "plain":
        writer.add_plain(index, content)
    else:
        packer = zlib.compressobj(1, zlib.DEFLATED, -12)
        writer.add_compressed(index, packer.compress(content) + packer.flush())


def write(
    size: int, clusters: list[tuple[int, str, bytes]], *, backing: tuple[str, str] | None = None, kind: str = "zlib"
) -> bytes:
    """Write an image; a cluster is ``compressed`` (deflated here), ``plain`` or ``zero``."""
    stream = bytearray(CLUSTER_SIZE)
    writer = ImageWriter(size, compression=kind, append=stream.extend, backing=backing)
    for index, how, content in clusters:
        add_cluster(writer, index, how, content)
    header = writer.finish()
    assert len(header) <= CLUSTER_SIZE
    stream[: len(header)] = header
    return bytes(stream)


def content(how: str, seed: int) -> bytes:
    """A cluster that deflates to a length which depends on the seed, from a handful of bytes to nearly a cluster."""
    if how == "zero":
        return b""
    random_part = CLUSTER_SIZE if how == "plain" else random.Random(seed).choice([0, 1, 300, 511, 8000, 60000])
    return random.Random(seed).randbytes(random_part).ljust(CLUSTER_SIZE, bytes([seed % 255 + 1]))


layouts = st.lists(
    st.tuples(st.integers(0, INDEXES - 1), st.sampled_from(["compressed", "plain", "zero"]), st.integers(0, 50)),
    max_size=INDEXES,
    unique_by=lambda item: item[0],
)


@settings(deadline=None, max_examples=60)
@given(
    layout=layouts,
    tail=st.integers(0, CLUSTER_SIZE // 512 - 1),
    far=st.sampled_from([0, 8192 - 3, 8192 * 5]),
    backing=st.sampled_from([None, ("../20261122T151200Z/vda.qcow2", "qcow2"), ("base é.raw", "raw")]),
)
def test_random_layouts(
    layout: list[tuple[int, str, int]], tail: int, far: int, backing: tuple[str, str] | None
) -> None:
    size = (INDEXES + far) * CLUSTER_SIZE - tail * 512
    clusters = [(index + far, how, content(how, seed)) for index, how, seed in layout]
    image = Parser(write(size, clusters, backing=backing)).parse()
    assert image.virtual_size == size
    assert image.clusters == {index: None if how == "zero" else data for index, how, data in clusters}
    assert (image.backing, image.backing_format) == (backing or (None, None))


@pytest.mark.parametrize("size", [0, 512, CLUSTER_SIZE, CLUSTER_SIZE + 512, 2 * TIB])
def test_empty_images_of_all_sizes(size: int) -> None:
    data = write(size, [])
    assert Parser(data).parse() == Image(size, {}, None, None, 0)
    assert len(data) <= 4 * CLUSTER_SIZE + size // (1 << 26)


@given(first=st.integers(0, 8192 * 3), count=st.integers(0, 8192 * 3))
@settings(deadline=None, max_examples=20)
def test_a_run_of_zero_clusters(first: int, count: int) -> None:
    stream = bytearray(CLUSTER_SIZE)
    writer = ImageWriter(8192 * 6 * CLUSTER_SIZE, compression="zlib", append=stream.extend, backing=("b", "qcow2"))
    writer.add_zeros(first, count)
    header = writer.finish()
    stream[: len(header)] = header
    assert Parser(bytes(stream)).parse().clusters == dict.fromkeys(range(first, first + count))


@given(first=st.integers(0, 8192 + 9), count=st.integers(0, 40), before=st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_room_is_left_where_the_same_clusters_would_be_written(first: int, count: int, before: int) -> None:
    """Behind others, compressed ones and such that are still waiting."""
    first += 2
    kinds = ["compressed", "plain"][: before % 3]
    clusters = [(index, how, content(how, index)) for index, how in enumerate(kinds)]
    run = [(index, "plain", content("plain", index)) for index in range(first, first + count)]
    size = (8192 + 60) * CLUSTER_SIZE
    data = write(size, clusters)
    stream = bytearray(CLUSTER_SIZE)
    writer = ImageWriter(size, compression="zlib", append=stream.extend)
    for index, how, cluster in clusters:
        add_cluster(writer, index, how, cluster)
    assert writer.reserve_plain(first, count) == len(stream) == writer.size - count * CLUSTER_SIZE
    for _index, _how, cluster in run:
        stream += cluster
    header = writer.finish()
    stream[: len(header)] = header
    image = Parser(bytes(stream)).parse()
    assert image.clusters == Parser(data).parse().clusters | {index: cluster for index, _how, cluster in run}


def test_the_last_cluster_of_a_huge_disk() -> None:
    last = 2 * TIB // CLUSTER_SIZE - 1
    image = Parser(write(2 * TIB, [(last, "plain", b"x" * CLUSTER_SIZE)])).parse()
    assert image.clusters == {last: b"x" * CLUSTER_SIZE}


def test_thousands_of_clusters_share_a_host_cluster() -> None:
    ones = b"\1" * CLUSTER_SIZE
    image = Parser(write(2000 * CLUSTER_SIZE, [(i, "compressed", ones) for i in range(2000)])).parse()
    assert image.clusters == dict.fromkeys(range(2000), ones)


def test_more_host_clusters_than_one_refcount_block_counts() -> None:
    """32,768 clusters: the second block must count itself, and the table, too."""
    appended = 0

    def count(data: bytes | bytearray | memoryview) -> None:
        nonlocal appended, tail
        appended += len(data)
        tail = (tail + bytes(data))[-4 * CLUSTER_SIZE :]

    tail = b""
    total = 32768 + 10
    writer = ImageWriter(total * CLUSTER_SIZE, compression="none", append=count)
    for index in range(total):
        writer.add_plain(index, b"\7" * CLUSTER_SIZE)
    header = writer.finish()
    table, clusters = struct.unpack_from(">QI", header, 48)
    assert clusters == 1
    end = CLUSTER_SIZE + appended
    assert table == end - CLUSTER_SIZE
    blocks = [value for value in struct.unpack(">8192Q", tail[-CLUSTER_SIZE:]) if value]
    assert blocks == [end - 3 * CLUSTER_SIZE, end - 2 * CLUSTER_SIZE]
    second = struct.unpack(">32768H", tail[-2 * CLUSTER_SIZE : -CLUSTER_SIZE])
    assert sum(second) == end // CLUSTER_SIZE - 32768


@pytest.mark.parametrize(("kind", "byte", "bit"), [("zstd", 1, 8), ("zlib", 0, 0), ("none", 0, 0)])
def test_the_compression_type_and_its_bit(kind: str, byte: int, bit: int) -> None:
    data = write(CLUSTER_SIZE, [(0, "plain", b"x" * CLUSTER_SIZE)], kind=kind)
    assert (data[104], struct.unpack_from(">Q", data, 72)[0]) == (byte, bit)


@pytest.mark.parametrize("size", [-512, 1, 511, 65535])
def test_a_size_that_the_format_would_truncate(size: int) -> None:
    with pytest.raises(ValueError, match="not a multiple of 512"):
        ImageWriter(size, compression="zlib", append=bytearray().extend)


def test_what_a_caller_can_get_wrong() -> None:
    def writer() -> ImageWriter:
        return ImageWriter(2 * CLUSTER_SIZE, compression="zlib", append=bytearray().extend)

    with pytest.raises(ValueError, match="unknown compression"):
        ImageWriter(0, compression="lz4", append=bytearray().extend)
    for index in (-1, 2):
        with pytest.raises(ValueError, match="outside the image"):
            writer().add_zero(index)
    for length in (0, CLUSTER_SIZE):
        with pytest.raises(ValueError, match="compressed cluster of"):
            writer().add_compressed(0, bytes(length))
    with pytest.raises(ValueError, match="plain cluster of"):
        writer().add_plain(0, b"x")
    twice = writer()
    twice.add_zero(1)
    with pytest.raises(ValueError, match="written twice"):
        twice.add_compressed(1, b"x")
    with pytest.raises(ValueError, match="written twice"):
        twice.add_zeros(0, 2)
    for first, count in ((-1, 1), (1, 2), (2, 1)):
        with pytest.raises(ValueError, match="inside the image"):
            writer().add_zeros(first, count)
