# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chains whose members lie here, in S3 or in both: read back, verified, mended, pruned; and one of a real guest."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _delete, _prune_node
from ansible_collections.vmforge.backup.plugins.module_utils._copies import DamagedError
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._find_backups import find_backups
from ansible_collections.vmforge.backup.plugins.module_utils._listing import list_entries
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_listing import OffsiteListing
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._prune import prune_backups
from ansible_collections.vmforge.backup.plugins.module_utils._restore_data import DiskMaker
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS, RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_source import find_source
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import ChainError
from ansible_collections.vmforge.backup.plugins.module_utils._verify import verify_backups
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VERIFY_ARGUMENTS
from tests.bed.backups import NODE
from tests.bed.chains import ChainMaker, make_chain
from tests.bed.guest import Guest
from tests.bed.records import Geometry
from tests.bed.records import verify as verify_records
from tests.bed.s3 import S3Server

from .driver import Engine
from .shelf import Shelf, results
from .test_restore import restore, twin

ONE = Policy(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0, max_total_gb=None)


@dataclass
class Laid:
    """A chain of which every byte is known, with copies in S3."""

    shelf: Shelf
    maker: ChainMaker
    server: S3Server

    @property
    def ids(self) -> list[str]:
        """Oldest first."""
        return [point.id for point in self.maker.points]

    def path(self, number: int, name: str = "vda.qcow2") -> Path:
        return self.maker.directory / self.ids[number] / name

    def upload(self, *numbers: int, drop: bool = False) -> None:
        self.shelf.upload(*(self.ids[number] for number in numbers), drop_local=drop)

    def key(self, number: int, name: str = "vda.qcow2") -> str:
        return f"{self.shelf.s3['s3_prefix']}/{self.shelf.vm}/{self.ids[number]}/{name}"

    def put(self, number: int, data: bytes) -> None:
        with contextlib.closing(self.server.client()) as client:
            client.put_object(Bucket=self.server.bucket, Key=self.key(number), Body=data)

    def get(self, number: int) -> bytes:
        with contextlib.closing(self.server.client()) as client:
            data: bytes = client.get_object(Bucket=self.server.bucket, Key=self.key(number))["Body"].read()
            return data

    def restored(self, number: int, place: Path) -> tuple[dict[str, bytes], DiskMaker]:
        """Every disk of a point as a restore makes it; nothing but these may be left."""
        params = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
        params.update(vm=self.shelf.vm, id=self.ids[number], backup_dir=str(self.shelf.path), node=NODE)
        params.update({name: value for name, value in self.shelf.s3.items() if name in RESTORE_ARGUMENTS})
        state = place / "state"
        state.mkdir(exist_ok=True)
        with contextlib.closing(self.shelf.store()) as store:
            chain, _warnings = find_source(RestoreOptions.from_params(params), store)
            maker = DiskMaker(chain.head, state, parallel=2, progress=Progress(None, {}), now="20261123T000000Z")
            found = {}
            for target in self.maker.disks:
                path = place / f"{target}.img"
                image = Image(chain.layers(target), path, "raw", False, None, path.with_name(f".{path.name}"))
                maker.prepare(image)
                found[target] = image.staged.read_bytes()
                image.staged.unlink()
        assert not list(place.glob(".*.fetched"))
        return found, maker

    def verify(self, **more: Any) -> dict[str, str]:
        params = {name: spec.get("default") for name, spec in VERIFY_ARGUMENTS.items()}
        params.update(vm=[self.shelf.vm], backup_dir=str(self.shelf.path), node=NODE, **self.shelf.s3)
        params.update(more)
        outcome = verify_backups(Request({name: params[name] for name in VERIFY_ARGUMENTS}))
        return {entry["id"]: entry["result"] for entry in outcome.values["backups"]}

    def whole(self) -> set[str]:
        """Ids of all that is listed as complete; each of them must have all that it needs."""
        with contextlib.closing(self.shelf.store()) as store:
            found = find_backups(self.shelf.path, store, [self.shelf.vm])
            assert not found.unreadable
            for backup in found.backups.values():
                assert all(member.copies for member in found.chain(backup).members)
            return {backup_id for _uuid, backup_id in found.backups}


@pytest.fixture
def laid(server: S3Server, tmp_path: Path) -> Laid:
    """Four backups in a row, all of them local."""
    s3 = {"offsite": "s3", **server.params(s3_prefix=f"c/{uuid.uuid4().hex[:8]}")}
    shelf = Shelf(tmp_path / "backups", s3=s3)
    maker = make_chain(shelf.path / shelf.vm, 4, uuid=shelf.vm, part_size=16 << 20)
    return Laid(shelf, maker, server)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_members_in_different_places_make_one_chain(laid: Laid, tmp_path: Path) -> None:
    points = laid.maker.points
    laid.upload(0, 3, drop=True)
    laid.upload(1)
    laid.path(1).write_bytes(flipped(laid.path(1).read_bytes()))
    for number, sources in enumerate(("s3", "local+s3", "local+s3", "local+s3")):
        found, maker = laid.restored(number, tmp_path)
        assert found == points[number].contents
        assert maker.sources["vdb"] == sources
        assert {backup_id for backup_id, _damage in maker.damages} == ({points[1].id} if number else set())
    with contextlib.closing(laid.shelf.store()) as store:
        listed = list_entries(laid.shelf.path, OffsiteListing(store), ())
    assert {entry["id"]: entry["chain_local"] for entry in listed} == dict.fromkeys(laid.ids, False)
    # The damaged copy is mended, and good for all that build on it.
    assert list(laid.verify(id=laid.ids[3]).items()) == [
        *zip(laid.ids, ["good", "repaired", "good"]),
        (laid.ids[3], "good"),
    ]
    assert laid.verify(id=laid.ids[1]) == {laid.ids[0]: "good", laid.ids[1]: "good"}
    # Without the options of S3 nothing is called bad for what cannot be seen.
    assert laid.verify(offsite="none") == dict.fromkeys(laid.ids, "elsewhere")
    # A member that is damaged in its only place, or lost: found, named, and nothing comes of it.
    good = laid.get(0)
    laid.put(0, flipped(good))
    assert laid.verify() == dict.fromkeys(laid.ids, "bad")
    with pytest.raises(DamagedError, match=f"Damaged in backup {laid.ids[0]}: every copy, vda.qcow2"):
        laid.restored(3, tmp_path)
    laid.put(0, good)
    assert laid.restored(3, fresh(tmp_path))[0] == points[3].contents
    shutil.rmtree(laid.maker.directory / laid.ids[2])
    with pytest.raises(ChainError, match=f"its ancestor {laid.ids[2]} is missing"):
        laid.restored(3, tmp_path)
    assert laid.verify(level="manifest") == {**dict.fromkeys(laid.ids[:2], "good"), laid.ids[3]: "bad"}


def fresh(place: Path) -> Path:
    path = place / uuid.uuid4().hex
    path.mkdir()
    return path


def test_from_s3_alone(laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host that never saw the machine; and what was fetched before an interruption is not fetched again."""
    laid.upload(0, 1, 2, 3)
    shutil.rmtree(laid.maker.directory)
    convert, calls = DiskMaker._convert, []

    def interrupted(maker: DiskMaker, *args: Any) -> None:
        calls.append({path.stat().st_ino for path in tmp_path.glob(".*.fetched")})
        if len(calls) == 1:
            raise KeyboardInterrupt
        convert(maker, *args)

    monkeypatch.setattr(DiskMaker, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        laid.restored(3, tmp_path)
    # All parts of the first disk are here: it does not matter that one of its objects is damaged now.
    laid.put(0, flipped(laid.get(0)))
    assert laid.restored(3, tmp_path)[0] == laid.maker.points[3].contents
    assert len(calls[0]) == 4
    assert calls[1] == calls[0]
    assert laid.whole() == set(laid.ids)


@pytest.mark.parametrize("keys", ["of the master", "of the node"])
def test_a_child_that_cannot_go_keeps_all_below_it(laid: Laid, tmp_path: Path, keys: str) -> None:
    """It is held after the listing was made."""
    kept = laid.maker.back_up({}).id
    laid.upload(0, drop=True)
    laid.upload(1, 2, 3, 4)
    params = laid.shelf.params(ONE, scope="s3" if keys == "of the master" else "all", node=NODE)
    with contextlib.closing(laid.shelf.store()) as store:
        OffsiteVm(store, laid.shelf.vm).backup(laid.ids[2]).put("hold.json", b'{"reason": "audit", "until": null}')
    outcome = prune_backups(Request(params))
    assert outcome.failure is None
    waiting = dict.fromkeys(laid.ids[:2], "waiting")
    assert results(outcome) == {kept: "kept", laid.ids[3]: "deleted", laid.ids[2]: "held", **waiting}
    if keys == "of the master":
        outcome = prune_backups(
            Request({**params, "scope": "local", "offsite": "none", "gone": outcome.values["gone"]})
        )
        assert results(outcome) == {kept: "kept", laid.ids[3]: "deleted", laid.ids[2]: "waiting", **waiting}
    assert laid.whole() == {kept, *laid.ids[:3]}
    assert laid.restored(2, fresh(tmp_path))[0] == laid.maker.points[2].contents


def test_a_copy_in_s3_stays_while_a_child_lies_on_a_node_alone(laid: Laid) -> None:
    """For that one goes later, and until then could not be restored."""
    kept = laid.maker.back_up({}).id
    laid.upload(0, 1, drop=True)
    laid.upload(4)
    gone: list[Any] = []
    for there in ({kept, *laid.ids[:2]}, {kept}):
        outcome = laid.shelf.prune(ONE, scope="s3", node=NODE)
        assert laid.whole() >= there
        gone = outcome.values["gone"]
        outcome = laid.shelf.prune(ONE, scope="local", offsite="none", gone=gone, node=NODE)
        assert outcome.failure is None
        assert laid.whole() == there


def test_kill_9_while_a_chain_is_deleted_leaves_whole_chains(laid: Laid, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each step: whatever is still called a backup can be restored, and the next run goes on."""
    kept = laid.maker.back_up({}).id
    laid.upload(0, 2, drop=True)
    laid.upload(1)
    left = {kept, *laid.ids[:4]}
    for number in range(40):
        pid = os.fork()
        if pid == 0:
            die_behind(monkeypatch, 1 + number % 3)
            with contextlib.suppress(BaseException):
                laid.shelf.prune(ONE, node=NODE)
            os._exit(0)
        died = os.waitpid(pid, 0)[1] == signal.SIGKILL
        there = laid.whole()
        assert there <= left
        left = there
        if not died:
            break
    assert (died, left) == (False, {kept})


def die_behind(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let this process kill itself behind so many steps of deletions."""
    done = []

    def dying(step: Callable[..., Any]) -> Callable[..., Any]:
        def die(*args: Any, **more: Any) -> Any:
            result = step(*args, **more)
            done.append(step)
            if len(done) == steps:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(10)
            return result

        return die

    for owner, name in ((S3Store, "delete"), (_prune_node, "begin_deletion"), (_delete, "remove_tree")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


@pytest.mark.parametrize("boots", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_guests_chain_comes_back_at_every_point(offsite: Engine, guest: Guest, boots: bool) -> None:
    """Made of a guest that runs and writes; one member lies in S3 alone."""
    entries, moments = [], []
    for more in ({}, {"delete_local_after_upload": True}, {}):
        guest.wait_more(6)
        before = guest.wrote()
        entries.append(offsite.backup(guest, type="auto", full_every="300d", **more))
        moments.append((before, guest.wrote()))
    assert [entry["type"] for entry in entries] == ["full", "incremental", "incremental"]
    listed = {entry["id"]: entry for entry in offsite.ready(guest, bucket=True)}
    assert [listed[entry["id"]]["chain_local"] for entry in entries] == [True, False, False]
    for entry, (before, after) in zip(entries, moments):
        name, place = f"{guest.name}-new", fresh(offsite.place)
        place.chmod(0o755)
        try:
            outcome = restore(offsite, guest, id=entry["id"], to=name, storage=str(place), networks="disconnect")
            assert outcome.values["chain"] == [one["id"] for one in reversed(entries) if one["id"] <= entry["id"]]
            images = {disk["target"]: disk for disk in outcome.values["disks"]}
            disks = [images[target] for target in ("vda", "vdb")]
            paths, formats = [disk["path"] for disk in disks], [disk["format"] for disk in disks]
            newest = verify_records(paths, Geometry.of(guest), formats=formats)
            assert before <= newest <= after
            if boots and entry is entries[-1]:
                copy = twin(guest, outcome)
                copy.start()
                assert int(copy.wait(r"found 1\.\.(\d+) intact").group(1)) == newest
        finally:
            for action in ("destroy", "undefine"):
                subprocess.run(["virsh", "-q", "-c", "qemu:///system", action, name], capture_output=True, check=False)
    shelf = Shelf(offsite.backup_dir, s3=offsite.s3, vm=guest.uuid, name=guest.name)
    outcome = shelf.prune(ONE)
    assert outcome.failure is None
    rows = outcome.values["vms"][0]["backups"]
    assert [row["result"] for row in rows] == ["kept"] * 3
    children = [entry["id"] for entry in reversed(entries[1:])]
    assert [row["reasons"][-1] for row in rows[1:]] == [f"ancestor of {child}" for child in children]
    with pytest.raises(InputError, match=f"is the parent of {entries[1]['id']}, which"):
        offsite.remove(guest, entries[0]["id"])
