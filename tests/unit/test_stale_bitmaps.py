# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bitmaps are removed, and which must stay: from real directories, with libvirt's part written down."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _stale_bitmaps
from ansible_collections.vmforge.backup.plugins.module_utils._basis import Bitmap, ImageFacts
from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint_xml import checkpoint_name
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError
from ansible_collections.vmforge.backup.plugins.module_utils._local import FAILED, MANIFEST, PARTIAL, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._stale_bitmaps import StaleBitmaps
from tests.bed.lay import UUID, lay, shelf

IDS = [f"20261122T{hour:02}0000Z" for hour in range(10, 20)]
NAMES = [checkpoint_name(backup_id, UUID) for backup_id in IDS]
OTHER = checkpoint_name(IDS[0], "1" + UUID[1:])
DISKS = [Disk("vda", "file", "qcow2", "/i/a"), Disk("vdb", "file", "raw", "/i/b"), Disk("vdc", "file", "qcow2", "/i/c")]


@pytest.fixture
def directory(tmp_path: Path) -> VmDirectory:
    return shelf(tmp_path)


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...], bool]]:
    """What libvirt is told to remove: name, targets, and whether it is known to be there."""
    found: list[tuple[str, tuple[str, ...], bool]] = []

    class Checkpoints:
        def __init__(self, _domain: Any) -> None:
            pass

        def remove(self, name: str, targets: Iterable[str]) -> list[str]:
            found.append((name, tuple(targets), True))
            return []

        def remove_if_there(self, name: str, targets: Iterable[str]) -> list[str]:
            found.append((name, tuple(targets), False))
            if name == NAMES[9]:
                raise HypervisorError("libvirtd is away")
            return []

    monkeypatch.setattr(_stale_bitmaps, "Checkpoints", Checkpoints)
    return found


def bitmaps(directory: VmDirectory, *, active: bool = True) -> StaleBitmaps:
    domain: Any = SimpleNamespace(uuid=UUID, state=lambda: SimpleNamespace(active=active))
    return StaleBitmaps(domain, directory, DISKS)


def image(*names: str) -> ImageFacts:
    told = tuple(Bitmap(name, 65536, sound=True) for name in names)
    return ImageFacts(allocated=1, keeps_bitmaps=True, granularity=65536, bitmaps=told)


def test_all_but_that_of_the_newest_checkpoint(directory: VmDirectory, removed: list[Any]) -> None:
    for number in (0, 1, 2):
        lay(directory, IDS[number], checkpoint=NAMES[number])
    # The newest backup of all was made while the machine was off.
    lay(directory, IDS[3])
    images = {"vda": image(NAMES[1], NAMES[2], "theirs", OTHER, NAMES[8]), "vdc": image(NAMES[2], NAMES[1])}
    assert bitmaps(directory).clear(images) == []
    assert removed == [(NAMES[1], ("vda", "vdc"), True), (NAMES[8], ("vda",), True)]


def test_behind_the_commit_that_which_was_read(directory: VmDirectory, removed: list[Any]) -> None:
    """Bitmaps of a machine that runs are not in its images yet."""
    for number in (0, 1, 2):
        lay(directory, IDS[number], checkpoint=NAMES[number])
    bitmaps(directory).clear({})
    assert removed == [(NAMES[1], ("vda", "vdc"), False)]


def test_behind_the_commit_those_that_a_crash_broke(directory: VmDirectory, removed: list[Any]) -> None:
    """libvirt cannot tell of them, images can; and a bitmap of that name may be in another disk."""
    for number in (0, 1):
        lay(directory, IDS[number], checkpoint=NAMES[number])
    stale, images = bitmaps(directory), {"vda": image(NAMES[1], NAMES[8])}
    stale.clear(images)
    before = [(NAMES[8], ("vda",), True), (NAMES[0], ("vda", "vdc"), False)]
    assert removed == before
    lay(directory, IDS[2], checkpoint=NAMES[2])
    stale.clear(images)
    assert removed == [*before, (NAMES[1], ("vda",), True), (NAMES[1], ("vdc",), False)]


def test_of_runs_that_failed_since(directory: VmDirectory, removed: list[Any]) -> None:
    lay(directory, IDS[1], checkpoint=NAMES[1])
    for number in (0, 2, 3, 4, 5):
        directory.entry(IDS[number], FAILED).touch()
    bitmaps(directory).clear({})
    assert removed == [(NAMES[number], ("vda", "vdc"), False) for number in (3, 4, 5)]


@pytest.mark.parametrize("whole", [True, False])
def test_one_that_lacks_only_its_last_step_keeps_its_own(
    directory: VmDirectory, removed: list[Any], whole: bool
) -> None:
    lay(directory, IDS[0], checkpoint=NAMES[0])
    path = lay(directory, IDS[1], PARTIAL, checkpoint=NAMES[1])
    if not whole:
        (path / MANIFEST).unlink()
    bitmaps(directory).clear({"vda": image(NAMES[0], NAMES[1])})
    assert removed == ([] if whole else [(NAMES[1], ("vda",), True)])


def test_a_machine_that_is_off_keeps_them(directory: VmDirectory, removed: list[Any]) -> None:
    stale = bitmaps(directory, active=False)
    assert stale.clear({"vda": image(NAMES[0])}) == stale.drop(IDS[1]) == []
    assert removed == []


def test_of_one_that_was_not_finished(directory: VmDirectory, removed: list[Any]) -> None:
    assert bitmaps(directory).drop(IDS[1]) == []
    (told,) = bitmaps(directory).drop(IDS[9])
    assert told == f"The bitmap {NAMES[9]} could not be removed; the next run tries again: libvirtd is away"
    assert removed == [(NAMES[number], ("vda", "vdc"), False) for number in (1, 9)]
