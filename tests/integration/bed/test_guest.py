# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test bed must not lie: its guest and the host's proof agree, on good images and on bad ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bed.guest import MIB, Disk, Guest
from tests.bed.hypervisor import private_libvirt
from tests.bed.records import BrokenError, Geometry, verify

pytestmark = pytest.mark.usefixtures("libvirt_daemon")


def two_disks(place: Path) -> list[Disk]:
    return [
        Disk(place / "vda.qcow2", size=24 * MIB),
        Disk(place / "vdb.raw", format="raw", target="vdb", size=20 * MIB),
    ]


@pytest.mark.exhaustive
def test_guest_and_host_agree_on_whole_and_broken_images(place: Path) -> None:
    disks = two_disks(place)
    shape = {"mix": True, "slots": 64, "kib": 64, "stride": 128}
    guest = Guest("agree", place, disks, **shape)
    geometry = Geometry.of(guest)
    images, formats = [place / "vda.qcow2", place / "vdb.raw"], ["qcow2", "raw"]
    with guest:
        guest.wait_more(120)
        guest.destroy()
        newest = verify(images, geometry, formats=formats)
        assert newest >= guest.wrote() - 3
        shutil.copyfile(images[0], place / "old.qcow2")
        guest.start()
        assert int(guest.wait(r"found 1\.\.(\d+) intact").group(1)) == newest
        guest.wait_more(30)
        guest.stop()
        whole = verify(images, geometry, formats=formats)
        assert whole > newest
    mixed = [place / "old.qcow2", images[1]]
    with pytest.raises(BrokenError):
        verify(mixed, geometry, formats=formats)
    for backing, said in ((images[0], rf"found 1\.\.{whole} intact"), (mixed[0], "BROKEN disk")):
        overlay = Disk(place / f"over-{backing.name}", backing=backing)
        with Guest(f"check-{backing.stem}", place, [overlay, disks[1]], mode="check", **shape) as checker:
            checker.wait(said)
            checker.wait_off()


def test_the_agent_freezes_the_file_system(place: Path) -> None:
    disk = Disk(place / "vda.raw", format="raw", size=64 * MIB, fs_mib=16)
    with Guest("agent", place, [disk], agent=True, fs="vda", base=16) as guest:
        guest.wait_more(10)
        guest.virsh("domfsfreeze", guest.name)
        assert guest.ask_agent("guest-fsfreeze-status") == '{"return":"frozen"}'
        guest.virsh("domfsthaw", guest.name)
        assert guest.ask_agent("guest-fsfreeze-status") == '{"return":"thawed"}'
        guest.wait_more(20)


@pytest.mark.exhaustive
def test_a_private_libvirtd_can_be_killed_while_its_guest_goes_on(place: Path) -> None:
    (place / "libvirt").mkdir()
    disk = Disk(place / "vda.qcow2", size=16 * MIB)
    with (
        private_libvirt(place / "libvirt") as libvirt,
        Guest("private", place, [disk], run=libvirt.run) as guest,
    ):
        guest.wait_more(10)
        libvirt.kill()
        guest.wait_more(20)
        libvirt.start()
        assert guest.state() == "running"
        with pytest.raises(RuntimeError, match="failed to get domain"):
            Guest("private", place, []).state()
