# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Incremental backups of a guest that writes, zeroes and discards: each holds exactly what its own job exported."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._capture import Capture
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._open_disk import OpenDisk
from tests.bed import records
from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.guest import run as run_program
from tests.bed.s3 import S3Server

from .driver import Engine, Entry, assert_unhurt, downloaded, noise, run, virtual_size, wait_for

Take = Callable[..., Entry]
RAW = "an image of format raw keeps no bitmap"
PORTS = "".join(f"<controller type='pci' model='pcie-root-port' index='{number}'/>" for number in range(1, 8))


@pytest.fixture(scope="module")
def machine(libvirt_daemon: None) -> Iterator[Guest]:
    """Records of one cluster, so that what it zeroes or discards are whole clusters."""
    with scratch_directory("incremental") as place:
        raw = place / "noise.raw"
        run_program(["truncate", "-s", str(48 * MIB), str(raw)])
        # Also where a disk that is shrunk and grown again loses it.
        noise(raw, (28 * MIB, 8 * MIB))
        run_program(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(place / "vda.qcow2")])
        disks = [
            Disk(place / "vda.qcow2"),
            Disk(place / "vdb.raw", format="raw", target="vdb", size=12 * MIB),
            Disk(place / "vdc.qcow2", target="vdc", size=16 * MIB),
        ]
        made = Guest(f"i{uuid.uuid4().hex[:6]}", place, disks, kib=64, slots=24, mix=True, pause=200_000, extra=PORTS)
        with made:
            made.wait_more(4)
            yield made


@pytest.fixture
def guest(machine: Guest) -> Guest:
    """It runs and writes, whatever the test before did to it."""
    if machine.state() == "paused":
        machine.virsh("resume", machine.name)
    if machine.state() != "running":
        machine.start()
    machine.wait_more(4)
    return machine


@pytest.fixture
def asleep(machine: Guest) -> Guest:
    """QEMU is there, with its disks and bitmaps, and its processor stands still: for what depends on no new write."""
    if machine.state() == "running":
        machine.virsh("suspend", machine.name)
    if machine.state() != "paused":
        machine.virsh("start", machine.name, "--paused")
    return machine


@pytest.fixture(scope="module")
def engine(machine: Guest) -> Engine:
    """One for all tests of the guest, as on a node."""
    return Engine(machine.directory)


@pytest.fixture
def take(engine: Engine, machine: Guest, monkeypatch: pytest.MonkeyPatch) -> Take:
    """Makes a backup, and proves that its chain holds byte by byte what the job exported."""
    stream = Capture._stream
    truth = machine.directory / "truth"
    truth.mkdir(exist_ok=True)

    def copy_first(capture: Capture, opened: Sequence[OpenDisk]) -> None:
        for item in opened:
            export = item.export
            uri = f"nbd+unix:///{export.name}?socket={export.socket}"
            argv = ["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(truth / item.disk.target)]
            run_program(argv)
        stream(capture, opened)

    monkeypatch.setattr(Capture, "_stream", copy_first)

    def back_up(wanted: str | None = None, reason: str = "", **more: Any) -> Entry:
        if machine.state() == "running":
            machine.wait_more(3)
        entry = engine.backup(machine, **{"type": "auto", "quiesce": "never", "full_every": "300d", **more})
        assert entry["type"] == (wanted or entry["type"]), entry
        assert reason in (entry["full_reason"] or ""), entry
        if "local" in entry["copies"]:
            prove(Path(entry["path"]), truth)
        for name in truth.iterdir():
            name.unlink()
        return entry

    return back_up


def prove(path: Path, truth: Path) -> None:
    """The images, each with what its header names below it, are what the guest had, and as large."""
    for disk in json.loads((path / "manifest.json").read_bytes())["disks"]:
        original = truth / disk["target"]
        run_program(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(path / disk["file"]), str(original)])
        assert original.stat().st_size == disk["virtual_size"]
        assert (disk["type"] == "incremental") == (disk["backing"] is not None)


def types(entry: Entry) -> dict[str, str]:
    return {disk["target"]: disk["type"] for disk in entry["disks"]}


def bitmaps(guest: Guest, target: str = "vda") -> list[str]:
    """Names of the bitmaps in an image, all of them once the guest is off."""
    image = guest.directory / f"{target}.qcow2"
    said = json.loads(run(["qemu-img", "info", "-U", "--output=json", str(image)]))
    return [bitmap["name"] for bitmap in said["format-specific"]["data"].get("bitmaps", ())]


def manifest_of(entry: Entry) -> Any:
    return json.loads((Path(entry["path"]) / "manifest.json").read_bytes())


def again(guest: Guest) -> None:
    """Start it."""
    guest.start()
    guest.wait_more(4)


def test_a_chain(engine: Engine, guest: Guest, take: Take) -> None:
    first = take("full", "no backup here has a checkpoint")
    entries = [first]
    for _turn in range(3):
        guest.wait_more(8)
        entry = take("incremental", f"vdb: {RAW}")
        assert types(entry) == {"vda": "incremental", "vdb": "full", "vdc": "incremental"}
        assert entry["parent"] == entries[-1]["id"]
        assert entry["disks"][1]["full_reason"] == RAW
        assert entry["disks"][0]["full_reason"] is None
        parent = manifest_of(entry)["parent"]
        assert parent == {"id": entries[-1]["id"], "manifest_sha256": entries[-1]["checksum_sha256"]}
        # What did not change is neither read nor stored.
        assert entry["size_bytes"] < first["size_bytes"] // 3
        entries.append(entry)
    name = manifest_of(entry)["checkpoint"]
    assert name == f"vmforge-{entry['id']}-{guest.uuid[:8]}"
    kept = (Path(entry["path"]) / "checkpoint.xml").read_text()
    assert name in kept
    assert "<parent>" not in kept
    assert [disk["bitmap_granularity"] for disk in manifest_of(entry)["disks"]] == [65536, None, 65536]
    # The machine's own life goes on as if we were not there.
    assert guest.virsh("checkpoint-list", guest.name).strip() == ""
    # Of any 24 records in a row some discard or zero a place of the first disk.
    images = [str(Path(made["path"]) / "vda.qcow2") for made in entries[1:]]
    maps = [json.loads(run(["qemu-img", "map", "-U", "--output=json", image])) for image in images]
    assert any(part["zero"] and part["depth"] == 0 for parts in maps for part in parts), "discarded clusters are told"
    assert_unhurt(engine, guest)
    # All points, also the older ones.
    for old in entries:
        for disk in manifest_of(old)["disks"]:
            said = json.loads(run(["qemu-img", "info", "-U", "--output=json", str(Path(old["path"]) / disk["file"])]))
            assert said.get("backing-filename") == disk["backing"]
            assert said.get("backing-filename-format") == ("qcow2" if disk["backing"] else None)
        images = [Path(old["path"]) / f"{target}.qcow2" for target in guest.records_on or ()]
        records.verify(images, records.Geometry.of(guest))


def test_disks_that_change(engine: Engine, guest: Guest, take: Take) -> None:
    take()
    guest.virsh("blockresize", guest.name, "vdc", f"{20 * MIB}B")
    extra = Disk(guest.directory / "vdx.qcow2", target="vdx", size=4 * MIB)
    extra.create()
    plug = ["--live", "--subdriver", "qcow2", "--targetbus", "virtio"]
    guest.virsh("attach-disk", guest.name, str(extra.path), "vdx", *plug)
    entry = take("incremental", f"vdc: it had {16 * MIB} bytes")
    assert types(entry) == {"vda": "incremental", "vdb": "full", "vdc": "full", "vdx": "full"}
    assert "vdx: backup" in entry["full_reason"]
    assert set(types(take("incremental")).values()) == {"incremental", "full"}
    guest.virsh("detach-disk", guest.name, "vdx", "--live")
    wait_for("the disk to go", lambda: "vdx" not in guest.virsh("domblklist", guest.name))
    assert types(take("incremental")) == {"vda": "incremental", "vdb": "full", "vdc": "incremental"}
    assert virtual_size(Path(take()["path"]) / "vdc.qcow2", "qcow2") == 20 * MIB


def test_what_operators_do(engine: Engine, guest: Guest, take: Take) -> None:
    take()
    snapshot = ["--disk-only", "--diskspec", f"vda,file={guest.directory}/snap.qcow2", "--diskspec", "vdb,snapshot=no"]
    snapshot += ["--diskspec", "vdc,snapshot=no", "--no-metadata"]
    guest.virsh("snapshot-create-as", guest.name, "s1", *snapshot)
    guest.wait_more(5)
    guest.virsh("blockcommit", guest.name, "vda", "--active", "--pivot", "--wait")
    (guest.directory / "snap.qcow2").unlink()
    # libvirt has merged the bitmaps.
    assert types(take("incremental"))["vda"] == "incremental"
    guest.virsh("snapshot-create-as", guest.name, "s1", *snapshot)
    entry = take("incremental", "vda: its image is another")
    assert types(entry)["vda"] == "full"
    guest.virsh("blockcommit", guest.name, "vda", "--active", "--pivot", "--wait")
    (guest.directory / "snap.qcow2").unlink()
    take("incremental", "vda: its image is another")
    # Others' checkpoints are theirs.
    guest.virsh("checkpoint-create-as", guest.name, "theirs", "--diskspec", "vdb,checkpoint=no")
    take("incremental")
    take("incremental")
    assert guest.virsh("checkpoint-list", guest.name, "--name").split() == ["theirs"]
    guest.virsh("checkpoint-delete", guest.name, "theirs")
    # A domain with checkpoints cannot be undefined.
    xml = guest.directory / "defined.xml"
    xml.write_text(guest.virsh("dumpxml", guest.name, "--inactive"))
    guest.virsh("undefine", guest.name)
    guest.virsh("define", str(xml))
    take("incremental")


def test_parents_in_s3_only(engine: Engine, guest: Guest, take: Take, server: S3Server) -> None:
    s3 = {"offsite": "s3", "delete_local_after_upload": True, **server.params(s3_prefix=f"i/{uuid.uuid4().hex[:8]}")}
    first = take(type="full", **s3)
    entry = take("incremental", **s3)
    assert (entry["copies"], entry["parent"]) == (["s3"], first["id"])
    # Mixed: what is here builds on what is there.
    both = {**s3, "delete_local_after_upload": False, "full_every": "300d"}
    mixed = engine.backup(guest, **both, type="incremental", quiesce="never")
    assert mixed["copies"] == ["local", "s3"]
    chain = guest.directory / "chain"
    for member in (first, entry, mixed):
        with downloaded(Engine(guest.directory, s3), server, member["s3_key"]) as path:
            shutil.copytree(path, chain / member["id"])
        images = [chain / member["id"] / f"{target}.qcow2" for target in guest.records_on or ()]
        assert records.verify(images, records.Geometry.of(guest)) > 0
    # Without S3 nobody can look at the parent.
    take("full", f"its ancestor {entry['id']} is missing")


@pytest.mark.exhaustive
def test_a_parent_that_is_deleted_in_s3_meanwhile(
    engine: Engine, guest: Guest, take: Take, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune in the bucket knows no lock of the node."""
    s3 = {"offsite": "s3", "delete_local_after_upload": True, **server.params(s3_prefix=f"i/{uuid.uuid4().hex[:8]}")}
    parent = take(type="full", **s3)
    stream = Capture._stream

    def delete_meanwhile(capture: Capture, opened: Sequence[OpenDisk]) -> None:
        stream(capture, opened)
        with contextlib.closing(server.client()) as client:
            client.delete_object(Bucket=server.bucket, Key=f"{parent['s3_key']}/manifest.json")

    with monkeypatch.context() as patched:
        patched.setattr(Capture, "_stream", delete_meanwhile)
        entry = take("full", f"backup {parent['id']}, which has the last checkpoint, cannot be built on", **s3)
    text = f"Backup {parent['id']}, on which this one builds, was deleted in S3 meanwhile."
    assert any(text in told for told in entry["warnings"])
    assert engine.failures(guest) == []
    assert take("incremental", **s3)["parent"] == entry["id"]


def test_runs_that_fail_and_die(engine: Engine, guest: Guest, take: Take) -> None:
    """They cost nothing: the next one spans everything since the last good one."""
    good = take()
    running = engine.start(guest, type="auto", quiesce="never", full_every="300d", rate_limit=MIB // 4)
    running.middle(least=1)
    running.kill_all()
    running.wait()
    assert take("incremental")["parent"] == good["id"]
    good = take("incremental")
    running = engine.start(guest, type="auto", quiesce="never", full_every="300d", rate_limit=MIB // 4)
    running.middle(least=1)
    guest.virsh("domjobabort", guest.name)
    assert running.wait()["error"]["code"] == "job_lost"
    last = take("incremental")
    assert last["parent"] == good["id"]
    guest.stop()
    # Of those that came to nothing no bitmap is left.
    assert bitmaps(guest) == bitmaps(guest, "vdc") == [manifest_of(last)["checkpoint"]]


def test_a_guest_that_is_off(engine: Engine, guest: Guest, take: Take) -> None:
    running = take()
    guest.stop()
    (kept,) = bitmaps(guest)
    assert kept == manifest_of(running)["checkpoint"]
    for _turn in range(2):
        off = take("incremental")
        assert (off["parent"], off["consistency"]) == (running["id"], "offline")
        assert manifest_of(off)["checkpoint"] is None
        assert types(off)["vdc"] == "incremental"
    assert bitmaps(guest) == [kept]
    # A copy that took the image's place has its bitmaps, as has the image of another disk.
    image, copy = guest.directory / "vdc.qcow2", guest.directory / "copy"
    shutil.copyfile(image, copy)
    copy.rename(image)
    off = take("incremental", "vdc: another file lies in the place of the one that was its image")
    assert types(off) == {"vda": "incremental", "vdb": "full", "vdc": "full"}
    again(guest)
    # A tree: the checkpoint is still that of the last running backup.
    assert take("incremental")["parent"] == running["id"]


@pytest.mark.exhaustive
def test_what_is_done_to_images_while_it_is_off(engine: Engine, guest: Guest, take: Take) -> None:
    """QEMU's own programs record what they write; whatever does not is found, or refused by them."""
    image, other = guest.directory / "vda.qcow2", guest.directory / "other.qcow2"
    parent = take()["id"]
    guest.stop()

    def still_told(what: str) -> None:
        entry = take("incremental")
        assert (types(entry)["vda"], entry["parent"]) == ("incremental", parent), (what, entry)

    def io(path: Path, *orders: str) -> None:
        run_program(["qemu-io", "-f", "qcow2", *(word for order in orders for word in ("-c", order)), str(path)])

    io(image, "write -P 7 12M 1M", "discard 20M 1M", "write -z 21M 1M")
    still_told("writes")
    run_program(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(other)])
    io(other, "write -P 9 30M 2M", "write -z 22M 1M", "discard 23M 64k")
    run_program(["qemu-img", "commit", "-q", str(other)])
    still_told("an overlay that was committed")
    run_program(["qemu-img", "amend", "-o", "lazy_refcounts=on", str(image)])
    io(image, "write -P 11 33M 64k")
    run_program(["qemu-img", "check", "-q", "-r", "all", str(image)])
    still_told("a repair")
    run_program(["qemu-img", "resize", "-q", str(image), str(52 * MIB)])
    io(image, "write -P 12 50M 1M", "write -P 13 47M 2M")
    run_program(["qemu-img", "resize", "-q", "--shrink", str(image), str(48 * MIB)])
    still_told("one that was grown and shrunk again")
    run_program(["qemu-img", "snapshot", "-c", "inside", str(image)])
    io(image, "write -P 14 40M 64k")
    still_told("an internal snapshot")
    with pytest.raises(RuntimeError, match="bitmap"):
        run_program(["qemu-img", "snapshot", "-a", "inside", str(image)])
    still_told("a return to it that was refused")
    run_program(["qemu-img", "snapshot", "-d", "inside", str(image)])
    copied = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2"]
    run_program([*copied, str(image), str(other)])
    io(image, "write -P 15 41M 64k")
    run_program([*copied, "-n", str(other), str(image)])
    still_told("another content, copied into it")
    other.rename(image)
    assert types(take())["vda"] == "full"
    again(guest)


@pytest.mark.exhaustive
def test_disks_that_come_back(engine: Engine, guest: Guest, take: Take) -> None:
    """What was written to them elsewhere is told, or they are stored in full."""
    away, extra = guest.directory / "away.qcow2", guest.directory / "vdy.qcow2"
    plug = ["attach-disk", guest.name, str(extra), "vdy", "--live", "--subdriver", "qcow2", "--targetbus", "virtio"]
    unplug = ["detach-disk", guest.name, "vdy", "--live"]
    Disk(extra, target="vdy", size=4 * MIB).create()
    guest.virsh(*plug)
    take()
    guest.virsh(*unplug)
    wait_for("the disk to go", lambda: "vdy" not in guest.virsh("domblklist", guest.name))
    run_program(["qemu-io", "-f", "qcow2", "-c", "write -P 5 1M 1M", str(extra)])
    guest.virsh(*plug)
    assert types(take("incremental"))["vdy"] == "incremental"
    guest.virsh(*unplug)
    wait_for("the disk to go", lambda: "vdy" not in guest.virsh("domblklist", guest.name))
    # Moved while it runs, and back into the image that still bears the bitmap.
    move = ["blockcopy", guest.name, "vda", "--format", "qcow2", "--wait", "--pivot", "--transient-job", "--dest"]
    guest.virsh(*move, str(away))
    guest.wait_more(8)
    guest.virsh(*move, str(guest.directory / "vda.qcow2"), "--reuse-external")
    take("incremental")
    guest.virsh("managedsave", guest.name)
    assert take("incremental")["consistency"] == "crash"
    again(guest)
    take("incremental")


@pytest.mark.exhaustive
def test_what_lies_below_an_image(engine: Engine, guest: Guest, take: Take) -> None:
    """A template is changed, and the bitmap of the image that lies on it says that nothing was."""
    base, image = guest.directory / "template.raw", guest.directory / "vdx.qcow2"
    run_program(["truncate", "-s", str(8 * MIB), str(base)])
    noise(base, (0, 6 * MIB))
    run_program(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(image)])
    plug = ["--live", "--config", "--subdriver", "qcow2", "--targetbus", "virtio"]
    guest.virsh("attach-disk", guest.name, str(image), "vdx", *plug)
    take()
    assert types(take("incremental"))["vdx"] == "incremental"
    guest.stop()
    assert types(take("incremental"))["vdx"] == "incremental"
    with base.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"one byte of 8 MiB"[:1])
    for _turn in range(2):
        assert types(take("incremental", "vdx: an image on which its image lies is another"))["vdx"] == "full"
        if guest.state() != "running":
            again(guest)
    assert types(take("incremental"))["vdx"] == "incremental"
    guest.virsh("detach-disk", guest.name, "vdx", "--live", "--config")
    wait_for("the disk to go", lambda: "vdx" not in guest.virsh("domblklist", guest.name))


def test_a_plan_touches_nothing(engine: Engine, asleep: Guest, take: Take) -> None:
    made = take()
    outcome = engine.ask(asleep, check_mode=True, type="auto", full_every="300d")
    (entry,) = outcome.values["backups"]
    assert (entry["type"], entry["parent"], entry["plan"]["parent"]) == ("incremental", made["id"], made["id"])
    assert [disk["type"] for disk in entry["plan"]["disks"]] == ["incremental", "full", "incremental"]
    assert entry["plan"]["estimated_read_bytes"] < 8 * MIB
    assert "incremental backup" in outcome.diff["after"]
    (entry,) = engine.ask(asleep, check_mode=True, type="auto", full_every="300d", node="other").values["backups"]
    assert "was made on node node1" in entry["full_reason"]


def test_rules(engine: Engine, asleep: Guest, take: Take) -> None:
    assert take(type="full")["full_reason"] == "type is full"
    take("incremental", max_incrementals=1)
    take("full", "1 incremental backups follow the last full one", max_incrementals=1)
    take("full", "(full_every)", full_every="0s")
    failed = engine.fail(asleep, "no_incremental", type="incremental", max_incrementals=0)
    assert "With type: auto a full one is made" in failed["error"]["message"]
    take("incremental", type="incremental")


def test_a_parent_that_cannot_be_used(engine: Engine, asleep: Guest, take: Take) -> None:
    parent = take()
    path = Path(parent["path"])
    image = path / "vda.qcow2"
    hidden = path.with_name("hidden")
    image.rename(hidden)
    entry = take("incremental", f"vda: backup {parent['id']} cannot be read now")
    assert types(entry) == {"vda": "full", "vdb": "full", "vdc": "incremental"}
    hidden.rename(image)
    parent = take()
    path = Path(parent["path"])
    result = {"copy": "local", "level": "data", "ok": False, "at": "2026-11-22T00:00:00Z", "detail": "a bit"}
    record = {"manifest_sha256": parent["checksum_sha256"], "results": [result]}
    (path / "verified.json").write_text(json.dumps(record))
    take("full", "no copy")
    parent = take("incremental")
    Path(parent["path"]).rename(path.with_name("away"))
    # The one before has a checkpoint, and its bitmap is gone.
    take("full", "is missing or broken")


def test_bitmaps_that_are_lost(engine: Engine, asleep: Guest, take: Take) -> None:
    take()
    os.kill(asleep.pid(), signal.SIGKILL)
    wait_for("libvirt to notice", lambda: asleep.state() == "shut off")
    # libvirt may still be about to clean up.
    time.sleep(0.2)
    take("full", "bitmap of backup")
    asleep.virsh("start", asleep.name, "--paused")
    broken = bitmaps(asleep)
    entry = take("full", "is missing or broken")
    assert not set(broken) & set(bitmaps(asleep)), "QEMU would refuse to resize the disk"
    assert take("incremental")["parent"] == entry["id"]
    asleep.destroy()
    (name,) = bitmaps(asleep, "vdc")
    run_program(["qemu-img", "bitmap", "--remove", str(asleep.directory / "vdc.qcow2"), name])
    asleep.virsh("start", asleep.name, "--paused")
    # As much as possible: per disk.
    entry = take("incremental", "is missing or broken")
    assert types(entry) == {"vda": "incremental", "vdb": "full", "vdc": "full"}
    assert types(take("incremental")) == {"vda": "incremental", "vdb": "full", "vdc": "incremental"}
    asleep.destroy()
    for image in ("vda.qcow2", "vdc.qcow2"):
        (name,) = bitmaps(asleep, image[:3])
        run_program(["qemu-img", "bitmap", "--remove", str(asleep.directory / image), name])
        run_program(["qemu-img", "bitmap", "--add", "-g", "4096", str(asleep.directory / image), name])
    take("full", "of another granularity")
    asleep.virsh("start", asleep.name, "--paused")
    take("full", "of another granularity")


def test_bitmaps_that_lie(engine: Engine, asleep: Guest, take: Take) -> None:
    """Nobody else would say a word of any of these."""
    image = asleep.directory / "vda.qcow2"
    take()
    asleep.destroy()
    # The end reads zero now, the size is what it was, and the bitmap is clean there.
    run_program(["qemu-img", "resize", "-q", "--shrink", str(image), str(32 * MIB)])
    run_program(["qemu-img", "resize", "-q", str(image), str(48 * MIB)])
    for _turn in range(2):
        entry = take("full", "it was shrunk and grown again")
        assert any("ALARM" in text for text in entry["warnings"]), entry
    asleep.virsh("start", asleep.name, "--paused")
    take("full", "it was shrunk and grown again")
    take("incremental")
    asleep.destroy()
    # What a copy of another machine's disk looks like: the same name, another content.
    (name,) = bitmaps(asleep)
    run_program(["qemu-io", "-c", "write -P 7 12M 20M", str(image)])
    run_program(["qemu-img", "bitmap", "--clear", str(image), name])
    entry = take("full", "differs from the parent")
    assert any("ALARM" in text for text in entry["warnings"]), entry
    failed = engine.fail(asleep, "no_incremental", type="incremental", full_every="300d")
    assert "differs from the parent" in failed["error"]["message"]
    asleep.virsh("start", asleep.name, "--paused")
    take("full", "differs from the parent")
    take("incremental")


def test_the_id_of_a_chain(machine: Guest) -> None:
    with pytest.raises(InputError, match="max_incrementals is 101"):
        Engine(machine.directory).run(machine, max_incrementals=101)
