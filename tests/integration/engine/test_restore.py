# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores of a real guest: as a new one beside it, in place, from S3 alone, and undone at every step that can fail."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _restore_run
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    CancelledError,
    HypervisorError,
    InputError,
    NotFoundError,
    S3Error,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._restore import restore_backup
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS
from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.records import Geometry
from tests.bed.records import verify as verify_records
from tests.bed.s3 import S3Server

from .conftest import writer
from .driver import NODE, Engine, compare, wait_for

# Any file is one to libvirt until the machine is started.
FIRMWARE = "/var/lib/libvirt/qemu/firmware-of-tests.fd"
ONLY_S3 = {"delete_local_after_upload": True}


@pytest.fixture(scope="module")
def template(libvirt_daemon: None) -> Iterator[Guest]:
    """A guest with some records, off. Only its disks are used."""
    with scratch_directory("restore") as place, writer(place, f"r{uuid.uuid4().hex[:6]}", pause=20_000) as guest:
        guest.wait_more(20)
        guest.stop()
        yield guest


@pytest.fixture
def machine(template: Guest) -> Iterator[Guest]:
    """A guest of its own for each test, for it is replaced: like the template, defined and off."""
    with scratch_directory("restore") as place:
        disks = [replace(disk, path=place / Path(str(disk.path)).name) for disk in template.disks]
        for disk, original in zip(disks, template.disks):
            subprocess.run(["cp", "--sparse=always", str(original.path), str(disk.path)], check=True)
        name = f"r{uuid.uuid4().hex[:6]}"
        guest = replace(template, name=name, directory=place, disks=disks, uuid=str(uuid.uuid4()), pause=120_000)
        guest.define()
        try:
            # libvirt orders a definition anew when it is defined from its own words; only then it stays as it is.
            definition = place / f"{guest.name}.xml"
            definition.write_text(guest.virsh("dumpxml", "--inactive", guest.name))
            guest.virsh("define", str(definition))
            yield guest
        finally:
            guest.undefine()


@pytest.fixture
def new(machine: Guest) -> Iterator[str]:
    """The name of a machine that may be made; it is gone afterwards."""
    name = f"{machine.name}-new"
    yield name
    for action in ("destroy", "undefine"):
        subprocess.run(["virsh", "-q", "-c", "qemu:///system", action, name], capture_output=True, check=False)


def params(engine: Engine, machine: Guest, **more: Any) -> dict[str, Any]:
    values = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
    values.update(vm=machine.name, node=NODE, backup_dir=str(engine.backup_dir), state_dir=str(engine.place / "state"))
    s3 = {name: value for name, value in engine.s3.items() if name in RESTORE_ARGUMENTS}
    values.update(s3, **more)
    return values


def restore(engine: Engine, machine: Guest, *, check_mode: bool = False, **more: Any) -> Outcome:
    return restore_backup(Request(params(engine, machine, **more), check_mode=check_mode, diff_mode=True))


def in_this_shape(machine: Guest) -> dict[str, Any]:
    """All that a failed restore must leave as it was."""
    place = machine.directory
    names = sorted(path.name for path in place.iterdir() if not path.name.endswith((".console", ".xml")))
    contents = {disk.target: Path(str(disk.path)).stat().st_ino for disk in machine.disks}
    return {
        "names": names,
        "inodes": contents,
        "xml": machine.virsh("dumpxml", "--inactive", machine.name),
        "state": machine.state(),
    }


def sees(machine: Guest) -> int:
    """Start it, let it check all its records, and return the newest that it found."""
    machine.start()
    found = int(machine.wait(r"found 1\.\.(\d+) intact").group(1))
    machine.stop()
    return found


def twin(machine: Guest, outcome: Outcome) -> Guest:
    """The new machine, as a guest of the bed."""
    values = outcome.values
    disks = [Disk(Path(disk["path"]), format=disk["format"], target=disk["target"]) for disk in values["disks"]]
    guest = replace(machine, name=values["vm"]["name"], disks=disks, uuid=values["vm"]["uuid"])
    guest.log = Path(f"{machine.log}.{guest.name}")
    return guest


def formats(engine: Engine, outcome: Outcome) -> dict[str, str]:
    return {disk["target"]: disk["format"] for disk in outcome.values["disks"]}


def test_a_new_machine_boots_beside_the_old_one(engine: Engine, machine: Guest, new: str) -> None:
    machine.start()
    machine.wait_more(4)
    before = machine.wrote()
    entry = engine.backup(machine)
    after = machine.wrote()
    planned = restore(engine, machine, to=new, check_mode=True)
    assert planned.values["result"] == "planned"
    assert not list(machine.directory.glob(f"*{new}*"))
    outcome = restore(engine, machine, to=new, networks="disconnect")
    assert (outcome.values["result"], outcome.values["id"]) == ("restored", entry["id"])
    for key in ("vm", "disks"):
        assert outcome.values[key] == planned.values[key]
    assert planned.diff == outcome.diff
    assert outcome.diff is not None
    assert new in outcome.diff["after"]
    assert formats(engine, outcome) == {"vda": "qcow2", "vdb": "raw", "vdc": "qcow2"}
    copy = twin(machine, outcome)
    for disk in copy.disks:
        compare(Path(entry["path"]) / f"{disk.target}.qcow2", str(disk.path), disk.format)
    copy.start()
    newest = int(copy.wait(r"found 1\.\.(\d+) intact").group(1))
    assert before <= newest <= after
    copy.wait_more(2)
    machine.wait_more(2)
    assert machine.state() == copy.state() == "running"
    mine, other = machine.virsh("dumpxml", machine.name), machine.virsh("dumpxml", new)
    for pattern in (r"<uuid>.*</uuid>", r"source file='.*?'"):
        assert not set(re.findall(pattern, mine)) & set(re.findall(pattern, other))
    # Again: it is there already.
    again = restore(engine, machine, to=new, networks="disconnect")
    assert (again.values["result"], again.changed) == ("present", False)
    assert not (engine.place / "state" / copy.uuid).exists()


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_formats_and_another_place(engine: Engine, machine: Guest, new: str, image_format: str) -> None:
    entry = engine.backup(machine)
    elsewhere = engine.place / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    outcome = restore(
        engine, machine, to=new, format=image_format, storage=str(elsewhere), paths={"vdb": str(elsewhere / "data")}
    )
    assert set(formats(engine, outcome).values()) == {image_format}
    assert {Path(disk["path"]).parent for disk in outcome.values["disks"]} == {elsewhere}
    assert (elsewhere / "data").exists()
    for disk in outcome.values["disks"]:
        compare(Path(entry["path"]) / f"{disk['target']}.qcow2", disk["path"], image_format)
        if image_format == "raw":
            status = Path(disk["path"]).stat()
            assert status.st_blocks * 512 < status.st_size
    # The new disks alone, proved by their records.
    records = [str(disk["path"]) for disk in outcome.values["disks"][:2]]
    verify_records(records, Geometry.of(machine), formats=[image_format] * 2)


def test_in_place_brings_the_old_records_back(engine: Engine, machine: Guest) -> None:
    entry = engine.backup(machine)
    then = verify_records([Path(entry["path"]) / f"{t}.qcow2" for t in ("vda", "vdb")], Geometry.of(machine))
    machine.start()
    machine.wait_more(6)
    with pytest.raises(BusyError) as caught:
        restore(engine, machine)
    assert caught.value.code == "domain_running"
    machine.wait_more(5)
    outcome = restore(engine, machine, force=True, start=True, boot_timeout=300)
    assert outcome.values["mode"] == "in_place"
    assert machine.state() == "running"
    machine.stop()
    newest = newest_on(machine)
    assert newest >= then
    kept = outcome.values["kept"]
    assert len(kept) == 3
    for path in kept:
        assert Path(path).exists()
    later = verify_records(
        [next(path for path in kept if name in path) for name in ("vda", "vdb")],
        Geometry.of(machine),
        formats=["qcow2", "raw"],
    )
    assert later > then
    outcome = restore(engine, machine, old="remove")
    assert outcome.values["kept"] == []
    # The first restore's are still there, and no others.
    assert sorted(map(str, machine.directory.glob("*.before-*"))) == sorted(kept)
    assert newest_on(machine) == then


def test_a_machine_that_is_gone_is_made_again(engine: Engine, machine: Guest) -> None:
    engine.backup(machine)
    xml = machine.virsh("dumpxml", "--inactive", machine.name)
    machine.undefine()
    with pytest.raises(InputError) as caught:
        restore(engine, machine)
    assert caught.value.code == "target_exists"
    for disk in machine.disks:
        Path(str(disk.path)).unlink()
    outcome = restore(engine, machine)
    assert outcome.values["kept"] == []
    assert re.findall("<(?:uuid|name)>.*", machine.virsh("dumpxml", machine.name)) == re.findall(
        "<(?:uuid|name)>.*", xml
    )
    sees(machine)


def test_a_single_disk_in_place(engine: Engine, machine: Guest) -> None:
    entry = engine.backup(machine)
    before = in_this_shape(machine)
    with Path(str(machine.disks[1].path)).open("r+b") as image:
        image.write(os.urandom(4 * MIB))
    outcome = restore(engine, machine, disks=["vdb"], old="remove")
    after = in_this_shape(machine)
    assert [disk["target"] for disk in outcome.values["disks"]] == ["vdb"]
    assert before["inodes"]["vda"] == after["inodes"]["vda"]
    assert before["inodes"]["vdb"] != after["inodes"]["vdb"]
    assert before["names"] == after["names"]
    assert before["xml"] == after["xml"]
    compare(Path(entry["path"]) / "vdb.qcow2", str(machine.disks[1].path), "raw")


STEPS = {
    "the first rename": (_restore_run.Journal, "rename", 1),
    "a rename in the middle": (_restore_run.Journal, "rename", 4),
    "the last rename": (_restore_run.Journal, "rename", 6),
    "the definition": (_restore_run, "define_domain", 1),
    "the start": (_restore_run, "start_domain", 1),
    "the boot": (_restore_run, "wait_until_up", 1),
}


# Each takes a backup, a restore and sometimes a boot: one always (of the other steps test_restore_chain.py has some),
# all of them by make exhaustive.
_MORE = pytest.mark.exhaustive
_ALWAYS = {"the boot": "before"}


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        pytest.param(step, moment, marks=[] if _ALWAYS.get(step) == moment else [_MORE])
        for step in STEPS
        for moment in ("before", "behind")
    ],
)
def test_a_failure_at_each_step_puts_the_old_state_back(
    engine: Engine, machine: Guest, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    engine.backup(machine)
    before = in_this_shape(machine)
    newest = newest_on(machine)
    inject(monkeypatch, *STEPS[step], moment)
    with pytest.raises(StorageError, match="injected"):
        restore(engine, machine, start=True, boot_timeout=300)
    monkeypatch.undo()
    assert in_this_shape(machine) == before
    assert newest_on(machine) == newest
    assert not list((engine.place / "state").glob("*"))


@pytest.mark.parametrize(
    "step",
    [pytest.param("a rename in the middle", marks=_MORE), "the definition", pytest.param("the start", marks=_MORE)],
)
def test_kill_9_at_a_step_is_undone_by_the_next_run(
    engine: Engine, machine: Guest, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    engine.backup(machine)
    newest = newest_on(machine)
    inject(monkeypatch, *STEPS[step], "behind", die=True)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            restore(engine, machine, start=True)
        os._exit(3)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    monkeypatch.undo()
    machine.destroy()
    outcome = restore(engine, machine, old="remove")
    assert any("was undone first" in text for text in outcome.warnings)
    assert newest_on(machine) == newest
    # A disk that the machine was started with may be worth something, and is kept even so.
    assert {str(path) for path in machine.directory.glob("*.before-*")} == set(outcome.values["kept"])
    assert step == "the start" or not outcome.values["kept"]
    assert not [path for path in machine.directory.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "step",
    [pytest.param("a rename in the middle", marks=_MORE), pytest.param("the definition", marks=_MORE), "the start"],
)
def test_sigterm_at_a_step_puts_the_old_state_back(
    engine: Engine, machine: Guest, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    engine.backup(machine)
    before = in_this_shape(machine)
    newest = newest_on(machine)
    owner, name, turn = STEPS[step]
    original, calls = getattr(owner, name), []

    def interrupted(*args: Any, **more: Any) -> Any:
        result = original(*args, **more)
        calls.append(1)
        if len(calls) == turn:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return result

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(CancelledError, match="SIGTERM"):
        restore(engine, machine, start=True)
    monkeypatch.undo()
    after = in_this_shape(machine)
    # What was made is kept for the next try.
    assert {name for name in after.pop("names") if not name.startswith(".")} == set(before.pop("names"))
    assert after == before
    assert newest_on(machine) == newest
    restore(engine, machine, old="remove")
    assert not [path for path in machine.directory.iterdir() if path.name.startswith(".")]
    assert newest_on(machine) == newest


def newest_on(machine: Guest) -> int:
    """The newest record on its disks, which must be whole."""
    images = [str(disk.path) for disk in machine.disks[:2]]
    return verify_records(images, Geometry.of(machine), formats=[disk.format for disk in machine.disks[:2]])


def inject(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, turn: int, moment: str, *, die: bool = False
) -> None:
    """Fail at the ``turn``-th call, before it has done anything or behind it."""
    original, calls = getattr(owner, name), []

    def failing(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) != turn:
            return original(*args, **more)
        if moment == "behind":
            original(*args, **more)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(10)
        raise StorageError("injected")

    monkeypatch.setattr(owner, name, failing)


def test_a_machine_that_does_not_come_up_gives_way_to_the_old_one(engine: Engine, machine: Guest) -> None:
    engine.backup(machine)
    before = in_this_shape(machine)
    newest = newest_on(machine)
    # Its kernel waits for nothing and panics: an initramfs of noise.
    initrd = machine.directory / f"{machine.name}.initrd"
    good = initrd.read_bytes()
    initrd.write_bytes(b"\0" * 1000)
    with pytest.raises(HypervisorError) as caught:
        restore(engine, machine, start=True, boot_timeout=8)
    assert caught.value.code == "not_booted"
    initrd.write_bytes(good)
    assert in_this_shape(machine) == before
    assert newest_on(machine) == newest


def test_refused_before_anything_is_written(engine: Engine, machine: Guest, new: str) -> None:
    entry = engine.backup(machine)
    before = in_this_shape(machine)

    def refused(code: str, kind: type[VMForgeError] = InputError, **more: Any) -> None:
        for check_mode in (True, False):
            with pytest.raises(kind) as caught:
                restore(engine, machine, check_mode=check_mode, **more)
            assert caught.value.code == code
        assert in_this_shape(machine) == before

    refused("backup_not_found", NotFoundError, id="20200101T000000Z")
    refused("backup_not_found", NotFoundError, before="2020-01-01T00:00:00Z")
    refused("backup_not_found", NotFoundError, vm="nobody")
    refused("target_exists", to=machine.name)
    refused("target_exists", to=new, paths={"vda": str(machine.disks[1].path)})
    refused("target_exists", paths={"vdb": str(machine.directory / f"{machine.name}.xml")})
    refused("storage_missing", StorageError, to=new, storage="/var/tmp/nowhere-at-all")
    refused("invalid_input", disks=["vdz"])
    refused("damaged", VMForgeError, checksum_sha256="0" * 64)
    small = Path("/dev/shm")
    if shutil.disk_usage(small).free < 100 * MIB:
        refused("target_full", StorageError, to=new, storage=str(small))
    path = Path(entry["path"])
    image = bytearray((path / "vda.qcow2").read_bytes())
    image[MIB] ^= 1
    (path / "vda.qcow2").write_bytes(image)
    with pytest.raises(VMForgeError, match=r"vda\.qcow2, part 1 at offset 0") as caught:
        restore(engine, machine)
    assert caught.value.code == "damaged"
    assert in_this_shape(machine) == before


def test_from_s3_alone_on_a_machine_that_has_nothing(
    offsite: Engine, machine: Guest, new: str, server: S3Server
) -> None:
    entry = offsite.backup(machine, **ONLY_S3)
    newest = newest_on(machine)
    with pytest.raises(InputError, match="lie only in S3"):
        restore(offsite, machine, to=new, offsite="none")
    shutil.rmtree(offsite.backup_dir)
    outcome = restore(offsite, machine, to=new, checksum_sha256=entry["checksum_sha256"])
    assert outcome.values["sources"] == {"vda": "s3", "vdb": "s3", "vdc": "s3"}
    assert newest_on(twin(machine, outcome)) == newest
    assert not [path for path in machine.directory.iterdir() if path.name.startswith(".")]


def test_what_is_damaged_here_comes_from_s3(offsite: Engine, machine: Guest, new: str) -> None:
    entry = offsite.backup(machine)
    path = Path(entry["path"])
    image = bytearray((path / "vda.qcow2").read_bytes())
    image[17 * MIB] ^= 1
    (path / "vda.qcow2").write_bytes(image)
    (path / "vdb.qcow2").unlink()
    newest = newest_on(machine)
    outcome = restore(offsite, machine, to=new)
    assert {(item["place"], item["file"], item["part"]) for item in outcome.values["damages"]} == {
        ("local", "vda.qcow2", 2),
        ("local", "vdb.qcow2", None),
    }
    assert any("vda.qcow2, part 2 at offset" in text for text in outcome.warnings)
    assert newest_on(twin(machine, outcome)) == newest


def test_an_s3_that_is_away_does_not_matter_where_all_is_here(offsite: Engine, machine: Guest, new: str) -> None:
    entry = offsite.backup(machine)
    outcome = restore(offsite, machine, to=new, s3_endpoint="http://127.0.0.1:9")
    assert outcome.values["id"] == entry["id"]
    assert set(outcome.values["sources"].values()) == {"local"}
    assert any("S3 was not asked" in text for text in outcome.warnings)
    Path(entry["path"], "vda.qcow2").unlink()
    with pytest.raises(VMForgeError, match="no copy of it is good"):
        restore(offsite, machine, s3_endpoint="http://127.0.0.1:9")
    shutil.rmtree(offsite.backup_dir)
    with pytest.raises(S3Error):
        restore(offsite, machine, s3_endpoint="http://127.0.0.1:9")


def test_what_was_fetched_is_not_fetched_again(
    offsite: Engine, machine: Guest, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it writes the second disk: the first one is taken as it is."""
    offsite.backup(machine, **ONLY_S3)
    inject(monkeypatch, _restore_run.DiskMaker, "_convert", 2, "before", die=True)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            restore(offsite, machine, to=new)
        os._exit(3)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    monkeypatch.undo()
    left = [path.name for path in machine.directory.iterdir() if path.name.startswith(".")]
    assert {name.rsplit(".", 1)[1] for name in left} == {"restored", "fetched"}
    [progress] = (offsite.place / "state").glob("*/progress.json")
    assert json.loads(progress.read_bytes())["phase"].startswith("fetching vd")
    outcome = restore(offsite, machine, to=new)
    assert outcome.values["sources"]["vda"] == "an earlier run"
    assert newest_on(twin(machine, outcome)) == newest_on(machine)
    assert not [path for path in machine.directory.iterdir() if path.name.startswith(".")]


def test_a_block_device(engine: Engine, machine: Guest, new: str) -> None:
    entry = engine.backup(machine)
    backing = engine.place / "device"
    backing.write_bytes(os.urandom(20 * MIB))
    device = subprocess.run(
        ["losetup", "-f", "--show", str(backing)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        with pytest.raises(InputError) as caught:
            restore(engine, machine, to=new, paths={"vdb": device})
        assert caught.value.code == "device"
        outcome = restore(engine, machine, to=new, paths={"vdb": device}, overwrite_devices=True)
        assert formats(engine, outcome)["vdb"] == "raw"
        compare(Path(entry["path"]) / "vdb.qcow2", device, "raw")
        assert f"dev='{device}'" in machine.virsh("dumpxml", new)
    finally:
        wait_for("the device", lambda: not subprocess.run(["losetup", "-d", device], check=False).returncode)


def test_firmware_variables_and_a_tpm_come_along(engine: Engine, machine: Guest, new: str) -> None:
    """A machine of its own kind, not started: what it keeps beside its disks is copied for a new one, and put back."""
    nvram = machine.directory / "machine_VARS.fd"
    nvram.write_bytes(b"variables" * 1000)
    state = Path("/var/lib/libvirt/swtpm") / machine.uuid
    xml = machine.virsh("dumpxml", "--inactive", machine.name)
    xml = xml.replace("</os>", f"<loader readonly='yes' type='pflash'>{FIRMWARE}</loader><nvram>{nvram}</nvram></os>")
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    path = machine.directory / "with-tpm.xml"
    path.write_text(xml.replace("</devices>", f"{tpm}</devices>"))
    machine.virsh("define", str(path))
    (state / "tpm2").mkdir(parents=True)
    other = state.with_name("none")
    try:
        (state / "tpm2" / "tpm2-00.permall").write_bytes(b"endorsement")
        entry = engine.backup(machine)
        assert {"nvram.fd", "tpm.tar"} <= {file.name for file in Path(entry["path"]).iterdir()}
        outcome = restore(engine, machine, to=new)
        other = state.with_name(outcome.values["vm"]["uuid"])
        copied = machine.directory / f"{new}_VARS.fd"
        assert copied.read_bytes() == nvram.read_bytes()
        assert str(copied) in machine.virsh("dumpxml", new)
        assert (other / "tpm2" / "tpm2-00.permall").read_bytes() == b"endorsement"
        nvram.write_bytes(b"changed")
        (state / "tpm2" / "tpm2-00.permall").write_bytes(b"changed")
        restore(engine, machine, old="remove")
        assert nvram.read_bytes() == b"variables" * 1000
        assert (state / "tpm2" / "tpm2-00.permall").read_bytes() == b"endorsement"
        assert [found.name for found in state.parent.glob(f"*{machine.uuid}*")] == [machine.uuid]
        machine.virsh("undefine", new, "--keep-nvram")
    finally:
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(other, ignore_errors=True)
