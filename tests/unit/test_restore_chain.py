# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of chains: every point comes back byte by byte, and what is damaged anywhere below it never does."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils import _restore_check
from ansible_collections.vmforge.backup.plugins.module_utils._copies import DamagedError
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, NotFoundError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._find_backups import find_backups
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._restore_data import DiskMaker
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS, RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_source import find_source
from ansible_collections.vmforge.backup.plugins.module_utils._restore_write import DiskFile
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import UnreadableError
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import ChainError, StoredChain
from ansible_collections.vmforge.backup.plugins.module_utils._verify import verify_backups
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VERIFY_ARGUMENTS
from tests.bed.backups import DAMAGERS, NODE, OTHER_UUID, UUID
from tests.bed.chains import ChainMaker, Disk, Point, make_chain
from tests.bed.chains import cluster as content_of

CLUSTER = 65536


def source(backups: Path, backup_id: str, **more: object) -> StoredChain:
    params = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
    params.update(vm=UUID, id=backup_id, backup_dir=str(backups), node=NODE, **more)
    return find_source(RestoreOptions.from_params(params), None)[0]


def image_of(chain: StoredChain, target: str, place: Path, image_format: str = "raw") -> Image:
    path = place / f"{target}.{image_format}"
    return Image(chain.layers(target), path, image_format, False, None, path.with_name(f".{path.name}"))


def maker_of(chain: StoredChain, place: Path) -> DiskMaker:
    state = place / "state"
    state.mkdir(exist_ok=True)
    return DiskMaker(chain.head, state, parallel=1, progress=Progress(None, {}), now="20261123T000000Z")


def restored(backups: Path, backup_id: str, place: Path, **more: object) -> dict[str, bytes]:
    """Every disk of a backup, as a restore makes it that was never tried before."""
    chain = source(backups, backup_id, **more)
    fresh = place / "fresh"
    fresh.mkdir()
    try:
        maker = maker_of(chain, fresh)
        images = [image_of(chain, disk.target, fresh) for disk in chain.head.manifest.disks]
        for image in images:
            maker.prepare(image)
        return {image.disk.target: image.staged.read_bytes() for image in images}
    finally:
        shutil.rmtree(fresh)


@pytest.mark.once
def test_every_point_comes_back(tmp_path: Path) -> None:
    points = make_chain(tmp_path / "b" / UUID, 5).points
    for point in points:
        assert restored(tmp_path / "b", point.id, tmp_path) == point.contents
    # Nothing in an image is followed: neither its name for the one below, nor where it lies.
    top = tmp_path / "b" / UUID / points[-1].id / "vda.qcow2"
    assert f"../{points[-2].id}/vda.qcow2".encode() in top.read_bytes()[:CLUSTER]
    decoy = tmp_path / UUID / points[-2].id
    decoy.mkdir(parents=True)
    shutil.copy(tmp_path / "b" / UUID / points[0].id / "vda.qcow2", decoy)
    moved = tmp_path / UUID / points[-1].id
    moved.mkdir()
    shutil.copy(top, moved)
    chain = source(tmp_path / "b", points[-1].id)
    maker = maker_of(chain, tmp_path)
    image = image_of(chain, "vda", tmp_path)
    paths = maker.prove(image)
    with DiskFile(image, image.staged, log=tmp_path / "log", tell=lambda: None, parallel=2) as file:
        file.write_rest([moved / "vda.qcow2", *paths[1:]])
    assert image.staged.read_bytes() == points[-1].contents["vda"]


def test_a_chain_opens_as_it_lies(tmp_path: Path) -> None:
    """Without anything of ours."""
    points = make_chain(tmp_path / UUID, 3).points
    for point in points:
        out = tmp_path / "out.img"
        path = tmp_path / UUID / point.id / "vdb.qcow2"
        subprocess.run(["qemu-img", "check", "-q", str(path)], check=True)
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(path), str(out)], check=True)
        assert out.read_bytes() == point.contents["vdb"]


SIZES = st.integers(1, 6 * CLUSTER // 512).map(lambda sectors: sectors * 512)
STEP = st.tuples(st.dictionaries(st.integers(0, 5), st.integers(0, 9), max_size=4), st.none() | SIZES, st.booleans())


@pytest.mark.once
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=SIZES, steps=st.lists(STEP, min_size=1, max_size=4), branch=st.booleans())
def test_whatever_a_guest_does_every_point_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    first: int,
    steps: list[tuple[dict[int, int], int | None, bool]],
    branch: bool,
) -> None:
    """Writes, zeros, other sizes, disks in full, and two children of one parent."""
    place = tmp_path_factory.mktemp("chain")
    maker = ChainMaker(place / "b" / UUID, {"vda": Disk(first)})
    parents: list[Point | None] = [None]
    dirty: set[int] = set()
    for words, size, full in steps:
        if size is not None:
            # The engine takes such a disk in full; readers need not rely on that where it grows.
            full = full or size < maker.disks["vda"].size
            dirty.add(maker.disks["vda"].size // CLUSTER)
            maker.grow("vda", size)
        last = -(-maker.disks["vda"].size // CLUSTER)
        mine = {index: word for index, word in words.items() if index < last}
        maker.write({"vda": mine})
        dirty = {index for index in dirty | set(mine) if index < last}
        point = maker.back_up({"vda": dirty}, parent=parents[-1], full=["vda"] if full else [])
        if not (branch and len(parents) == 2):
            # Otherwise the next one builds on the same parent, and holds all since that.
            parents.append(point)
            dirty = set()
        elif full or size is not None:
            parents.append(point)
            dirty = set()
    for point in maker.points:
        assert restored(place / "b", point.id, place) == point.contents
    shutil.rmtree(place)


def test_a_disk_that_grew_reads_zeros_beyond_the_end_of_its_parents(tmp_path: Path) -> None:
    maker = ChainMaker(tmp_path / "b" / UUID, {"vda": Disk(CLUSTER + 512, {0: 4, 1: 5})})
    parent = maker.back_up({})
    maker.disks["vda"] = Disk(4 * CLUSTER, {0: 4, 1: 5, 3: 6})
    grown = maker.back_up({"vda": [3]}, parent=parent)
    expected = content_of(4) + content_of(5)[:512] + bytes(2 * CLUSTER - 512) + content_of(6)
    assert restored(tmp_path / "b", grown.id, tmp_path)["vda"] == expected


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_what_an_earlier_run_finished_is_taken(tmp_path: Path, image_format: str) -> None:
    points = make_chain(tmp_path / "b" / UUID, 3).points
    chain = source(tmp_path / "b", points[-1].id)
    image = image_of(chain, "vda", tmp_path, image_format)
    maker_of(chain, tmp_path).prepare(image)
    stamp = image.staged.stat().st_ino
    again = maker_of(chain, tmp_path)
    again.prepare(image)
    assert (again.sources, image.staged.stat().st_ino) == ({"vda": "an earlier run"}, stamp)
    # Of another chain with the same top it is not.
    other = replace(chain.members[2], copies=chain.members[2].copies)
    layers = (*image.layers[:2], replace(image.layers[2], backup=other, record=image.layers[1].record))
    assert not again._is_done(replace(image, layers=layers))


def test_what_is_only_elsewhere_is_told_before_anything_is_done(tmp_path: Path) -> None:
    points = make_chain(tmp_path / "b" / UUID, 3).points
    (tmp_path / "b" / UUID / points[1].id / "offsite.json").write_text('{"local": "dropped", "completed_at": "x"}')
    with pytest.raises(InputError, match=f"{points[2].id} of 'web1' needs {points[1].id}, whose disks lie only in S3"):
        source(tmp_path / "b", points[2].id)
    assert restored(tmp_path / "b", points[0].id, tmp_path) == points[0].contents


def test_the_space_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = make_chain(tmp_path / "b" / UUID, 3).points
    chain = source(tmp_path / "b", points[2].id)
    away = tuple(replace(layer, backup=replace(layer.backup, copies=())) for layer in chain.layers("vda"))
    image = replace(image_of(chain, "vda", tmp_path), layers=away)
    fetched = sum(layer.record.size for layer in away)
    needed = image.data_bytes + (16 << 20) + fetched
    monkeypatch.setattr(_restore_check, "reserve_bytes", lambda _path: 0)
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(_restore_check, "free_bytes", lambda _path, free=free: free)
        if fits:
            _restore_check._refuse_full([image])
            # What two disks fetch is not there at the same time.
            monkeypatch.setattr(_restore_check, "free_bytes", lambda _path: 2 * needed - fetched)
            _restore_check._refuse_full([image, replace(image, path=tmp_path / "other.img")])
        else:
            with pytest.raises(StorageError, match="can be used there"):
                _restore_check._refuse_full([image])
    # A part of it stands there already.
    image.fetched(away[2]).write_bytes(os.urandom(away[2].record.size))
    _restore_check._refuse_full([image])


def results(backups: Path, **more: object) -> dict[str, str]:
    params = {name: spec.get("default") for name, spec in VERIFY_ARGUMENTS.items()}
    params.update(backup_dir=str(backups), node=NODE, **more)
    outcome = verify_backups(Request(params))
    return {entry["id"]: entry["result"] for entry in outcome.values["backups"]}


SKILFUL = "another machine's vda and vdb"


def damage_and_look(place: Path, good: Path, points: list[Point], chance: random.Random, number: int) -> None:
    """Damage one member in one way; nothing above it may be called good, or come back as anything but what it was."""
    backups = place / "bad"
    shutil.copytree(good / UUID, backups / UUID)
    victim = chance.randrange(len(points))
    path = backups / UUID / points[victim].id
    for turn in itertools.count(number):
        what = hurt(path, good, chance, turn)
        # Zeros where there were zeros, or two files that are equal: then in another way.
        if not is_same(path, good / UUID / path.name):
            break
    # A whole other backup that says it is this one is told from it by a catalogue only; by its children too.
    sums = {point.id: point.as_parent["manifest_sha256"] for point in points} if SKILFUL in what else {}
    found = results(backups, checksums={f"{UUID}/{backup_id}": digest for backup_id, digest in sums.items()})
    for index, point in enumerate(points):
        if index < victim:
            assert found[point.id] == "good", (what, index)
            continue
        assert found.get(point.id) != "good", (what, index)
        if index not in (victim, len(points) - 1):
            continue
        try:
            came: Mapping[str, bytes] = restored(backups, point.id, place, checksum_sha256=sums.get(point.id))
        except (DamagedError, ChainError):
            continue
        except (UnreadableError, NotFoundError) as error:
            # There is no such backup: its own manifest is damaged or gone.
            assert index == victim, (what, error)
            continue
        # The damage is in a file that no disk is in.
        assert came == point.contents, (what, index)
        assert "vd" not in what, (what, index)
    shutil.rmtree(backups)


def is_same(path: Path, other: Path) -> bool:
    return path.is_dir() and {p.name: p.read_bytes() for p in path.iterdir()} == {
        p.name: p.read_bytes() for p in other.iterdir()
    }


def hurt(path: Path, good: Path, chance: random.Random, number: int) -> str:
    """As disks, networks and people do: also with a whole member, or files, of other backups of the same machine."""
    other = good / OTHER_UUID / path.name
    kinds = len(DAMAGERS) + 3
    if number % kinds < len(DAMAGERS):
        return DAMAGERS[number % kinds](path, other, chance)
    siblings = sorted(entry for entry in (good / UUID).iterdir() if entry.is_dir() and entry.name != path.name)
    if number % kinds == len(DAMAGERS):
        shutil.rmtree(path)
        return "all of vda and vdb is missing"
    sibling = chance.choice(siblings)
    if number % kinds == len(DAMAGERS) + 1:
        shutil.copy(sibling / "vda.qcow2", path)
        return f"vda of {sibling.name}"
    shutil.rmtree(path)
    shutil.copytree(other, path)
    value = (path / "manifest.json").read_text()
    # Skilful: it says that it is this machine's.
    (path / "manifest.json").write_text(value.replace(OTHER_UUID, UUID))
    return SKILFUL


def lay_two(place: Path) -> list[Point]:
    """Two machines with chains of the same ids, all with more than one part in each image."""
    points = make_chain(place / "good" / UUID, 4).points
    make_chain(place / "good" / OTHER_UUID, 4, clusters=5, uuid=OTHER_UUID, name="db1")
    return points


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: what is synced there costs nothing."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


@pytest.mark.once
def test_damages_in_any_member_are_found_and_never_restored(memory: Path) -> None:
    points = lay_two(memory)
    assert set(results(memory / "good", vm=[UUID]).values()) == {"good"}
    chance = random.Random(5)
    for number in range(33):
        damage_and_look(memory, memory / "good", points, chance, number)


@pytest.mark.exhaustive
def test_a_thousand_damages_in_chains(memory: Path) -> None:
    points = lay_two(memory)
    assert set(results(memory / "good", vm=[UUID]).values()) == {"good"}
    chance = random.Random(6)
    for number in range(1001):
        damage_and_look(memory, memory / "good", points, chance, number)


def test_the_manifest_that_a_child_names_is_believed(tmp_path: Path) -> None:
    """Where the parent itself cannot tell which of two is right, nothing else is lost."""
    points = make_chain(tmp_path / "b" / UUID, 2).points
    found = find_backups(tmp_path / "b", None, [UUID])
    assert found.backups[UUID, points[0].id].sha256 == points[0].as_parent["manifest_sha256"]
    # A child that names another one, and is alone with that, makes no parent bad.
    manifest = replace(points[1].manifest, parent={"id": points[0].id, "manifest_sha256": "0" * 64})
    (tmp_path / "b" / UUID / points[1].id / "manifest.json").write_bytes(manifest.encode())
    found = find_backups(tmp_path / "b", None, [UUID])
    assert found.backups[UUID, points[0].id].manifest == points[0].manifest
    with pytest.raises(ChainError):
        found.chain(found.backups[UUID, points[1].id])
