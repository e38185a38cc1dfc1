# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore decides: which backup, which paths, which definition; and steps that are taken back."""

from __future__ import annotations

import difflib
import io
import json
import os
import random
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    InputError,
    NotFoundError,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._journal import Journal
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Host
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS, RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_plan import RestorePlan, new_uuid, plan_restore
from ansible_collections.vmforge.backup.plugins.module_utils._restore_run import DeadRun, RestoreRun, open_journal
from ansible_collections.vmforge.backup.plugins.module_utils._restore_source import choose_backup
from ansible_collections.vmforge.backup.plugins.module_utils._restore_xml import (
    Identity,
    NewDisk,
    as_written,
    in_place_xml,
    keep_secrets,
    new_xml,
)
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup, open_backup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain
from ansible_collections.vmforge.backup.plugins.module_utils._tpm_state import unpack_tpm
from tests.bed.backups import OTHER_UUID, UUID, make_backup, some_files

DOMAIN = f"""<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name>
  <uuid>{UUID}</uuid>
  <genid>11111111-2222-3333-4444-555555555555</genid>
  <sysinfo type='smbios'><system><entry name='uuid'>{UUID}</entry><entry name='serial'>7</entry></system></sysinfo>
  <os><type>hvm</type><loader type='pflash'>/x.fd</loader><nvram template='/t.fd'>/n/web1_VARS.fd</nvram></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/images/web1.qcow2' index='1'/>
      <backingStore type='file'><format type='raw'/><source file='/images/base.img'/></backingStore>
      <target dev='vda' bus='virtio'/><boot order='1'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/><source dev='/dev/vg/data'/><target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='/images/shared.img'/><target dev='vdc'/><shareable/>
    </disk>
    <disk type='file' device='cdrom'><source file='/iso/a.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='network'>
      <mac address='52:54:00:aa:bb:cc'/><source network='default'/><target dev='web1-net'/>
      <virtualport type='openvswitch'><parameters interfaceid='{UUID}'/></virtualport>
    </interface>
    <interface type='bridge'><source bridge='br7'/><link state='up'/></interface>
    <serial type='file'><source path='/log/web1.log'/><target port='0'/></serial>
    <channel type='unix'>
      <source mode='bind' path='/run/a.sock'/><target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <graphics type='vnc' port='5901' autoport='no' listen='0.0.0.0'/>
    <vsock><cid auto='no' address='7'/></vsock>
    <hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>
  </devices>
  <qemu:commandline><qemu:arg value='-nodefaults'/></qemu:commandline>
</domain>"""
NEW = Identity("web2", OTHER_UUID, "/n/web2_VARS.fd")
DISKS = {"vda": NewDisk("/new/a.qcow2", "qcow2"), "vdb": NewDisk("/dev/vg/b", "raw", is_device=True)}


def parse(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml)


def test_a_new_machine_shares_nothing_with_the_old_one() -> None:
    done = new_xml(DOMAIN, NEW, disks=DISKS)
    root = parse(done.xml)
    assert (root.findtext("name"), root.findtext("uuid"), root.findtext("os/nvram")) == ("web2", OTHER_UUID, NEW.nvram)
    for gone in (
        UUID,
        "web1",
        "52:54:00:aa",
        "/images",
        "/dev/vg/data",
        "5901",
        "/run/a.sock",
        "hostdev",
        "backingStore",
    ):
        remains = done.xml.replace("/log/web1.log.web2", "")
        assert gone not in remains, gone
    assert root.findtext("sysinfo/system/entry[@name='serial']") == "7"
    assert root.findtext("genid") not in (None, "", "11111111-2222-3333-4444-555555555555")
    assert [node.get("dev") for node in root.findall("devices/disk/target")] == ["vda", "vdb", "sda"]
    assert disk_of(root, "sda").find("source") is None
    assert [dict(node.attrib) for node in root.findall("devices/vsock/cid")] == [{"auto": "yes"}]
    assert "qemu:commandline" in done.xml
    assert len(done.warnings) == 3


def disk_of(root: ElementTree.Element, target: str) -> ElementTree.Element:
    return next(disk for disk in root.findall("devices/disk") if disk.find(f"target[@dev='{target}']") is not None)


def test_disks_point_to_their_new_places() -> None:
    root = parse(in_place_xml(DOMAIN, name="renamed", disks=DISKS).xml)
    assert (root.findtext("name"), root.findtext("uuid")) == ("renamed", UUID)
    file, device = disk_of(root, "vda"), disk_of(root, "vdb")
    assert (file.get("type"), [dict(node.attrib) for node in file.findall("source")]) == (
        "file",
        [{"file": "/new/a.qcow2"}],
    )
    assert (device.get("type"), [dict(node.attrib) for node in device.findall("source")]) == (
        "block",
        [{"dev": "/dev/vg/b"}],
    )
    assert dict(file.findall("driver")[0].attrib) == {"name": "qemu", "type": "qcow2", "cache": "none"}
    assert file.find("boot") is not None
    assert file.find("backingStore") is None
    # All the rest is as it was.
    assert disk_of(root, "vdc").findall("source")[0].get("file") == "/images/shared.img"
    assert root.findall("devices/interface/mac")[0].get("address") == "52:54:00:aa:bb:cc"
    with pytest.raises(FormatError, match="no disk vdz"):
        in_place_xml(DOMAIN, name="x", disks={"vdz": DISKS["vda"]})


def test_networks() -> None:
    kept = parse(new_xml(DOMAIN, NEW, disks=DISKS).xml)
    assert [dict(node.attrib) for node in kept.findall("devices/interface/source")] == [
        {"network": "default"},
        {"bridge": "br7"},
    ]
    macs = [str(node.get("address")) for node in kept.findall("devices/interface/mac")]
    assert len(set(macs)) == 2
    assert all(mac.startswith("52:54:00:") for mac in macs)
    assert [
        str(n.get("address")) for n in parse(new_xml(DOMAIN, NEW, disks=DISKS).xml).findall("devices/interface/mac")
    ] == macs
    down = parse(new_xml(DOMAIN, NEW, disks=DISKS, networks="disconnect").xml)
    assert [node.get("state") for node in down.findall("devices/interface/link")] == ["down", "down"]
    done = new_xml(DOMAIN, NEW, disks=DISKS, networks="map", network_map={"default": "isolated"})
    sources = [dict(node.attrib) for node in parse(done.xml).findall("devices/interface/source")]
    assert sources == [{"network": "isolated"}, {"bridge": "br7"}]
    assert "network_map says nothing of br7, so that it is kept." in done.warnings


def test_a_comparison_shows_what_is_different_alone() -> None:
    kept = in_place_xml(DOMAIN, name="web1", disks={"vdb": NewDisk("/new/b", "raw")}).xml
    before, after = as_written(DOMAIN).splitlines(), kept.splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    assert len(changed) == 2, changed
    assert as_written("") == ""


def test_passwords_of_displays_are_kept() -> None:
    secret = DOMAIN.replace("listen='0.0.0.0'", "listen='0.0.0.0' passwd='s3cret'")
    assert "s3cret" in keep_secrets(DOMAIN, secret)
    assert keep_secrets(DOMAIN, None) == DOMAIN
    assert keep_secrets(DOMAIN, DOMAIN).count("passwd") == 0


@given(st.text())
def test_what_is_no_definition_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        new_xml(text.replace("<domain", ""), NEW, disks={})


def options(**more: Any) -> RestoreOptions:
    params = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
    return RestoreOptions.from_params({**params, "vm": "web1", "node": "node1", **more})


IDS = ("20261120T151200Z", "20261121T151200Z", "20261122T151200Z")


@pytest.fixture
def backups(tmp_path: Path) -> list[StoredBackup]:
    found = []
    for backup_id in IDS:
        path = tmp_path / UUID / backup_id
        made = make_backup(path, some_files(random.Random(backup_id)))
        instant = f"{backup_id[:4]}-{backup_id[4:6]}-{backup_id[6:8]}T15:12:30Z"
        (path / "manifest.json").write_bytes(replace(made, instant=instant).encode())
        found.append(open_backup(UUID, backup_id, directory=path, place=None))
    return found


@pytest.mark.parametrize(
    ("more", "chosen"),
    [
        ({}, IDS[2]),
        ({"id": "latest"}, IDS[2]),
        ({"id": IDS[0]}, IDS[0]),
        ({"vm": UUID}, IDS[2]),
        ({"vm": UUID.upper()}, IDS[2]),
        ({"before": "2026-11-22T15:12:30Z"}, IDS[2]),
        # Its id is older than its contents.
        ({"before": IDS[2]}, IDS[1]),
        ({"before": "2026-11-22 16:12:29+01:00"}, IDS[1]),
        ({"before": "2026-11-20T15:12:29Z"}, None),
        ({"id": IDS[2], "before": IDS[1]}, None),
        ({"vm": "web"}, None),
    ],
)
def test_which_backup(backups: list[StoredBackup], more: dict[str, Any], chosen: str | None) -> None:
    if chosen is None:
        with pytest.raises(NotFoundError, match="There are"):
            choose_backup(backups, options(**more))
    else:
        assert choose_backup(reversed(backups), options(**more)).manifest.id == chosen


def test_a_name_of_two_machines(backups: list[StoredBackup], tmp_path: Path) -> None:
    path = tmp_path / OTHER_UUID / IDS[0]
    make_backup(path, some_files(random.Random(8)), uuid=OTHER_UUID)
    other = open_backup(OTHER_UUID, IDS[0], directory=path, place=None)
    with pytest.raises(InputError, match="several machines"):
        choose_backup([*backups, other], options())
    assert choose_backup([*backups, other], options(vm=OTHER_UUID)).manifest.vm.uuid == OTHER_UUID


def plan(backup: StoredBackup, *, current: str | None = None, there: tuple[str, ...] = (), **more: Any) -> RestorePlan:
    host = Host(
        current=current,
        running=False,
        volumes={"vda": "/images/web1.qcow2", "vdb": "/dev/vg/data"} if current else {},
        exists=lambda path: str(path) in there,
        is_device=lambda path: str(path).startswith("/dev/"),
        now="20261123T000000Z",
        state=Path("/state"),
    )
    return plan_restore(StoredChain((backup,)), DOMAIN, options(**more), host)


def test_paths_of_a_new_machine(backups: list[StoredBackup]) -> None:
    backup, manifest = backups[0], backups[0].manifest
    done = plan(backup, to="web2", paths={"vdb": "/pool/b.img"})
    assert [(str(image.path), image.format) for image in done.images] == [
        ("/images/web2-vda.qcow2", "qcow2"),
        ("/pool/b.img", "raw"),
    ]
    assert done.uuid == new_uuid(manifest, "node1", "web2") != new_uuid(manifest, "node2", "web2")
    assert str(done.nvram) == "/n/web2_VARS.fd"
    assert "/n/web2_VARS.fd" in done.after
    done = plan(backup, to="web2", storage="/other", format="raw", disks=["vda"])
    assert [str(image.path) for image in done.images] == ["/other/web2-vda.img"]
    with pytest.raises(InputError, match="Say where it goes"):
        plan(backup, to="web2")
    with pytest.raises(InputError, match="exists already"):
        plan(backup, to="web2", storage="/other", there=("/other/web2-vda.qcow2",))


def test_paths_in_place(backups: list[StoredBackup]) -> None:
    backup = backups[0]
    there = ("/images/web1.qcow2", "/dev/vg/data")
    with pytest.raises(InputError, match="cannot be kept aside"):
        plan(backup, current=DOMAIN, there=there)
    done = plan(backup, current=DOMAIN, there=there, overwrite_devices=True)
    assert [(str(i.path), str(i.kept), i.is_device) for i in done.images] == [
        ("/images/web1.qcow2", "/images/web1.qcow2.before-20261123T000000Z", False),
        ("/dev/vg/data", "None", True),
    ]
    assert str(done.nvram) == "/n/web1_VARS.fd"
    single = plan(backup, current=DOMAIN.replace(">web1<", ">www<"), there=there, disks=["vda"])
    assert (single.name, single.nvram, len(single.images)) == ("www", None, 1)
    assert "/dev/vg/data" in single.after
    with pytest.raises(InputError, match="exists already"):
        plan(backup, there=there, overwrite_devices=True)
    with pytest.raises(InputError, match="not defined here"):
        plan(backup, disks=["vda"])
    with pytest.raises(InputError, match="has no disk vdx"):
        plan(backup, current=DOMAIN, disks=["vdx"])


@pytest.mark.parametrize(
    "more",
    [
        {"vm": " "},
        {"id": "newest"},
        {"before": "yesterday"},
        {"before": "2026-11-22T15:12:00"},
        {"to": "a/b"},
        {"to": "-x"},
        {"to": ".."},
        {"storage": "relative"},
        {"paths": {"vda": "relative"}},
        {"paths": {"vda": 7}},
        {"checksum_sha256": "abc"},
        {"boot_timeout": 9},
        {"boot_timeout": -1, "start": True},
        {"networks": "map"},
        {"network_map": {"a": "b"}},
        {"parallel": 65},
    ],
)
def test_options_that_make_no_sense(more: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        options(**more)


def test_steps_are_taken_back_in_reverse(tmp_path: Path) -> None:
    old, new, kept = tmp_path / "disk", tmp_path / ".new", tmp_path / "disk.before"
    old.write_text("old")
    new.write_text("new")
    undone: list[Any] = []
    journal = Journal(tmp_path / "journal.json", {"start": undone.append})
    journal.rename(old, kept)
    journal.rename(new, old)
    journal.note("start", uuid="u")
    assert old.read_text() == "new"
    # Another process finds it.
    other = Journal(tmp_path / "journal.json", {"start": undone.append})
    assert other.load()
    assert other.undo() is None
    assert (old.read_text(), new.read_text(), kept.exists()) == ("old", "new", False)
    assert [step["uuid"] for step in undone] == ["u"]
    assert not (tmp_path / "journal.json").exists()
    assert not Journal(tmp_path / "journal.json", {}).load()


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_step_that_was_only_written_down_is_none(tmp_path: Path, done: int) -> None:
    """Killed between the note and the step, at every step."""
    old, new, kept = tmp_path / "disk", tmp_path / ".new", tmp_path / "disk.before"
    old.write_text("old")
    new.write_text("new")
    steps = [(old, kept), (new, old)]
    for source, target in steps[:done]:
        os.rename(source, target)
    written = [{"kind": "rename", "source": str(s), "target": str(t)} for s, t in steps[: done + 1]]
    (tmp_path / "journal.json").write_text(json.dumps({"schema": 1, "steps": written}))
    journal = Journal(tmp_path / "journal.json", {})
    assert journal.load()
    assert journal.undo() is None
    assert (old.read_text(), new.read_text(), kept.exists()) == ("old", "new", False)


def test_what_cannot_be_taken_back_stays_written_down_with_all_before_it(tmp_path: Path) -> None:
    old, kept = tmp_path / "disk", tmp_path / "disk.before"
    old.write_text("old")

    def fail(_step: Any) -> None:
        raise StorageError("it runs and runs")

    journal = Journal(tmp_path / "journal.json", {"start": fail})
    journal.rename(old, kept)
    journal.note("start")
    assert journal.undo() == "it runs and runs"
    assert kept.exists()
    again = Journal(tmp_path / "journal.json", {"start": lambda _step: None})
    assert again.load()
    assert again.undo() is None
    assert old.exists()


def running(tmp_path: Path, backup: StoredBackup, now: str) -> RestoreRun:
    """A restore that asks no hypervisor."""
    given = plan(backup, current=DOMAIN, overwrite_devices=True)
    (tmp_path / "state").mkdir(exist_ok=True)
    none: Any = None
    return RestoreRun(replace(given, now=now), options(), none, tmp_path / "state")


def test_what_was_put_aside_is_never_removed_by_another_restore(backups: list[StoredBackup], tmp_path: Path) -> None:
    """Of the same backup, in the same second, or one that fails."""
    nvram = tmp_path / "VARS.fd"
    nvram.write_bytes(b"original")
    for number in range(3):
        run = running(tmp_path, backups[0], "20261123T000000Z")
        run._place_nvram(b"restored", nvram)
        if number == 1:
            assert run._journal.undo() is None
        else:
            run._journal.close()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("VARS.fd*")} == {
        "VARS.fd": b"restored",
        "VARS.fd.before-20261123T000000Z": b"original",
        "VARS.fd.before-20261123T000000Z-2": b"restored",
    }
    with pytest.raises(StorageError, match="is there already"):
        run._journal.rename(nvram, tmp_path / "VARS.fd.before-20261123T000000Z")


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_a_disk_that_a_guest_worked_on_after_the_crash_is_kept(
    backups: list[StoredBackup], tmp_path: Path, used: bool, times: int
) -> None:
    """The host dies between the start and the end of the journal; the next run may die while it takes that back."""
    run = running(tmp_path, backups[0], "20261123T000000Z")
    disk, state = tmp_path / "web1.qcow2", tmp_path / "state"
    image = replace(run.plan.images[0], path=disk, kept=tmp_path / "web1.qcow2.before-20261123T000000Z")
    disk.write_bytes(b"old")
    image.staged.write_bytes(b"restored")
    run.maker._note_done(image)
    run._place_image(image)
    if used:
        disk.write_bytes(b"a week of work")
    journal = (state / "journal.json").read_bytes()
    for _time in range(times):
        (state / "journal.json").write_bytes(journal)
        dead = DeadRun(state, "20261130T000000Z")
        none: Any = None
        again = open_journal(none, state, dead)
        assert again.load()
        assert again.undo() is None
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if "web1" in path.name}
    work = tmp_path / "web1.qcow2.before-20261130T000000Z"
    assert left == {
        "web1.qcow2": b"old",
        **({work.name: b"a week of work"} if used else {image.staged.name: b"restored"}),
    }
    assert dead.kept == ([str(work)] if used and times == 1 else [])
    assert run.maker._is_done(image) == (not used)


def test_an_image_that_was_finished_and_written_to_is_not_overwritten(
    backups: list[StoredBackup], tmp_path: Path
) -> None:
    run = running(tmp_path, backups[0], "20261123T000000Z")
    image = replace(run.plan.images[0], path=tmp_path / "web1.qcow2")
    image.staged.write_bytes(b"restored")
    run.maker._note_done(image)
    image.staged.write_bytes(b"a week of work")
    run.maker.discard(image)
    assert [Path(path).read_bytes() for path in run.maker.kept] == [b"a week of work"]
    image.staged.write_bytes(b"half")
    run.maker.discard(image)
    assert not image.staged.exists()


def test_no_machine_is_started_on_a_device_that_is_half_written(backups: list[StoredBackup], tmp_path: Path) -> None:
    """Nor by the next restore, which makes all of it anew. None of these asks the hypervisor for anything."""
    run = running(tmp_path, backups[0], "20261123T000000Z")
    run._journal.note("stop", uuid=UUID, name="web1")
    device = replace(run.plan.images[1], path=tmp_path / "device")
    device.path.touch()
    assert device.is_device
    with pytest.raises(VMForgeError):
        # No image of this backup is one that qemu-img would read.
        run._place_image(device)
    assert "was overwritten, wholly or in part, so 'web1' is not started" in str(run._journal.undo())
    dead = DeadRun(tmp_path / "state", "20261130T000000Z")
    none: Any = None
    again = open_journal(none, tmp_path / "state", dead)
    assert again.load()
    assert again.undo() is None
    assert dead.overwritten == [str(device.path)]


def tar(*members: tuple[str, bytes, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.uid, info.gid = kind, len(data), os.getuid(), os.getgid()
            info.mode = 0o750 if kind == tarfile.DIRTYPE else 0o640
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_a_tpm_is_unpacked(tmp_path: Path) -> None:
    data = tar(
        (".", tarfile.DIRTYPE, b""), ("./tpm2", tarfile.DIRTYPE, b""), ("./tpm2/state", tarfile.REGTYPE, b"secret")
    )
    unpack_tpm(data, tmp_path / "t")
    assert (tmp_path / "t" / "tpm2" / "state").read_bytes() == b"secret"
    assert (tmp_path / "t" / "tpm2" / "state").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "member",
    [
        ("../out", tarfile.REGTYPE, b"x"),
        ("/etc/out", tarfile.REGTYPE, b"x"),
        ("a/../../out", tarfile.REGTYPE, b"x"),
        ("link", tarfile.SYMTYPE, b""),
        ("device", tarfile.CHRTYPE, b""),
    ],
)
def test_a_tpm_unpacks_nothing_else(tmp_path: Path, member: tuple[str, bytes, bytes]) -> None:
    with pytest.raises(FormatError):
        unpack_tpm(tar(member), tmp_path / "t")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FormatError):
        unpack_tpm(b"nonsense" * 200, tmp_path / "other")
