# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a backup: which disks take part, what it will take, and that it fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._parts import MAX_PARTS, MIN_PART_SIZE
from ansible_collections.vmforge.backup.plugins.module_utils._plan import (
    BackupPlan,
    PlannedDisk,
    check_space,
    choose_disks,
    part_size_for,
)

PLAIN = Disk("vda", "file", "qcow2", "/i/vda")
CDROM = Disk("sda", "file", "raw", "", excluded="cdrom")
NETWORK = Disk("vdn", "network", "raw", "rbd:p/i")
VHOST = Disk("vdv", "vhostuser", "raw", "")
SECRET = Disk("vds", "file", "qcow2", "/i/vds", encrypted=True)


def choose(*disks: Disk, **more: Any) -> Any:
    spec = DomainSpec("web1", "u", disks, nvram=None, tpm=False, agent=True)
    taken, left = choose_disks(spec, **{"exclude": (), "running": True, "allow_plaintext": False, **more})
    return [disk.target for disk in taken], dict(left)


@pytest.mark.parametrize(
    ("disks", "more", "taken", "left"),
    [
        ([PLAIN], {}, ["vda"], {}),
        ([PLAIN, CDROM], {}, ["vda"], {"sda": "cdrom"}),
        ([PLAIN, NETWORK], {}, ["vda", "vdn"], {}),
        ([PLAIN, NETWORK], {"exclude": ["vdn"], "running": False}, ["vda"], {"vdn": "option exclude"}),
        ([PLAIN, VHOST], {"exclude": ["vdv"]}, ["vda"], {"vdv": "option exclude"}),
        ([PLAIN, SECRET], {"allow_plaintext": True}, ["vda", "vds"], {}),
        ([PLAIN, SECRET], {"exclude": ["vds"]}, ["vda"], {"vds": "option exclude"}),
        ([PLAIN], {"exclude": ["vdz"]}, ["vda"], {}),
        ([PLAIN, CDROM], {"exclude": ["sda"]}, ["vda"], {"sda": "option exclude"}),
    ],
)
def test_disks(disks: list[Disk], more: dict[str, Any], taken: list[str], left: dict[str, str]) -> None:
    assert choose(*disks, **more) == (taken, left)


@pytest.mark.parametrize(
    ("disks", "more", "code", "words"),
    [
        ([], {}, "no_disks", "it has none at all"),
        ([CDROM], {}, "no_disks", r"sda \(cdrom\)"),
        ([PLAIN], {"exclude": ["vda"]}, "no_disks", r"vda \(option exclude\)"),
        ([PLAIN, NETWORK], {"running": False}, "disk_unsupported", r"only be read while the domain runs.*\[vdn\]"),
        ([PLAIN, VHOST], {}, "disk_unsupported", "vhostuser"),
        ([SECRET], {}, "disk_encrypted", "set allow_plaintext: true"),
        ([SECRET], {"running": False, "allow_plaintext": True}, "disk_encrypted", "start the domain"),
    ],
)
def test_refusals(disks: list[Disk], more: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        choose(*disks, **more)
    assert caught.value.code == code
    assert "'web1'" in caught.value.message


def test_estimates() -> None:
    disks = tuple(PlannedDisk(f"vd{letter}", "raw", "/i", 100, size) for letter, size in (("a", 30), ("b", 12)))
    plan = BackupPlan("full", "why", disks, (), ("/b",), ratio=0.5)
    assert (plan.estimated_read_bytes, plan.estimated_stored_bytes) == (42, 21)
    told = plan.as_result()
    assert told["destinations"] == ["/b"]
    assert told["disks"][1] == {
        "target": "vdb", "format": "raw", "source": "/i", "virtual_size": 100, "estimated_bytes": 12,
        "type": "full", "full_reason": None,
    }  # fmt: skip


@given(needed=st.integers(0, 1 << 50), free=st.integers(0, 1 << 50), reserve=st.integers(0, 1 << 40))
def test_space(needed: int, free: int, reserve: int) -> None:
    if needed + reserve <= free:
        check_space(needed=needed, free=free, reserve=reserve, path="/b")
    else:
        with pytest.raises(StorageError, match="Not enough space in /b") as caught:
            check_space(needed=needed, free=free, reserve=reserve, path="/b")
        assert caught.value.code == "no_space"


@given(virtual=st.integers(0, 1 << 46), share=st.floats(0, 1))
def test_parts_are_enough_for_the_worst_image(virtual: int, share: float) -> None:
    """Nothing compresses, every batch of plain clusters has a gap before it, and all tables are full."""
    data = int(virtual * share)
    clusters = -(-data // 65536)
    gaps = -(-clusters // 16) * 65536
    second = -(-virtual // (8192 * 65536))
    tables = second * 65536 + second * 8 + (clusters + second) * 2 + 4 * 65536
    worst = clusters * 65536 + gaps + tables
    size = part_size_for(virtual_size=virtual, read_bytes=data)
    assert size >= MIN_PART_SIZE
    assert size * MAX_PARTS >= worst
