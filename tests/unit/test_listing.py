# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host and a bucket have, as one list: merged by what was seen, never by what was once noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._entry import ready_entry, unfinished_entry
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._listing import list_entries
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    DELETING,
    FAILED,
    OFFSITE,
    PARTIAL,
    VmDirectory,
)
from tests.bed.lay import UUID, lay, manifest_of, note, shelf

ID, OLDER = "20261122T140000Z", "20261122T100000Z"
DONE = {"bucket": "b", "prefix": "p/1", "completed_at": "2026-11-22T15:00:00Z"}


class Bucket:
    """A complete listing of a bucket, as values."""

    def __init__(self, *entries: dict[str, Any], here: bool = True) -> None:
        self._entries, self._here = entries, here

    def entries(self, only: set[str] | None) -> list[dict[str, Any]]:
        return [entry for entry in self._entries if only is None or entry["vm"]["uuid"] in only]

    def has(self, uuid: str, backup_id: str) -> bool:
        return (uuid, backup_id) in [(entry["vm"]["uuid"], entry["id"]) for entry in self._entries]

    def is_place_of(self, _uuid: str, _backup_id: str, _offsite: dict[str, Any]) -> bool:
        return self._here


def remote(backup_id: str = ID, **more: Any) -> dict[str, Any]:
    manifest = manifest_of(backup_id, **{name: more.pop(name) for name in ("parent", "node") if name in more})
    facts: dict[str, Any] = {"hold": None, "verified": None, **more}
    return ready_entry(
        manifest, manifest.encode(), path=None, s3_key="p/1", copies=["s3"], offsite_pending=False, **facts
    )


@pytest.fixture
def directory(tmp_path: Path) -> VmDirectory:
    return shelf(tmp_path)


def listed(directory: VmDirectory, bucket: Bucket | None = None, *wanted: str) -> list[dict[str, Any]]:
    found: Any = bucket
    return list_entries(directory.path.parent, found, wanted)


def one(directory: VmDirectory, bucket: Bucket | None = None) -> dict[str, Any]:
    (entry,) = listed(directory, bucket)
    return entry


@pytest.mark.parametrize(
    ("disk", "noted", "in_bucket", "copies", "key"),
    [
        (True, None, False, ["local"], None),
        (True, None, True, ["local", "s3"], "p/1"),
        (True, DONE, True, ["local", "s3"], "p/1"),
        (True, DONE, False, ["local"], None),
        (False, DONE, True, ["s3"], "p/1"),
        (False, DONE, False, [], None),
        (True, {"completed_at": None}, False, ["local"], None),
        (True, {"completed_at": None}, True, ["local", "s3"], "p/1"),
    ],
)
def test_copies(
    directory: VmDirectory,
    disk: bool,
    noted: dict[str, Any] | None,
    in_bucket: bool,
    copies: list[str],
    key: str | None,
) -> None:
    path = lay(directory, ID, disk=disk)
    if noted is not None:
        note(path, OFFSITE, **noted)
    entry = one(directory, Bucket(remote()) if in_bucket else Bucket())
    assert (entry["status"], entry["copies"], entry["s3_key"]) == ("ready", copies, key)
    vanished = noted == DONE and not in_bucket
    assert ("vanished" in (entry["error"] or "")) is vanished
    assert entry["offsite_pending"] is (noted is not None and noted != DONE and not in_bucket)


def test_a_broken_copy_in_s3_is_none(directory: VmDirectory) -> None:
    note(lay(directory, ID, disk=False), OFFSITE, **DONE)
    broken = dict(remote(), copies=[], error="In S3, missing: vda.qcow2.")
    entry = one(directory, Bucket(broken))
    assert (entry["copies"], entry["error"]) == ([], "In S3, missing: vda.qcow2.")


def test_what_was_noted_counts_where_the_bucket_was_not_asked(directory: VmDirectory) -> None:
    note(lay(directory, ID, disk=False), OFFSITE, **DONE)
    for bucket in (None, Bucket(here=False)):
        entry = one(directory, bucket)
        assert (entry["copies"], entry["s3_key"], entry["error"]) == (["s3"], "p/1", None)


@pytest.mark.parametrize(
    ("suffix", "status", "there", "expected"),
    [
        (PARTIAL, "partial", "ready", "ready"),
        (PARTIAL, "partial", "partial", "partial"),
        (DELETING, "deleting", "ready", "deleting"),
        (DELETING, "deleting", "partial", "deleting"),
        ("", "ready", "partial", "ready"),
    ],
)
def test_states(directory: VmDirectory, suffix: str, status: str, there: str, expected: str) -> None:
    path = lay(directory, ID, suffix)
    assert one(directory)["status"] == status
    other = remote() if there == "ready" else unfinished_entry(UUID, ID, "partial", {}, s3_key="p/1")
    entry = one(directory, Bucket(other))
    assert entry["status"] == expected
    if status == expected:
        assert entry["path"] == str(path)


def test_manifests_that_differ_are_told(directory: VmDirectory) -> None:
    lay(directory, ID)
    entry = one(directory, Bucket(remote(node="node2")))
    assert "differ" in entry["error"]
    assert entry["vm"]["node"] == "node1"


@pytest.mark.parametrize("name", ["hold", "verified"])
@pytest.mark.parametrize(("here", "there"), [("a", None), (None, "b"), ("a", "b"), (None, None)])
def test_sidecars_of_either_place_count(directory: VmDirectory, name: str, here: str | None, there: str | None) -> None:
    path = lay(directory, ID)
    if here is not None:
        note(path, f"{name}.json", reason=here)
    entry = one(directory, Bucket(remote(**{name: None if there is None else {"reason": there}})))
    wanted = here or there
    assert entry[name] == (None if wanted is None else {"reason": wanted})


def test_a_failure_stands_beside_a_backup(directory: VmDirectory) -> None:
    lay(directory, ID)
    note(directory.path, ID + FAILED, message="It broke.", phase="reading", code="source")
    assert sorted(entry["status"] for entry in listed(directory, Bucket(remote()))) == ["failed", "ready"]


@pytest.mark.parametrize("damage", ["{", "{}", "of another place"])
def test_a_directory_without_a_sound_manifest_is_no_backup(directory: VmDirectory, damage: str) -> None:
    path = lay(directory, ID)
    data = manifest_of(OLDER).encode().decode() if damage == "of another place" else damage
    (path / "manifest.json").write_text(data)
    entry = one(directory)
    assert (entry["status"], entry["copies"], bool(entry["error"])) == ("partial", [], True)
    (path / "manifest.json").unlink()
    assert (one(directory)["status"], one(directory)["error"]) == ("partial", None)


@pytest.mark.parametrize(
    ("parent_here", "parent_in_bucket", "expected"),
    [(True, False, True), (True, True, True), (False, True, False), (False, False, False)],
)
def test_chains(directory: VmDirectory, parent_here: bool, parent_in_bucket: bool, expected: bool) -> None:
    lay(directory, ID, parent=OLDER)
    if parent_here:
        lay(directory, OLDER)
    bucket = Bucket(remote(OLDER)) if parent_in_bucket else Bucket()
    found = {entry["id"]: entry["chain_local"] for entry in listed(directory, bucket)}
    assert found.pop(ID) is expected
    assert list(found.values()) in ([], [parent_here])


def test_a_chain_in_a_circle_ends(directory: VmDirectory) -> None:
    lay(directory, ID, parent=OLDER)
    lay(directory, OLDER, parent=ID)
    assert [entry["chain_local"] for entry in listed(directory)] == [False, False]


def test_only_what_was_asked_for(directory: VmDirectory) -> None:
    lay(directory, ID)
    other = "11111111-64f7-4685-8b7d-fd3e5b49c83b"
    assert [entry["id"] for entry in listed(directory, None, UUID.upper())] == [ID]
    assert listed(directory, Bucket(remote()), other) == []
    assert len(listed(directory, None, "web9")) == 1, "names are compared by whoever has all manifests"


def test_a_missing_directory_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        list_entries(tmp_path / "missing", None, ())
    assert caught.value.code == "backup_dir_missing"
    found: Any = Bucket(remote())
    assert [entry["copies"] for entry in list_entries(tmp_path / "missing", found, ())] == [["s3"]]


@pytest.mark.parametrize("damage", ["", "{", "[]"])
def test_notes_that_a_power_cut_has_damaged_hide_nothing(directory: VmDirectory, damage: str) -> None:
    lay(directory, OLDER)
    (lay(directory, ID, PARTIAL) / "progress.json").write_text(damage)
    directory.entry(ID, FAILED).write_text(damage)
    assert sorted(entry["status"] for entry in listed(directory)) == ["failed", "partial", "ready"]


def test_a_damaged_hold_is_an_error(directory: VmDirectory) -> None:
    """Whether it protects cannot be told."""
    (lay(directory, ID) / "hold.json").write_text("{")
    with pytest.raises(FormatError, match="hold.json"):
        listed(directory)


def test_a_file_where_a_backup_should_be_is_none(directory: VmDirectory) -> None:
    directory.entry(ID).touch()
    assert one(directory)["status"] == "partial"
