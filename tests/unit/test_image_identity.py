# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is noted of an image is the same as long as it is the same one, and no other's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._basis import BELOW
from ansible_collections.vmforge.backup.plugins.module_utils._image_identity import identify, identify_device


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("one", "other", "base"):
        (tmp_path / name).write_bytes(bytes(512))
    return tmp_path


def told(place: Path, *names: str) -> str:
    found = identify([str(place / name) for name in names])
    assert found is not None
    assert not set(found) & set(" \n=")
    return found


def test_a_file_is_told_from_any_other(place: Path) -> None:
    shutil.copyfile(place / "one", place / "copy")
    one, other = told(place, "one"), told(place, "other")
    assert len({one, other, told(place, "copy")}) == 3
    (place / "one").write_bytes(bytes(1024))
    assert told(place, "one") == one, "what is written to it makes it no other"
    (place / "one").rename(place / "aside")
    (place / "other").rename(place / "one")
    assert (told(place, "one"), told(place, "aside")) == (other, one)
    (place / "link").symlink_to("aside")
    assert told(place, "link") == one


def test_a_file_that_got_the_inode_of_one_that_was_removed(place: Path) -> None:
    """ext4 gives it away at once: so two files that were exchanged by copies seem to be what they were."""
    seen = set()
    for turn in range(10):
        path = place / "again"
        path.write_bytes(b"%d" % turn)
        seen.add(told(place, "again"))
        path.unlink()
    assert len(seen) == 10


def test_what_lies_below_is_not_written_to(place: Path) -> None:
    before = told(place, "one", "base")
    assert before.partition(BELOW)[0] == told(place, "one")
    assert before != told(place, "one", "other")
    assert before == told(place, "one", "base")
    # What libvirt does with the files of a domain that is started.
    (place / "base").chmod(0o640)
    assert before == told(place, "one", "base")
    os.utime(place / "base", ns=(0, 1))
    assert before != told(place, "one", "base")


@pytest.mark.parametrize("path", ["nbd+unix:///?socket=/s", 'json:{"driver": "rbd"}', "json:" + 5000 * "x"])
def test_what_lies_below_in_a_network(place: Path, path: str) -> None:
    assert identify([str(place / "one"), path]) == told(place, "one") + BELOW + "?"


def test_what_is_neither_file_nor_device(place: Path) -> None:
    assert identify(["/dev/null"]) is None
    assert identify([str(place / "one"), "/dev/null"]) == told(place, "one") + BELOW + "?"


def device(sysfs: Path, name: str, **attributes: str) -> str | None:
    """As the kernel shows one: a link by number to its directory."""
    directory = sysfs / "devices" / name
    directory.mkdir(parents=True, exist_ok=True)
    for attribute, text in attributes.items():
        path = directory / attribute.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    link = sysfs / name.replace("/", "-")
    link.symlink_to(directory)
    return identify_device(link)


def test_devices(tmp_path: Path) -> None:
    """Whatever they are called; a partition is the device's."""
    lvm = "LVM-" + 64 * "a"
    found = [
        device(tmp_path, "dm-0", dm__uuid=lvm),
        device(tmp_path, "dm-1", dm__uuid=lvm + "b"),
        device(tmp_path, "sda", device__wwid="t10.ATA     QEMU HARDDISK"),
        device(tmp_path, "sda/sda1", partition="1"),
        device(tmp_path, "sda/sda2", partition="2"),
        device(tmp_path, "nvme0n1", wwid="eui.1"),
        device(tmp_path, "vda", serial="s1"),
        device(tmp_path, "loop0", loop__backing_file="/images/a file"),
    ]
    assert None not in found
    assert len(set(found)) == len(found)
    assert device(tmp_path, "dm-7", dm__uuid=lvm) == found[0], "its number is another after a boot"
    # What the kernel knows nothing of.
    assert device(tmp_path, "dm-2", dm__uuid="") is None
    assert device(tmp_path, "zd0") is None
    assert device(tmp_path, "zd0/zd0p1", partition="1") is None
