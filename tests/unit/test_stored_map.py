# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which parts of a stored image a stretch of its disk needs; and restores that write while parts are still proved."""

from __future__ import annotations

import random
import struct
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils import _restore_early, _stored_map
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
from ansible_collections.vmforge.backup.plugins.module_utils._stored_map import (
    STRETCH_CLUSTERS,
    Stretch,
    in_order,
    map_image,
    next_run,
    plan_stretches,
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

    def map(self) -> list[tuple[range, int]] | None:
        return map_image(self.record, CLUSTERS * CLUSTER_SIZE, self.read)


@settings(max_examples=30)
@given(st.sets(st.integers(0, CLUSTERS - 1), max_size=40), st.randoms(use_true_random=False), st.integers(12, 18))
def test_a_stretch_needs_the_parts_of_all_its_clusters(
    indexes: set[int], chance: random.Random, part_bits: int
) -> None:
    laid = Laid(chance.sample(sorted(indexes), len(indexes)), chance, 1 << part_bits)
    found = laid.map()
    assert found is not None
    assert len(found) == -(-CLUSTERS // STRETCH_CLUSTERS)
    tables = table_parts(laid.record, CLUSTERS * CLUSTER_SIZE)
    assert laid.read_parts <= set(tables)
    order = in_order(laid.record, CLUSTERS * CLUSTER_SIZE)
    assert order[: len(tables)] == tables
    assert sorted(order) == list(range(1, len(laid.record.parts) + 1))
    for number, (parts, count) in enumerate(found):
        inside = [place for index, place in laid.places.items() if index // STRETCH_CLUSTERS == number]
        assert count == len(inside)
        assert set(parts) <= set(order)
        for place in inside:
            assert laid.parts(*place) <= set(parts)
        # No part is waited for without a reason: a cluster is at most 128 KiB long as far as its entry says.
        if inside:
            first, last = min(inside)[0], max(inside)[0]
            assert set(parts) <= laid.parts(first, last - first + 2 * CLUSTER_SIZE)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"QFX\xfb"), (4, b"\0\0\0\2"), (20, b"\0\0\0\x11"), (24, bytes(8)), (32, b"\0\0\0\1"), (36, b"\0\0\0\1"),
        (40, struct.pack(">Q", CLUSTER_SIZE)), (48, struct.pack(">Q", CLUSTER_SIZE)), (60, b"\0\0\0\1"),
        (72, struct.pack(">Q", 1 << 4)), (88, struct.pack(">Q", 1)), ("an L2 table", struct.pack(">Q", CLUSTER_SIZE)),
    ],
)  # fmt: skip
def test_of_an_image_that_is_laid_out_otherwise_all_parts_are_needed(offset: int | str, value: bytes) -> None:
    laid = Laid(range(40), random.Random(1), 4096)
    assert laid.map() is not None
    at = offset if isinstance(offset, int) else struct.unpack_from(">Q", laid.data, 40)[0]
    laid.data[at : at + len(value)] = value
    assert laid.map() is None


STRETCHES = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=12)


@given(STRETCHES, st.integers(1, 5))
def test_the_row_with_the_most_data_comes_next(rows: list[tuple[int, bool, bool]], least: int) -> None:
    """Against all rows, one after the other."""
    stretches = [Stretch((range(number, number + 1),), count) for number, (count, _good, _written) in enumerate(rows)]
    free = [good and not written for _count, good, written in rows]
    written = {number for number, row in enumerate(rows) if row[2]}
    found = next_run(stretches, written, lambda parts: all(rows[p][1] for part in parts for p in part), least=least)
    counts = {
        (a, b): sum(count for count, _good, _written in rows[a:b])
        for a in range(len(rows))
        for b in range(a + 1, len(rows) + 1)
        if all(free[a:b])
    }
    most = max(counts.values(), default=0)
    if found is None:
        assert most < least
    else:
        assert counts[(found.start, found.stop)] == most >= least


def test_a_smaller_image_has_nothing_behind_its_end() -> None:
    low, high = [(range(1, 3), 5)], [(range(2, 3), 1), (range(4, 5), 2)]
    size = (STRETCH_CLUSTERS + 1) * CLUSTER_SIZE
    assert plan_stretches([high, low], size) == [
        Stretch((range(2, 3), range(1, 3)), 6),
        Stretch((range(4, 5), range(0)), 2),
    ]
    assert len(plan_stretches([high, low], CLUSTER_SIZE)) == 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster is a stretch, and worth a program."""
    monkeypatch.setattr(_stored_map, "STRETCH_CLUSTERS", 1)
    monkeypatch.setattr(_stored_map, "STRETCH", CLUSTER_SIZE)
    monkeypatch.setattr(_restore_early, "STRETCH", CLUSTER_SIZE)
    monkeypatch.setattr(_restore_early, "_LEAST_CLUSTERS", 1)


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

    def wait(self, futures: Sequence[Future[Any]], *, timeout: float) -> Any:
        """Whoever waits for more gets one part more."""
        self.turns.release()
        return wait(futures, timeout=min(timeout, 0.01))

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
                assert self.turns.acquire(timeout=300)
                stream.seek((number - 1) * record.part_size)
                stream.write(whole[stream.tell() : stream.tell() + record.part_size])
                told(number)
                self.count += 1
        return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a chain; a cluster is a stretch, and worth a program."""
    monkeypatch.setattr(_stored_map, "STRETCH_CLUSTERS", 1)
    monkeypatch.setattr(_stored_map, "STRETCH", CLUSTER_SIZE)
    monkeypatch.setattr(_restore_early, "STRETCH", CLUSTER_SIZE)
    monkeypatch.setattr(_restore_early, "_LEAST_CLUSTERS", 1)
    make_chain(tmp_path / "b" / UUID, 3, clusters=16, part_size=CLUSTER_SIZE)
    return tmp_path


def last_of(place: Path, image_format: str = "raw") -> Image:
    params = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
    params.update(vm=UUID, backup_dir=str(place / "b"), node=NODE)
    chain, _warnings = find_source(RestoreOptions.from_params(params), None)
    path = place / "vda.img"
    return Image(chain.layers("vda"), path, image_format, False, None, path.with_name(f".{path.name}"))


def arrive(image: Image, arriving: Arriving, monkeypatch: pytest.MonkeyPatch) -> int:
    """Prove and write it; how many pieces were written before all was proved."""
    monkeypatch.setattr(_restore_early, "wait", arriving.wait)
    with DiskFile(image, image.staged, log=arriving.place / "log", tell=lambda: None) as file:
        sources = prove_and_write(image, file, arriving)
        pieces = sorted(file._written)
        assert all(one[1] <= other[0] for one, other in zip(pieces, pieces[1:])), "written twice"
        file.write_rest(sources)
    return len(pieces)


@pytest.mark.once
@pytest.mark.parametrize(("seed", "image_format"), [(1, "raw"), (2, "qcow2")])
def test_nothing_is_used_that_is_not_proved(
    place: Path, monkeypatch: pytest.MonkeyPatch, seed: int, image_format: str
) -> None:
    image = last_of(place, image_format)
    assert arrive(image, Arriving(image, place, random.Random(seed)), monkeypatch) > 2
    found = place / "found.img"
    subprocess.run(["qemu-img", "convert", "-f", image_format, "-O", "raw", image.staged, found], check=True)
    chain = make_chain(place / "again", 3, clusters=16)
    assert found.read_bytes() == chain.points[-1].contents["vda"]
    if image_format == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", image.staged], check=True)


@pytest.mark.once
def test_a_piece_that_cannot_be_written_yet_is_written_when_all_is_proved(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was read from may be gone, and another copy be there."""
    image = last_of(place)
    arriving, run, failed = Arriving(image, place, random.Random(6)), DiskFile._run, []

    def fails_once(file: DiskFile, arguments: Sequence[str], watch: Any) -> None:
        if arguments[0] == "convert" and len(file._written) == 1 and not failed:
            failed.append(1)
            arriving.turns.release(1000)
            raise StorageError("cannot be read")
        run(file, arguments, watch)

    monkeypatch.setattr(DiskFile, "_run", fails_once)
    assert arrive(image, arriving, monkeypatch) == 0
    assert failed
    chain = make_chain(place / "again", 3, clusters=16)
    assert image.staged.read_bytes() == chain.points[-1].contents["vda"]


@pytest.mark.once
def test_what_fails_ends_the_other_half(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = last_of(place)
    with pytest.raises(DamagedError, match="injected"):
        arrive(image, Arriving(image, place, random.Random(4), fails=True), monkeypatch)
    arriving = Arriving(image, place, random.Random(5))

    def stopped(*_arguments: object) -> None:
        arriving.turns.release(1000)
        raise CancelledError("by SIGTERM")

    monkeypatch.setattr(DiskFile, "write", stopped)
    with pytest.raises(CancelledError, match="by SIGTERM"):
        arrive(image, arriving, monkeypatch)
    assert arriving.count < sum(len(layer.record.parts) for layer in image.layers)
