# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A turn's plan: which uploads are missing, and whether a backup is fresh; from real directories."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, OFFSITE, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import manifest_sha256
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time
from ansible_collections.vmforge.backup.plugins.module_utils._options import BACKUP_ARGUMENTS, BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import VERIFIED
from ansible_collections.vmforge.backup.plugins.module_utils._turn import Turn, plan_turn
from tests.bed.lay import NODE, lay, note, shelf

NOW = datetime(2026, 11, 22, 15, 0, 0, tzinfo=timezone.utc)
OLD, NEW = "20261122T100000Z", "20261122T140000Z"
S3 = {"offsite": "s3", "s3_endpoint": "https://s3.example.com", "s3_bucket": "backups"}


@pytest.fixture
def directory(tmp_path: Path) -> VmDirectory:
    return shelf(tmp_path)


def turn(directory: VmDirectory, **more: Any) -> Turn:
    defaults = {name: spec.get("default") for name, spec in BACKUP_ARGUMENTS.items()}
    return plan_turn(directory, BackupOptions.from_params({**defaults, "node": NODE, **more}), now=NOW)


def fresh(directory: VmDirectory, **more: Any) -> str | None:
    found = turn(directory, **more).fresh
    return None if found is None else found.id


def uploads(directory: VmDirectory, **more: Any) -> list[str]:
    return [manifest.id for manifest in turn(directory, **more).uploads]


@pytest.mark.parametrize(
    ("max_age", "expected"),
    [(None, None), ("59m", None), ("1h", NEW), ("4h", NEW), ("6h", NEW), ("0s", None)],
)
def test_the_newest_that_is_young_enough(directory: VmDirectory, max_age: str | None, expected: str | None) -> None:
    for backup_id in (OLD, NEW):
        lay(directory, backup_id)
    assert fresh(directory, max_age=max_age) == expected


@pytest.mark.parametrize(
    ("ahead", "is_fresh"),
    [(timedelta(minutes=5), True), (timedelta(minutes=5, seconds=1), False), (timedelta(days=400), False)],
)
def test_a_backup_from_the_future_is_not_fresh(directory: VmDirectory, ahead: timedelta, is_fresh: bool) -> None:
    lay(directory, NEW, instant=format_time(NOW + ahead))
    assert (fresh(directory, max_age="2000w") == NEW) is is_fresh


def test_its_instant_counts_and_not_its_id(directory: VmDirectory) -> None:
    lay(directory, NEW, instant=format_time(NOW - timedelta(hours=5)))
    assert fresh(directory, max_age="2h") is None


def test_only_whole_backups_of_this_node_and_vm_count(directory: VmDirectory) -> None:
    lay(directory, OLD, node="node2")
    lay(directory, "20261122T130000Z", ".partial")
    lay(directory, "20261122T130100Z", ".deleting")
    (directory.path / NEW).mkdir()
    assert turn(directory, max_age="1w", **S3) == Turn((), None, ())
    moved = lay(directory, "20261122T131000Z")
    moved.rename(moved.with_name("20261122T131100Z"))
    found = turn(directory, max_age="1w", **S3)
    assert (found.uploads, found.fresh) == ((), None)
    assert "20261122T131100Z" in found.warnings[0]


def spoil(path: Path) -> None:
    checks = [{"copy": "local", "level": "data", "ok": False, "at": "2026-11-22T14:30:00Z"}]
    note(path, VERIFIED, manifest_sha256=manifest_sha256((path / MANIFEST).read_bytes()), results=checks)


def lose_the_disk(path: Path) -> None:
    (path / "vda.qcow2").unlink()


@pytest.mark.parametrize("damage", [spoil, lose_the_disk, shutil.rmtree])
@pytest.mark.parametrize("which", [OLD, NEW])
def test_what_cannot_be_restored_is_not_fresh(
    directory: VmDirectory, which: str, damage: Callable[[Path], None]
) -> None:
    lay(directory, OLD)
    lay(directory, NEW, parent=OLD)
    assert fresh(directory, max_age="2h") == NEW
    damage(directory.entry(which))
    found = turn(directory, max_age="2h")
    assert found.fresh is None
    if damage is not shutil.rmtree or which == OLD:
        assert NEW in found.warnings[0]
        assert OLD in found.warnings[0] or which == NEW


def test_disks_that_lie_in_s3_alone_are_fresh(directory: VmDirectory) -> None:
    path = lay(directory, NEW, disk=False)
    assert fresh(directory, max_age="2h") is None
    note(path, OFFSITE, completed_at="2026-11-22T14:10:00Z", local="dropped")
    assert fresh(directory, max_age="2h") == NEW


def test_a_damaged_manifest_is_told_and_passed_over(directory: VmDirectory) -> None:
    (lay(directory, NEW) / "manifest.json").write_text("{")
    lay(directory, OLD)
    found = turn(directory, max_age="1w")
    assert found.fresh is not None and found.fresh.id == OLD
    assert len(found.warnings) == 1


@pytest.mark.parametrize(
    ("offsite", "max_age", "expected"),
    [
        (None, None, []),
        (None, "1w", [NEW]),
        ({"completed_at": None}, None, [NEW]),
        ({"completed_at": None}, "1m", [NEW]),
        ({"completed_at": "2026-11-22T14:10:00Z"}, None, []),
        ({"completed_at": "2026-11-22T14:10:00Z"}, "1w", []),
    ],
)
def test_uploads(
    directory: VmDirectory, offsite: dict[str, Any] | None, max_age: str | None, expected: list[str]
) -> None:
    """Those that were demanded when the backup was made, and that of one that is to be enough now."""
    path = lay(directory, NEW)
    if offsite is not None:
        note(path, OFFSITE, **offsite)
    assert uploads(directory, max_age=max_age, **S3) == expected
    assert uploads(directory, max_age=max_age) == [], "never without S3"


def test_uploads_come_oldest_first(directory: VmDirectory) -> None:
    for backup_id in (NEW, OLD):
        note(lay(directory, backup_id), OFFSITE, completed_at=None)
    assert uploads(directory, **S3) == [OLD, NEW]


def test_a_broken_note_is_told(directory: VmDirectory) -> None:
    (lay(directory, NEW) / OFFSITE).write_text("[]")
    found = turn(directory, max_age="1w", **S3)
    assert found.uploads == ()
    assert len(found.warnings) == 1


def test_nothing_is_there(tmp_path: Path) -> None:
    directory = shelf(tmp_path)
    assert turn(directory, max_age="1w", **S3) == Turn((), None, ())
    directory.path.rmdir()
    assert turn(directory, max_age="1w", **S3) == Turn((), None, ())
