# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints as libvirt is asked for them, and whose a name is."""

from __future__ import annotations

from datetime import datetime, timezone
from xml.etree import ElementTree

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._backup_xml import backup_xml, exported_bitmap
from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint_xml import (
    checkpoint_name,
    checkpoint_xml,
    created_at,
    is_checkpoint_of,
    noted_files,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError

UUID, OTHER = "0f1c2d3e-0000-4000-8000-000000000001", "0f1c2d3f-0000-4000-8000-000000000001"
NAME = "vmforge-20261122T151200Z-0f1c2d3e"


def test_a_new_one() -> None:
    root = ElementTree.fromstring(checkpoint_xml(NAME, ["vda", "vdc"]))
    assert root.findtext("name") == NAME
    assert root.find("creationTime") is None
    disks = [(node.get("name"), node.get("checkpoint"), node.get("bitmap")) for node in root.findall("disks/disk")]
    assert disks == [("vda", "bitmap", NAME), ("vdc", "bitmap", NAME)]


def test_one_that_is_there() -> None:
    created = created_at(NAME)
    assert created == datetime(2026, 11, 22, 15, 12, tzinfo=timezone.utc)
    assert ElementTree.fromstring(checkpoint_xml(NAME, [], created=created)).findtext("creationTime") == "1795360320"


@pytest.mark.parametrize("files", [{}, {"vda": "fd01-2a"}, {"vda": "fd01-2a", "sdb": "0-ffffffffffffffff"}])
def test_the_files_of_its_images(files: dict[str, str]) -> None:
    xml = checkpoint_xml(NAME, files, files=files)
    assert noted_files(xml) == files
    assert (ElementTree.fromstring(xml).find("description") is None) == (not files)


@pytest.mark.parametrize("text", ["a person's own words", "=", "vda=", ""])
def test_a_description_that_tells_of_no_file(text: str) -> None:
    assert noted_files(f"<domaincheckpoint><description>{text}</description></domaincheckpoint>") == {}


def test_what_is_no_checkpoint() -> None:
    with pytest.raises(FormatError, match="is no XML"):
        noted_files("<domaincheckpoint>")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (NAME, True),
        (checkpoint_name("20261122T151200Z", UUID), True),
        (checkpoint_name("20261122T151200Z", OTHER), False),
        ("vmforge-20261122T151200Z", False),
        ("virtnbdbackup.0", False),
        ("theirs-0f1c2d3e", False),
        ("vmforge-0f1c2d3e", False),
        ("vmforge-mine-0f1c2d3e", False),
        ("vmforge-20261122T151200Z-x-0f1c2d3e", False),
    ],
)
def test_whose_it_is(name: str, ours: bool) -> None:
    assert is_checkpoint_of(name, UUID) == ours


@pytest.mark.parametrize("name", ["theirs", "vmforge-now-0f1c2d3e"])
def test_a_name_that_is_not_ours(name: str) -> None:
    with pytest.raises(ValueError, match="not a backup id"):
        created_at(name)


def test_each_disk_says_how_it_is_read() -> None:
    scratch = {target: f"/s/{target}" for target in ("vda", "vdb")}
    root = ElementTree.fromstring(
        backup_xml(socket="/s/s", scratch=scratch, left_out=["sda"], since=NAME, changed=["vdb"])
    )
    disks = {node.get("name"): dict(node.attrib) for node in root.findall("disks/disk")}
    assert disks["vda"]["backupmode"] == "full"
    assert "incremental" not in disks["vda"]
    assert disks["vdb"]["backupmode"] == "incremental"
    assert disks["vdb"]["incremental"] == NAME
    assert disks["vdb"]["exportbitmap"] == exported_bitmap("vdb")
    assert disks["sda"] == {"name": "sda", "backup": "no"}
