# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chains: which images make a disk, and every way in which a chain is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, NotFoundError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup, open_backup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import ChainError, layered, open_chain
from tests.bed.backups import OTHER_UUID, UUID
from tests.bed.chains import ChainMaker, make_chain


@pytest.fixture
def maker(tmp_path: Path) -> ChainMaker:
    """Three backups of two disks; the second disk is stored in full in the second one, which makes a fourth a twig."""
    made = make_chain(tmp_path / UUID, 1)
    first = made.points[0]
    made.write({"vda": {1: 50}, "vdb": {2: 0}})
    second = made.back_up({"vda": [1]}, parent=first, full=["vdb"])
    made.back_up({"vda": [], "vdb": [0]}, parent=second)
    made.back_up({"vda": [1], "vdb": [2]}, parent=first)
    return made


def finder(maker: ChainMaker) -> Callable[[str], StoredBackup]:
    return lambda i: open_backup(UUID, i, directory=maker.directory / i, place=None)


def test_the_images_of_a_disk(maker: ChainMaker) -> None:
    first, second, third, twig = (point.id for point in maker.points)
    find = finder(maker)
    chain = open_chain(find(third), find)
    assert [member.manifest.id for member in chain.members] == [third, second, first]
    assert [layer.backup.manifest.id for layer in chain.layers("vda")] == [third, second, first]
    assert [layer.backup.manifest.id for layer in chain.layers("vdb")] == [third, second]
    assert [(layer.disk.target, layer.record.name) for layer in chain.layers("vdb")] == [("vdb", "vdb.qcow2")] * 2
    assert [member.manifest.id for member in open_chain(find(twig), find).members] == [twig, first]
    assert len(open_chain(find(first), find).layers("vda")) == 1
    with pytest.raises(NotFoundError, match="no disk vdc"):
        chain.layers("vdc")


def change(maker: ChainMaker, number: int, **values: Any) -> None:
    """Write another manifest, which contradicts no other rule."""
    point = maker.points[number]
    data = replace(point.manifest, **values).encode()
    (maker.directory / point.id / "manifest.json").write_bytes(data)


def without_vda(manifest: Manifest) -> dict[str, Any]:
    return {"disks": manifest.disks[1:], "files": manifest.files[1:]}


def test_what_is_missing(maker: ChainMaker) -> None:
    find = finder(maker)
    head = find(maker.points[2].id)
    (maker.directory / maker.points[0].id).rename(maker.directory / "gone")
    with pytest.raises(ChainError, match=f"its ancestor {maker.points[0].id} is missing") as caught:
        open_chain(head, find)
    assert (caught.value.code, caught.value.ancestor) == ("chain_broken", maker.points[0].id)
    assert f"Backup {head.manifest.id} of 'web1'" in caught.value.message


def test_what_is_another(maker: ChainMaker) -> None:
    find = finder(maker)
    head = find(maker.points[2].id)
    change(maker, 1, full_reason=None, tool={})
    with pytest.raises(ChainError, match=f"{maker.points[1].id} is not the one that it was made on"):
        open_chain(head, find)


def test_what_cannot_be_believed(maker: ChainMaker) -> None:
    find = finder(maker)
    head = find(maker.points[2].id)
    (maker.directory / maker.points[1].id / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ChainError, match=f"{maker.points[1].id} cannot be used: .*no manifest that can be believed"):
        open_chain(head, find)


def test_what_cannot_be_looked_at_now_is_not_called_broken(maker: ChainMaker) -> None:
    def away(_backup_id: str) -> StoredBackup:
        raise StorageError("away")

    with pytest.raises(StorageError, match="away"):
        open_chain(finder(maker)(maker.points[2].id), away)


def child_of(maker: ChainMaker, **values: Any) -> StoredBackup:
    """A child of the first backup, as it would be with another parent."""
    change(maker, 0, **values)
    find = finder(maker)
    parent = find(maker.points[0].id)
    wanted = {"id": parent.manifest.id, "manifest_sha256": parent.sha256}
    child = find(maker.points[3].id)
    return replace(child, manifest=replace(child.manifest, parent=wanted))


def test_a_disk_that_the_parent_does_not_have(maker: ChainMaker) -> None:
    child = child_of(maker, **without_vda(maker.points[0].manifest))
    with pytest.raises(ChainError, match="has no disk vda"):
        open_chain(child, finder(maker))


def test_a_disk_that_builds_on_another_file(maker: ChainMaker) -> None:
    find = finder(maker)
    child = find(maker.points[3].id)
    disks = tuple(replace(disk, backing=f"../{maker.points[0].id}/vdb.qcow2") for disk in child.manifest.disks)
    with pytest.raises(ChainError, match="is not what disk vda builds on"):
        open_chain(replace(child, manifest=replace(child.manifest, disks=disks)), find)


def test_another_machine(maker: ChainMaker) -> None:
    find = finder(maker)
    child = find(maker.points[3].id)
    other = replace(child.manifest, vm=replace(child.manifest.vm, uuid=OTHER_UUID))
    with pytest.raises(ChainError, match="is not the one that it was made on"):
        open_chain(replace(child, manifest=other), find)


def test_a_circle_ends(maker: ChainMaker) -> None:
    head = finder(maker)(maker.points[3].id)
    circle = replace(head, manifest=replace(head.manifest, parent={"id": head.manifest.id, "manifest_sha256": ""}))
    with pytest.raises(ChainError, match="is not older than"):
        open_chain(circle, lambda _id: circle)


def test_errors_of_others_are_not_hidden(maker: ChainMaker) -> None:
    def find(_backup_id: str) -> StoredBackup:
        raise FormatError("it has two heads.")

    with pytest.raises(ChainError, match="cannot be used: it has two heads[.]"):
        open_chain(finder(maker)(maker.points[1].id), find)


def test_the_description_for_qemu_is_complete() -> None:
    files = [{"driver": "file", "filename": name} for name in ("top", "middle", "base")]
    node: dict[str, Any] | None = layered(files)
    names = []
    while node is not None:
        assert set(node) == {"driver", "read-only", "file", "backing"}
        names.append(node["file"]["filename"])
        node = node["backing"]
    assert names == ["top", "middle", "base"]
    with pytest.raises(ValueError, match="without an image"):
        layered([])


def test_chains_that_the_bed_lays_are_what_they_claim(tmp_path: Path) -> None:
    maker = make_chain(tmp_path / UUID, 3)
    assert len({point.contents["vda"] for point in maker.points}) == 3
    assert [point.manifest.type for point in maker.points] == ["full", "incremental", "incremental"]
    for point in maker.points:
        assert open_chain(finder(maker)(point.id), finder(maker)).head.manifest == point.manifest
