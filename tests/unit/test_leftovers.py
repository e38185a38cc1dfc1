# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dead run has left in the backup directory: finished, removed, or kept for who can; from real directories."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._files import read_json
from ansible_collections.vmforge.backup.plugins.module_utils._leftovers import Leftovers, discard, record_failure
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    DELETING,
    FAILED,
    OFFSITE,
    PARTIAL,
    PROGRESS,
    VmDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from tests.bed.lay import NODE, VM, lay, note, shelf

ID, OLDER = "20261122T140000Z", "20261122T100000Z"
PLACE = {"endpoint": "https://s3.example.com", "bucket": "b", "prefix": "p/1", "completed_at": None}


@pytest.fixture
def directory(tmp_path: Path) -> VmDirectory:
    return shelf(tmp_path)


def clear(directory: VmDirectory) -> list[str]:
    found = Leftovers(VM, directory, None)
    found.clear_storage()
    return found.warnings


def names(directory: VmDirectory) -> list[str]:
    return sorted(path.name for path in directory.path.iterdir())


@pytest.mark.parametrize("manifest", [None, "{", "[]"])
def test_one_without_a_manifest_is_removed_and_put_on_record(directory: VmDirectory, manifest: str | None) -> None:
    path = lay(directory, ID, PARTIAL)
    (path / "manifest.json").unlink()
    if manifest is not None:
        (path / "manifest.json").write_text(manifest)
    note(path, PROGRESS, node=NODE, phase="reading", started="2026-11-22T14:00:00Z", vm={})
    assert clear(directory) == []
    assert names(directory) == [ID + FAILED]
    failure = read_json(directory.entry(ID, FAILED))
    assert {name: failure[name] for name in ("id", "node", "phase", "code", "started", "vm", "schema")} == {
        "id": ID, "node": NODE, "phase": "reading", "code": "interrupted", "started": "2026-11-22T14:00:00Z",
        "vm": {"uuid": VM.uuid, "name": VM.name}, "schema": 1,
    }  # fmt: skip


@pytest.mark.parametrize("progress", ["", "{", "[]", "{}"])
def test_a_progress_that_says_nothing_is_no_obstacle(directory: VmDirectory, progress: str) -> None:
    path = directory.entry(ID, PARTIAL)
    path.mkdir()
    (path / PROGRESS).write_text(progress)
    assert clear(directory) == []
    assert read_json(directory.entry(ID, FAILED))["phase"] == "unknown"


def test_what_is_on_record_already_stays_as_it_was(directory: VmDirectory) -> None:
    directory.entry(ID, PARTIAL).mkdir()
    record_failure(directory, VM, ID, started=None, phase="reading", code="s3_unreachable", message="S3 is away.")
    assert clear(directory) == []
    assert read_json(directory.entry(ID, FAILED))["code"] == "s3_unreachable"
    assert names(directory) == [ID + FAILED]


def test_a_whole_one_gets_its_last_step(directory: VmDirectory) -> None:
    path = lay(directory, ID, PARTIAL)
    note(path, PROGRESS, node=NODE)
    record_failure(directory, VM, ID, started=None, phase="committing", code="storage", message="odd")
    assert clear(directory) == []
    assert names(directory) == [ID], "and it did not fail any more"
    assert sorted(file.name for file in directory.entry(ID).iterdir()) == ["manifest.json", "vda.qcow2"]


@pytest.mark.parametrize("there", [True, False])
def test_a_child_gets_its_last_step_only_where_its_parent_is(directory: VmDirectory, there: bool) -> None:
    if there:
        lay(directory, OLDER)
    lay(directory, ID, PARTIAL, parent=OLDER)
    clear(directory)
    assert directory.ids() == ([OLDER, ID] if there else [])
    assert directory.ids(PARTIAL) == []
    if not there:
        failure = read_json(directory.entry(ID, FAILED))
        assert failure["code"] == "parent_gone"
        assert OLDER in failure["message"]


@dataclass(frozen=True)
class Bucket:
    """Has manifests of these."""

    there: tuple[str, ...]

    def backup(self, backup_id: str) -> SimpleNamespace:
        return SimpleNamespace(
            complete=lambda: backup_id in self.there, is_place_of=lambda _noted: True, discard=lambda: True
        )


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_parent_whose_disks_lie_in_s3_must_be_there(directory: VmDirectory, local: bool, there: bool) -> None:
    """A node's directory tells of it also when it was deleted in the bucket by who has the keys for that."""
    lay(directory, OLDER, disk=local)
    lay(directory, ID, PARTIAL, parent=OLDER)
    bucket = cast(OffsiteVm, Bucket((OLDER,) if there else ()))
    Leftovers(VM, directory, bucket).clear_storage()
    assert directory.ids() == ([OLDER, ID] if local or there else [OLDER])
    assert directory.ids(FAILED) == ([] if local or there else [ID])


def test_a_whole_one_whose_data_lie_in_s3_waits_for_a_run_with_s3(directory: VmDirectory) -> None:
    path = lay(directory, ID, PARTIAL, disk=False)
    note(path, OFFSITE, **PLACE)
    (told,) = clear(directory)
    assert "waits for a run with S3" in told
    assert names(directory) == [ID + PARTIAL]


def test_another_nodes_is_left_to_it(directory: VmDirectory) -> None:
    path = directory.entry(ID, PARTIAL)
    path.mkdir()
    note(path, PROGRESS, node="node2")
    lay(directory, OLDER, DELETING, node="node2")
    assert clear(directory) == []
    assert names(directory) == [OLDER + DELETING, ID + PARTIAL]


@pytest.mark.parametrize(
    ("noted", "kept"),
    [
        ({"local": "dropped", "completed_at": "2026-11-22T15:00:00Z"}, False),
        ({"local": "dropped", "completed_at": None}, True),
        ({"local": "kept", "completed_at": "2026-11-22T15:00:00Z"}, True),
        (None, True),
    ],
)
def test_a_drop_is_finished_only_behind_a_complete_copy(
    directory: VmDirectory, noted: dict[str, Any] | None, kept: bool
) -> None:
    path = lay(directory, ID)
    if noted is not None:
        note(path, OFFSITE, **noted)
    assert clear(directory) == []
    assert (path / "vda.qcow2").exists() is kept
    assert (path / "manifest.json").exists()


def test_one_bad_one_does_not_keep_the_others(directory: VmDirectory) -> None:
    note(lay(directory, OLDER, DELETING), OFFSITE, **PLACE)
    (lay(directory, "20261122T110000Z") / OFFSITE).write_text("{")
    lay(directory, ID, PARTIAL)
    told = clear(directory)
    assert [text.split(";")[0] for text in told] == [
        f"It was not possible to finish the deletion of {OLDER}",
        "It was not possible to drop the local disks of 20261122T110000Z",
    ]
    assert names(directory) == [OLDER + DELETING, "20261122T110000Z", ID]


def test_a_place_in_s3_is_remembered_by_who_has_no_s3(directory: VmDirectory) -> None:
    path = lay(directory, ID, PARTIAL)
    (path / "manifest.json").unlink()
    note(path, PROGRESS, node=NODE)
    note(path, OFFSITE, **PLACE)
    for _turn in range(2):
        (told,) = discard(directory, ID, None)
        assert all(word in told for word in ("'b'", "'p/1'", "https://s3.example.com", str(path)))
        assert sorted(file.name for file in path.iterdir()) == [OFFSITE, PROGRESS]
    assert json.loads((path / OFFSITE).read_text()) == PLACE


@pytest.mark.parametrize("noted", [None, "{", "{}"])
def test_without_a_place_nothing_is_kept(directory: VmDirectory, noted: str | None) -> None:
    path = lay(directory, ID, PARTIAL)
    if noted is not None:
        (path / OFFSITE).write_text(noted)
    assert discard(directory, ID, None) == []
    assert names(directory) == []


def test_another_nodes_last_step_is_left_to_it(directory: VmDirectory) -> None:
    lay(directory, ID, PARTIAL, node="node2")
    assert clear(directory) == []
    assert names(directory) == [ID + PARTIAL]
