# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a backup can build on: every reason for a full one, and what may not be an incremental one."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._basis import (
    Basis,
    Bitmap,
    DiskNow,
    ImageFacts,
    Parent,
    Rules,
    choose_basis,
    refuse_full,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord

# A Sunday.
NOW = datetime(2026, 11, 22, 15, 0, tzinfo=timezone.utc)
GIB = 1 << 30
CHECKPOINT = "vmforge-20261121T151200Z-0f1c2d3e"
BITMAP = Bitmap(CHECKPOINT, 65536, sound=True)
IMAGE = ImageFacts(allocated=GIB // 2, keeps_bitmaps=True, granularity=65536, bitmaps=(BITMAP,))
DISK = DiskNow("vda", "qcow2", "/i/vda", GIB, IMAGE)
RECORD = DiskRecord("vda", "full", "vda.qcow2", "qcow2", "/i/vda", GIB, 5, bitmap_granularity=65536)
PARENT = Parent(
    id="20261121T151200Z",
    sha256="0" * 64,
    node="node1",
    checkpoint=CHECKPOINT,
    disks={"vda": RECORD},
    full_instant=NOW - timedelta(days=2),
    incrementals=3,
)
RULES = Rules("auto", 30, timedelta(days=7))


def choose(*disks: DiskNow, parent: Parent | str = PARENT, rules: Rules = RULES, **more: Any) -> Basis:
    given_: dict[str, Any] = {"node": "node1", "running": True, "now": NOW, **more}
    return choose_basis(disks or (DISK,), parent, rules, **given_)


@pytest.mark.parametrize("running", [True, False])
def test_changes_are_enough(running: bool) -> None:
    basis = choose(running=running)
    assert (basis.type, basis.changed, basis.full_reason) == ("incremental", ("vda",), None)
    assert basis.parent is PARENT
    # A checkpoint can only be made of a running domain.
    assert basis.tracked == ({"vda": 65536} if running else {})


@pytest.mark.parametrize(
    ("parent", "rules", "more", "reason"),
    [
        ("no backup here has one", {}, {}, "no backup here has one"),
        (PARENT, {"type": "full"}, {}, "type is full"),
        (PARENT, {}, {"node": "node2"}, "the last checkpoint was made on node node1"),
        (PARENT, {"max_incrementals": 3}, {}, "3 incremental backups follow the last full one (max_incrementals)"),
        (PARENT, {"max_incrementals": 0}, {}, "3 incremental backups follow the last full one (max_incrementals)"),
        (PARENT, {"full_every": timedelta(days=2)}, {}, "the last full backup is of 2026-11-20T15:00:00Z (full_every)"),
        (PARENT, {"full_every": timedelta(0)}, {}, "the last full backup is of 2026-11-20T15:00:00Z (full_every)"),
        (PARENT, {}, {"now": NOW + timedelta(days=1)}, "the last full backup is of 2026-11-20T15:00:00Z (full_every)"),
        (PARENT, {}, {"now": NOW - timedelta(days=3)}, "of 2026-11-20T15:00:00Z, which is in the future"),
    ],
)
def test_reasons_for_all_disks(parent: Parent | str, rules: Any, more: Any, reason: str) -> None:
    basis = choose(parent=parent, rules=replace(RULES, **rules), **more)
    assert (basis.type, basis.parent, basis.changed) == ("full", None, ())
    assert reason in (basis.full_reason or "")
    # The next one has something to build on all the same.
    assert basis.tracked == {"vda": 65536}


@pytest.mark.parametrize(
    ("now", "fresh"),
    [
        # Made on Friday the 20th; weeks begin on Monday.
        (NOW, True),
        (NOW.replace(day=22, hour=23, minute=59), True),
        (NOW.replace(day=23, hour=0, minute=0), False),
        (NOW.replace(day=23, hour=0, minute=30).astimezone(timezone(timedelta(hours=1))), False),
    ],
)
def test_the_first_of_a_week_is_full(now: datetime, fresh: bool) -> None:
    assert (choose(now=now).type == "incremental") == fresh
    # Any other span is a span.
    assert choose(now=now, rules=replace(RULES, full_every=timedelta(days=8))).type == "incremental"


@pytest.mark.parametrize("years", range(2020, 2034))
def test_weeks_at_the_turn_of_a_year(years: int) -> None:
    """The last days of December and the first of January are often one week."""
    made = datetime(years, 12, 31, 12, tzinfo=timezone.utc)
    later = made + timedelta(days=1)
    basis = choose(parent=replace(PARENT, full_instant=made), now=later)
    assert (basis.type == "full") == (later.weekday() == 0)


@pytest.mark.parametrize(
    ("change", "running", "reason"),
    [
        ({"format": "raw"}, True, "an image of format raw keeps no bitmap"),
        ({"image": replace(IMAGE, keeps_bitmaps=False)}, True, "qcow2 version 2 keeps no bitmap"),
        ({"target": "vdb"}, True, "backup 20261121T151200Z does not hold it"),
        ({"source": "/i/other"}, True, "another than that of backup 20261121T151200Z: /i/vda"),
        ({"size": GIB + 512}, True, f"had {GIB} bytes in backup 20261121T151200Z, and has {GIB + 512} now"),
        ({"image": replace(IMAGE, bitmaps=())}, False, "has lost the bitmap"),
        ({"image": replace(IMAGE, bitmaps=(replace(BITMAP, sound=False),))}, False, "was not saved, or does not"),
        ({"image": replace(IMAGE, bitmaps=(replace(BITMAP, granularity=4096),))}, True, "of another granularity"),
        ({"image": replace(IMAGE, bitmaps=(replace(BITMAP, name="vmforge-x"),))}, False, "has lost the bitmap"),
    ],
)
def test_reasons_for_one_disk(change: dict[str, Any], running: bool, reason: str) -> None:
    good = replace(DISK, target="vdz")
    parent = replace(PARENT, disks={"vda": RECORD, "vdz": RECORD})
    bad = replace(DISK, **change)
    basis = choose(bad, good, parent=parent, running=running)
    assert basis.type == "incremental"
    assert basis.changed == ("vdz",)
    assert reason in basis.reasons[bad.target]
    assert basis.full_reason == f"{bad.target}: {basis.reasons[bad.target]}"
    alone = choose(bad, parent=parent, running=running)
    assert (alone.type, alone.parent) == ("full", None)
    assert alone.full_reason == basis.reasons[bad.target]


@pytest.mark.parametrize(
    ("then", "now", "reason"),
    [
        ({"vda": "fd-1", "vdb": "fd-2"}, {"vda": "fd-1", "vdb": "fd-2"}, {}),
        # Exchanged under their names: bitmaps, sizes and paths are as they were.
        ({"vda": "fd-1", "vdb": "fd-2"}, {"vda": "fd-2", "vdb": "fd-1"}, {"vda", "vdb"}),
        ({"vda": "fd-1", "vdb": "fd-2"}, {"vda": "fd-1", "vdb": "fe-2"}, {"vdb"}),
        ({"vda": "fd-1", "vdb": "fd-2"}, {"vda": "fd-1", "vdb": None}, {"vdb"}),
        # Devices of which nothing is known.
        ({"vda": "fd-1"}, {"vda": "fd-1", "vdb": None}, {}),
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_each_disk_has_the_file_that_it_had(
    then: dict[str, str], now: dict[str, str | None], reason: Any, running: bool
) -> None:
    parent = replace(PARENT, disks={"vda": RECORD, "vdb": RECORD}, files=then)
    disks = [replace(DISK, target=target, image=replace(IMAGE, file=file)) for target, file in now.items()]
    basis = choose(*disks, parent=parent, running=running)
    assert set(basis.reasons) == set(reason)
    assert all("another file lies in the place" in text for text in basis.reasons.values())


@pytest.mark.parametrize(
    ("then", "now", "reason"),
    [
        ("fd-1+fd-2@1", "fd-1+fd-2@1", None),
        ("fd-1+fd-2@1", "fd-1+fd-2@9", "an image on which its image lies is another"),
        ("fd-1+fd-2@1", "fd-1+fd-3@1", "an image on which its image lies is another"),
        ("fd-1+fd-2@1", "fd-1", "an image on which its image lies is another"),
        ("fd-1", "fd-1+fd-2@1", "an image on which its image lies is another"),
        ("fd-1+fd-2@1", "fd-4+fd-2@1", "another file lies in the place"),
        (None, "fd-1", "nothing tells whether its image is still that of backup"),
    ],
)
def test_what_an_image_lies_on(then: str | None, now: str, reason: str | None) -> None:
    """A template that was replaced or changed under it: no bitmap of the image tells of that."""
    basis = choose(
        replace(DISK, image=replace(IMAGE, file=now)), parent=replace(PARENT, files={"vda": then} if then else {})
    )
    assert (reason or "") in (basis.full_reason or "")
    assert basis.type == ("incremental" if reason is None else "full")


@pytest.mark.parametrize("running", [True, False])
def test_a_bitmap_in_two_layers_tells_only_half(running: bool) -> None:
    layered = replace(DISK, image=replace(IMAGE, buried=(CHECKPOINT,)))
    assert "spread over several images" in str(choose(layered, running=running).full_reason)
    assert choose(replace(DISK, image=replace(IMAGE, buried=("another",))), running=running).full_reason is None


def test_what_only_qemu_can_tell() -> None:
    """Of a running domain a bitmap that is new is not in the image yet; one that is there is called in use."""
    assert choose(replace(DISK, image=replace(IMAGE, bitmaps=()))).type == "incremental"
    assert choose(replace(DISK, image=replace(IMAGE, bitmaps=(replace(BITMAP, sound=False),)))).type == "incremental"
    assert choose(replace(DISK, image=None)).type == "incremental"


def test_a_disk_that_the_checkpoint_left_out() -> None:
    parent = replace(PARENT, disks={"vda": replace(RECORD, bitmap_granularity=None)})
    assert choose(parent=parent).full_reason == "backup 20261121T151200Z made no bitmap in it"


def test_an_incremental_one_that_was_demanded() -> None:
    rules = replace(RULES, type="incremental")
    refuse_full(choose(rules=rules), rules, name="web1")
    refuse_full(choose(parent="why"), RULES, name="web1")
    with pytest.raises(InputError, match=r"'web1' can be made: why\. With type: auto") as caught:
        refuse_full(choose(parent="why", rules=rules), rules, name="web1")
    assert caught.value.code == "no_incremental"


TARGETS = ("vda", "vdb", "vdc")


@given(
    formats=st.lists(st.sampled_from(["qcow2", "raw"]), min_size=3, max_size=3),
    held=st.sets(st.sampled_from(TARGETS)),
    refused=st.sets(st.sampled_from(TARGETS)),
    running=st.booleans(),
)
def test_it_is_incremental_while_one_disk_is(
    formats: list[str], held: set[str], refused: set[str], running: bool
) -> None:
    parent = replace(PARENT, disks=dict.fromkeys(held, RECORD))
    disks = [replace(DISK, target=target, format=kind) for target, kind in zip(TARGETS, formats)]
    basis = choose(*disks, parent=parent, running=running).without(dict.fromkeys(refused, "QEMU says no"))
    wanted = {disk.target for disk in disks if disk.format == "qcow2" and disk.target in held} - refused
    assert set(basis.changed) == wanted
    assert basis.type == ("incremental" if wanted else "full")
    assert (basis.parent is None) == (not wanted)
    assert list(basis.reasons) == [target for target in TARGETS if target not in wanted]
    assert (basis.full_reason is None) == (len(wanted) == 3)
