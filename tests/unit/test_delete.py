# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting one local backup: refused with nothing touched, or begun by a rename and finished."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._delete import (
    begin_deletion,
    find_backup,
    finish_deletion,
    refuse_deletion,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    InputError,
    S3Error,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._local import DELETING, OFFSITE, PARTIAL, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, format_time
from tests.bed.lay import NODE, UUID, VM, lay, manifest_of, note, shelf

NOW = datetime(2026, 11, 22, 15, 0, 0, tzinfo=timezone.utc)
PARENT, CHILD = "20261122T100000Z", "20261122T140000Z"


@pytest.fixture
def directory(tmp_path: Path) -> VmDirectory:
    return shelf(tmp_path)


def refused(directory: VmDirectory, backup_id: str, **more: Any) -> VMForgeError:
    before = sorted(directory.path.rglob("*"))
    manifest = find_backup(directory, None, backup_id)
    assert manifest is not None
    with pytest.raises(VMForgeError) as caught:
        refuse_deletion(directory, None, manifest, **{"vm": VM, "now": NOW, **more})
    assert sorted(directory.path.rglob("*")) == before
    return caught.value


def allowed(directory: VmDirectory, backup_id: str) -> None:
    manifest = find_backup(directory, None, backup_id)
    assert manifest is not None
    refuse_deletion(directory, None, manifest, vm=VM, now=NOW)


def test_what_is_found(directory: VmDirectory) -> None:
    lay(directory, PARENT)
    lay(directory, CHILD, DELETING)
    assert find_backup(directory, None, PARENT) == manifest_of(PARENT)
    assert find_backup(directory, None, CHILD) is None
    assert find_backup(directory, None, "20200101T000000Z") is None


def test_a_parent_stays_until_its_children_went(directory: VmDirectory) -> None:
    lay(directory, PARENT)
    twin = "20261122T140001Z"
    for child in (CHILD, twin):
        lay(directory, child, parent=PARENT)
    error = refused(directory, PARENT)
    assert (error.code, f"the parent of {CHILD}, {twin}, which" in error.message) == ("has_child", True)
    for child in (CHILD, twin):
        refused(directory, PARENT)
        allowed(directory, child)
        begin_deletion(directory, child, None)
    allowed(directory, PARENT)


def test_a_parent_stays_while_a_child_lacks_its_last_step(directory: VmDirectory) -> None:
    lay(directory, PARENT)
    lay(directory, CHILD, PARTIAL, parent=PARENT)
    error = refused(directory, PARENT)
    assert (error.code, CHILD in error.message) == ("has_child", True)


def test_another_nodes(directory: VmDirectory) -> None:
    lay(directory, PARENT)
    assert refused(directory, PARENT, vm=VmRef(UUID, "web1", "node2")).code == "other_node"


@pytest.mark.parametrize(
    ("until", "held"),
    [
        (None, True),
        (timedelta(seconds=1), True),
        (timedelta(0), False),
        (timedelta(days=-1), False),
    ],
)
def test_holds(directory: VmDirectory, until: timedelta | None, held: bool) -> None:
    end = None if until is None else format_time(NOW + until)
    note(lay(directory, PARENT), "hold.json", reason="audit 7", until=end)
    if held:
        error = refused(directory, PARENT)
        assert (error.code, "audit 7" in error.message) == ("held", True)
    else:
        allowed(directory, PARENT)


def test_a_hold_that_cannot_be_read_is_no_permission(directory: VmDirectory) -> None:
    (lay(directory, PARENT) / "hold.json").write_text("{")
    assert isinstance(refused(directory, PARENT), FormatError)


def test_a_copy_in_s3_is_not_orphaned(directory: VmDirectory) -> None:
    note(lay(directory, PARENT), OFFSITE, bucket="b", prefix="p", completed_at=None)
    assert refused(directory, PARENT).code == "offsite"
    begin_deletion(directory, PARENT, None)
    with pytest.raises(S3Error) as caught:
        finish_deletion(directory, PARENT, None, node=NODE)
    assert caught.value.code == "s3_options"
    assert directory.entry(PARENT, DELETING).is_dir()


def test_begun_by_a_rename_and_finished(directory: VmDirectory) -> None:
    lay(directory, PARENT)
    begin_deletion(directory, PARENT, None)
    assert [path.name for path in directory.path.iterdir()] == [PARENT + DELETING]
    begin_deletion(directory, PARENT, None)
    finish_deletion(directory, PARENT, None, node=NODE)
    assert list(directory.path.iterdir()) == []


@pytest.mark.parametrize("damage", ["none", "broken", "missing"])
def test_a_begun_deletion_of_another_node_is_left_to_it(directory: VmDirectory, damage: str) -> None:
    """Without a manifest nobody can tell; it is finished by whoever has the lock."""
    path = lay(directory, PARENT, DELETING, node="node2")
    if damage == "broken":
        (path / "manifest.json").write_text(json.dumps({"vm": {}}))
    elif damage == "missing":
        (path / "manifest.json").unlink()
    finish_deletion(directory, PARENT, None, node=NODE)
    assert path.exists() is (damage == "none")


def test_only_ids_are_deleted(directory: VmDirectory) -> None:
    with pytest.raises(FormatError):
        begin_deletion(directory, "..", None)
    with pytest.raises((FormatError, InputError)):
        finish_deletion(directory, "../" + PARENT, None, node=NODE)


def test_one_that_was_moved_to_another_ones_place_is_not_deleted_for_it(directory: VmDirectory) -> None:
    path = lay(directory, PARENT)
    (path / "manifest.json").write_bytes(manifest_of(CHILD).encode())
    with pytest.raises(FormatError, match="it was moved"):
        find_backup(directory, None, PARENT)


@pytest.mark.parametrize("until", ["soon", 7, {}, "2026-11-01"])
def test_a_hold_whose_end_cannot_be_read_protects(directory: VmDirectory, until: Any) -> None:
    note(lay(directory, PARENT), "hold.json", reason="audit 7", until=until)
    assert refused(directory, PARENT).code == "held"
