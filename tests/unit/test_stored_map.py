# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which parts of a stored image a stretch of its disk needs; and restores that write while parts are still proved."""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils import (
    _restore_early,
    _restore_write,
    _stored_image,
    _stored_map,
)
from ansible_collections.vmforge.backup.plugins.module_utils._copies import Damage, DamagedError
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE, Buffer, ImageWriter
from ansible_collections.vmforge.backup.plugins.module_utils._restore_early import Proved, prove_and_write
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS, RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_source import find_source
from ansible_collections.vmforge.backup.plugins.module_utils._restore_write import DiskFile
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer
from ansible_collections.vmforge.backup.plugins.module_utils._stored_image import SourceError, StoredImages
from ansible_collections.vmforge.backup.plugins.module_utils._stored_map import (
    STRETCH_CLUSTERS,
    StoredTables,
    Stretch,
    Waiting,
    find_clusters,
    in_order,
    plan_stretches,
    read_tables,
    runs,
    table_parts,
)
from tests.bed.backups import NODE, UUID
from tests.bed.chains import make_chain

CLUSTERS = 20000


class Laid:
    """An image by the engine's writer, with where it put each cluster."""

    def __init__(self, order: Sequence[int], chance: random.Random, part_size: int) -> None:
        self.data = bytearray(CLUSTER_SIZE)
        self.places: dict[int, tuple[int, int]] = {}
        writer = ImageWriter(CLUSTERS * CLUSTER_SIZE, compression="zlib", append=self._append)
        for index in order:
            kind = chance.randrange(5)
            if kind == 0:
                writer.add_zero(index)
            elif kind == 1:
                writer.add_plain(index, struct.pack(">II", 7, index) + bytes(CLUSTER_SIZE - 8))
            else:
                writer.add_compressed(index, struct.pack(">II", 7, index) + bytes(chance.randrange(60000)))
        header = writer.finish()
        self.data[: len(header)] = header
        count = -(-len(self.data) // part_size)
        self.record = FileRecord("vda.qcow2", len(self.data), None, part_size, ("",) * count)
        self.read_parts: set[int] = set()

    def _append(self, data: Buffer) -> None:
        word, index = struct.unpack_from(">II", data) if len(data) >= 8 else (0, 0)
        if word == 7:
            self.places[index] = (len(self.data), len(data))
        self.data += data

    def read(self, offset: int, length: int) -> bytes:
        self.read_parts |= self.parts(offset, length)
        return bytes(self.data[offset : offset + length])

    def parts(self, offset: int, length: int) -> set[int]:
        size = self.record.part_size
        return set(range(offset // size + 1, (offset + length - 1) // size + 2)) if length else set()

    def tables(self) -> StoredTables | None:
        return read_tables(self.record, CLUSTERS * CLUSTER_SIZE, self.read)


@settings(max_examples=30)
@given(st.sets(st.integers(0, CLUSTERS - 1), max_size=40), st.randoms(use_true_random=False), st.integers(12, 18))
def test_a_stretch_needs_the_parts_of_all_its_clusters(
    indexes: set[int], chance: random.Random, part_bits: int
) -> None:
    laid = Laid(chance.sample(sorted(indexes), len(indexes)), chance, 1 << part_bits)
    tables = laid.tables()
    assert tables is not None
    reserved: list[int] = []
    stretches = plan_stretches([tables], lambda first, count: reserved.extend(range(first, first + count)))
    assert stretches is not None
    assert reserved == sorted(laid.places)
    proved = table_parts(laid.record, CLUSTERS * CLUSTER_SIZE)
    assert laid.read_parts <= set(proved)
    order = in_order(laid.record, CLUSTERS * CLUSTER_SIZE)
    assert order[: len(proved)] == proved
    assert sorted(order) == list(range(1, len(laid.record.parts) + 1))
    rank = 0
    for stretch in stretches:
        found = find_clusters([tables], stretch.number)
        inside = [index for index in sorted(laid.places) if index // STRETCH_CLUSTERS == stretch.number]
        assert [place.cluster for place in found] == inside
        assert (stretch.clusters, stretch.rank) == (len(inside), rank)
        needed: set[int] = set()
        for place in found:
            offset, length = laid.places[place.cluster]
            # Up to the end of the last sector.
            assert (place.offset, place.image) == (offset, 0)
            assert length <= place.length <= length + 511
            needed |= laid.parts(offset, min(place.length, laid.record.size - offset))
        assert stretch.parts == {(0, part) for part in needed}
        rank += len(inside)
    assert rank == len(laid.places)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"QFX\xfb"), (4, b"\0\0\0\2"), (20, b"\0\0\0\x11"), (24, bytes(8)), (32, b"\0\0\0\1"), (36, b"\0\0\0\1"),
        (40, struct.pack(">Q", CLUSTER_SIZE)), (48, struct.pack(">Q", CLUSTER_SIZE)), (60, b"\0\0\0\1"),
        (72, struct.pack(">Q", 1 << 4)), (72, struct.pack(">Q", 1 << 3)), (88, struct.pack(">Q", 1)),
        ("an L2 table", struct.pack(">Q", CLUSTER_SIZE)),
    ],
)  # fmt: skip
def test_of_an_image_that_is_laid_out_otherwise_all_parts_are_needed(offset: int | str, value: bytes) -> None:
    laid = Laid(range(40), random.Random(1), 4096)
    assert laid.tables() is not None
    at = offset if isinstance(offset, int) else struct.unpack_from(">Q", laid.data, 40)[0]
    laid.data[at : at + len(value)] = value
    assert laid.tables() is None


@pytest.mark.parametrize("entry", [1 << 40, 512, (1 << 62) | (1 << 40), (1 << 62) | 512])
def test_an_entry_that_points_out_of_its_file_is_believed_by_nobody(entry: int) -> None:
    laid = Laid(range(40), random.Random(1), 4096)
    (l1,) = struct.unpack_from(">Q", laid.data, 40)
    (l2,) = struct.unpack_from(">Q", laid.data, l1)
    struct.pack_into(">Q", laid.data, (l2 & ~(1 << 63)) + 8 * 50, entry)
    tables = laid.tables()
    assert tables is not None
    assert plan_stretches([tables], lambda _first, _count: None) is None


class Said:
    """Tables of which only the entries matter."""

    def __init__(self, virtual_size: int, entries: dict[int, int]) -> None:
        self.virtual_size = virtual_size
        self._entries = entries

    def entries(self, stretch: int) -> list[int]:
        first = stretch * STRETCH_CLUSTERS
        last = min(first + STRETCH_CLUSTERS, -(-self.virtual_size // CLUSTER_SIZE))
        return [self._entries.get(index, 0) for index in range(first, last)]


WORDS = st.dictionaries(st.integers(0, 9), st.sampled_from([0, 1, 5 << 16, 6 << 16 | 1, 1 << 62 | 999]), max_size=10)


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 10))
def test_the_topmost_image_that_says_anything_is_right(images: list[dict[int, int]], clusters: int) -> None:
    """And zeros hide what is below."""
    said: list[Any] = [Said(clusters * CLUSTER_SIZE - 512, words) for words in images]
    found = {place.cluster: (place.image, place.offset) for place in find_clusters(said, 0)}
    wanted = {}
    for index in range(clusters):
        number, entry = next(((n, words[index]) for n, words in enumerate(images) if words.get(index)), (0, 1))
        if entry >> 62 or not entry & 1:
            wanted[index] = (number, entry & ~(1 << 62))
    assert found == wanted
    assert list(found) == sorted(found)


PARTS = st.frozensets(st.tuples(st.integers(0, 1), st.integers(1, 5)), min_size=1)


@given(st.lists(PARTS, max_size=6), st.randoms(use_true_random=False))
def test_a_stretch_is_ready_with_the_last_of_its_parts(rows: list[Any], chance: random.Random) -> None:
    """And a part is of use until the last of its stretches is written."""
    stretches = [Stretch(number, 0, 1, parts) for number, parts in enumerate(rows)]
    waiting = Waiting(stretches)
    coming = [(image, part) for image in (0, 1) for part in range(1, 6)]
    chance.shuffle(coming)
    here: set[tuple[int, int]] = set()
    for one in coming:
        before = {stretch.number for stretch in stretches if stretch.parts <= here}
        here.add(one)
        after = {stretch.number for stretch in stretches if stretch.parts <= here}
        assert {stretch.number for stretch in waiting.note_good(*one)} == after - before
        assert waiting.note_good(*one) == []
    chance.shuffle(stretches)
    while stretches:
        written = stretches.pop()
        used = {part for stretch in stretches for part in stretch.parts}
        assert set(waiting.note_written(written)) == written.parts - used
        assert {part for part in coming if waiting.is_used(*part)} == used


@given(st.sets(st.integers(0, 30)))
def test_runs_have_no_gaps(numbers: set[int]) -> None:
    found = runs(sorted(numbers))
    assert [n for first, count in found for n in range(first, first + count)] == sorted(numbers)
    assert all(first + count < other for (first, count), (other, _count) in zip(found, found[1:]))


class Arriving:
    """The parts of a disk's images arrive one by one, in any order; until then there is something else.

    Args:
        place: Of the backups, and of the files.
        fails: At the end.

    Attributes:
        count: How many parts have come.
    """

    def __init__(self, image: Image, place: Path, chance: random.Random, *, fails: bool = False) -> None:
        self.image, self.place, self.chance, self.fails = image, place, chance, fails
        self.turns = threading.Semaphore(0)
        self.count = 0

    def wait(self, futures: Any, timeout: float | None = None, *more: Any) -> Any:
        """Whoever waits for more gets one part more."""
        if timeout is None:
            return wait(futures)
        self.turns.release()
        return wait(futures, 0.01, *more)

    def __call__(self, proved: Proved) -> list[Path]:
        paths = [self._layer(layer, proved) for layer in self.image.layers]
        if self.fails:
            raise DamagedError(Damage("every", "vda.qcow2", "injected"))
        return paths

    def _layer(self, layer: Layer, proved: Proved) -> Path:
        record, size = layer.record, layer.disk.virtual_size
        whole = (self.place / "b" / UUID / layer.id / record.name).read_bytes()
        path = self.place / f"{layer.id}.arriving"
        path.write_bytes(self.chance.randbytes(record.size))
        told = proved.begin(layer, path)
        order, tables = in_order(record, size), len(table_parts(record, size))
        with path.open("r+b", buffering=0) as stream:
            for number in [*order[:tables], *self.chance.sample(order[tables:], len(order) - tables)]:
                until = time.monotonic() + 120
                while not self.turns.acquire(timeout=0.01) and not proved._stopped:
                    assert time.monotonic() < until
                stream.seek((number - 1) * record.part_size)
                part = whole[stream.tell() : stream.tell() + record.part_size]
                stream.write(part)
                # Some are large, or there is no room for them.
                told(number, memoryview(part) if self.chance.random() < 0.7 else None)
                self.count += 1
        return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a chain; a cluster is a stretch."""
    monkeypatch.setattr(_stored_map, "STRETCH_CLUSTERS", 1)
    make_chain(tmp_path / "b" / UUID, 3, clusters=16, part_size=CLUSTER_SIZE)
    return tmp_path


def last_of(place: Path, image_format: str = "raw") -> Image:
    params = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
    params.update(vm=UUID, backup_dir=str(place / "b"), node=NODE)
    chain, _warnings = find_source(RestoreOptions.from_params(params), None)
    path = place / "vda.img"
    return Image(chain.layers("vda"), path, image_format, False, None, path.with_name(f".{path.name}"))


def arrive(image: Image, arriving: Arriving, monkeypatch: pytest.MonkeyPatch) -> int:
    """Prove and write it; how many stretches were written before all was proved."""
    monkeypatch.setattr(_restore_early, "wait", arriving.wait)
    with DiskFile(image, image.staged, log=arriving.place / "log", tell=lambda: None, parallel=2) as file:
        sources = prove_and_write(image, file, arriving, parallel=2)
        early = len(file._written)
        file.write_rest(sources)
    return early


def contents(image: Image, place: Path) -> bytes:
    found = place / "found.img"
    subprocess.run(["qemu-img", "convert", "-f", image.format, "-O", "raw", image.staged, found], check=True)
    if image.format == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", image.staged], check=True)
    return found.read_bytes()


def wanted(place: Path) -> bytes:
    return make_chain(place / "again", 3, clusters=16).points[-1].contents["vda"]


@pytest.mark.once
@pytest.mark.parametrize(("seed", "image_format"), [(1, "raw"), (2, "qcow2")])
def test_nothing_is_used_that_is_not_proved(
    place: Path, monkeypatch: pytest.MonkeyPatch, seed: int, image_format: str
) -> None:
    image = last_of(place, image_format)
    assert arrive(image, Arriving(image, place, random.Random(seed)), monkeypatch) > 2
    assert contents(image, place) == wanted(place)


@pytest.mark.once
def test_what_cannot_be_read_yet_is_read_when_all_is_proved(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was read from may be gone, and another copy be there."""
    image = last_of(place)
    arriving, write, failed = Arriving(image, place, random.Random(6)), DiskFile.write, []

    def fails_once(file: DiskFile, *arguments: Any) -> None:
        if file._written and not failed:
            failed.append(1)
            arriving.turns.release(1000)
            raise SourceError("cannot be read")
        write(file, *arguments)

    monkeypatch.setattr(DiskFile, "write", fails_once)
    assert arrive(image, arriving, monkeypatch) == 0
    assert failed
    assert contents(image, place) == wanted(place)


@pytest.mark.once
def test_an_image_that_turns_out_to_be_another_file_is_read_from_there(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it was good here; then all of it came from the other copy."""
    image = last_of(place, "qcow2")
    arriving, layer, begun = Arriving(image, place, random.Random(7)), Arriving._layer, []

    def twice(self: Arriving, one: Layer, proved: Proved) -> Path:
        if one is image.layers[-1] and not begun:
            begun.append(layer(self, one, proved))
            begun[0].rename(place / "was damaged")
            (place / "was damaged").write_bytes(b"")
            arriving.turns.release(1000)
        return layer(self, one, proved)

    monkeypatch.setattr(Arriving, "_layer", twice)
    arrive(image, arriving, monkeypatch)
    assert begun
    assert contents(image, place) == wanted(place)


@pytest.mark.once
def test_what_fails_ends_the_other_half(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = last_of(place)
    with pytest.raises(DamagedError, match="injected"):
        arrive(image, Arriving(image, place, random.Random(4), fails=True), monkeypatch)
    arriving = Arriving(image, place, random.Random(5))

    def stopped(*_arguments: object) -> None:
        raise CancelledError("by SIGTERM")

    monkeypatch.setattr(DiskFile, "write", stopped)
    with pytest.raises(CancelledError, match="by SIGTERM"):
        arrive(image, arriving, monkeypatch)
    assert arriving.count < sum(len(layer.record.parts) for layer in image.layers)


@pytest.mark.once
def test_a_disk_that_is_full_ends_it_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = last_of(place)
    arriving = Arriving(image, place, random.Random(8))

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_restore_write, "write_at", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        arrive(image, arriving, monkeypatch)
    assert caught.value.code == "target_full"
    assert arriving.count < sum(len(layer.record.parts) for layer in image.layers)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["no library", "another layout"])
def test_qemu_img_writes_what_we_cannot(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    image = last_of(place, "qcow2")
    if kind == "no library":
        monkeypatch.setattr(_stored_image, "make_decompressor", lambda _compression: None)
    else:
        monkeypatch.setattr(_stored_image, "read_tables", lambda *_arguments: None)
    arriving = Arriving(image, place, random.Random(3))
    arriving.turns.release(1000)
    assert arrive(image, arriving, monkeypatch) == 0
    assert contents(image, place) == wanted(place)


def test_what_is_proved_waits_in_memory_as_long_as_there_is_room(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_restore_early, "_MEMORY", 250)
    layers, part = last_of(place).layers[:1], memoryview(bytes(100))
    proved = Proved()
    told = proved.begin(layers[0], place)
    (begun,) = proved.look(layers)
    for number in (1, 2, 3):
        told(number, part)
    assert (begun.good, sorted(begun.kept)) == ([1, 2, 3], [1, 2]), "nobody made room, so nobody waited"
    proved.in_use = True
    waits = threading.Thread(target=told, args=(4, part))
    waits.start()
    proved.drop(begun, 3)
    waits.join(0.2)
    assert waits.is_alive()
    proved.drop(begun, 1)
    waits.join(60)
    assert (begun.good, sorted(begun.kept)) == ([1, 2, 3, 4], [2, 4])
    ends = threading.Timer(0.2, proved.stop)
    ends.start()
    with pytest.raises(CancelledError):
        told(5, part)
    ends.join()


@pytest.mark.once
def test_what_is_kept_in_memory_is_what_is_used(place: Path) -> None:
    """It was proved; the file may be another one by now."""
    shutil.rmtree(place / "b")
    make_chain(place / "b" / UUID, 3, clusters=16, part_size=16 << 20)
    image, proved = last_of(place, "qcow2"), Proved()
    with DiskFile(image, image.staged, log=place / "log", tell=lambda: None, parallel=1) as file:
        for layer in image.layers:
            path = place / "b" / UUID / layer.id / layer.record.name
            data = path.read_bytes()
            proved.begin(layer, path)(1, memoryview(data))
            path.write_bytes(data[:CLUSTER_SIZE].ljust(len(data), b"\0"))
        begun = proved.look(image.layers)
        paths = [one.path for one in begun]
        with StoredImages(image.layers, paths, [one.kept for one in begun]) as sources:
            for stretch in file.plan(sources) or []:
                file.write(sources, stretch)
        file.write_rest(paths)
    assert contents(image, place) == wanted(place)


@pytest.mark.once
def test_half_an_image_is_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header comes when all the rest is on the disk."""
    image = last_of(place, "qcow2")
    synced: list[bytes] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        if os.path.sameopenfile(descriptor, os.open(image.staged, os.O_RDONLY)):
            synced.append(image.staged.read_bytes()[:4])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    arrive(image, Arriving(image, place, random.Random(3)), monkeypatch)
    assert synced == [bytes(4), b"QFI\xfb"]
