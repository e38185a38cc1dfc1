# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup directory: ids that only grow, one lock, commits by rename, and a directory that is never made up."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _local
from ansible_collections.vmforge.backup.plugins.module_utils._delete import begin_deletion
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    FormatError,
    InputError,
    StorageError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import write_file
from ansible_collections.vmforge.backup.plugins.module_utils._local import PARTIAL, BackupDirectory, VmDirectory
from tests.bed.lay import lay

UUID = "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"
NOW = datetime(2026, 11, 22, 15, 12, 0, tzinfo=timezone.utc)


@pytest.fixture
def directory(tmp_path: Path) -> VmDirectory:
    (tmp_path / UUID).mkdir()
    return BackupDirectory(str(tmp_path)).vm(UUID)


def test_ids_by_state(directory: VmDirectory) -> None:
    for name in ("20261122T151200Z", "20261122T151100Z", "20261122T151300Z.partial", "20261122T151000Z.failed.json"):
        (directory.path / name).mkdir()
    for name in (".lock", "notes", "20261122T151200Z.partial.old", "20261122T15120Z", "x20261122T151200Z"):
        (directory.path / name).touch()
    assert directory.ids() == ["20261122T151100Z", "20261122T151200Z"]
    assert directory.ids(PARTIAL) == ["20261122T151300Z"]
    assert directory.known_ids() == {f"20261122T151{minute}00Z" for minute in range(4)}


def test_an_id_is_reserved_above_all_known(directory: VmDirectory) -> None:
    assert directory.reserve([], clock=lambda: NOW) == "20261122T151200Z"
    later = NOW + timedelta(seconds=1)
    assert directory.reserve(["20261122T151159Z"], clock=lambda: later) == "20261122T151201Z"
    assert {path.name for path in directory.path.iterdir()} == {
        "20261122T151200Z.partial",
        "20261122T151201Z.partial",
    }
    with pytest.raises(InputError, match="lies in the future"):
        directory.reserve(["20261122T161200Z"], clock=lambda: NOW)


def test_a_failed_id_is_never_used_again(directory: VmDirectory) -> None:
    (directory.path / "20261122T151200Z.failed.json").touch()
    assert directory.reserve([], clock=lambda: NOW + timedelta(seconds=1)) == "20261122T151201Z"


def test_a_commit_is_a_rename(directory: VmDirectory) -> None:
    backup_id = directory.reserve([], clock=lambda: NOW)
    (directory.entry(backup_id, PARTIAL) / "manifest.json").write_text("{}")
    path = directory.commit(backup_id)
    assert path == directory.entry(backup_id)
    assert (path / "manifest.json").read_text() == "{}"
    assert directory.ids(PARTIAL) == []
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["..", "20261122T151200Z/..", "latest", "", "20261122T151200Z\n"])
def test_only_ids_become_paths(directory: VmDirectory, name: str) -> None:
    with pytest.raises(FormatError, match="is not a backup id"):
        directory.entry(name)


def test_one_lock(directory: VmDirectory) -> None:
    waits: list[float] = []
    with directory.lock():
        with pytest.raises(BusyError, match="lock_timeout") as caught, directory.lock():
            raise AssertionError("unreachable")
        assert caught.value.code == "locked"
        with pytest.raises(BusyError), directory.lock(timeout=0.05, sleep=waits.append):
            raise AssertionError("unreachable")
    assert waits
    with directory.lock():
        pass


def test_a_missing_directory_is_not_made(tmp_path: Path) -> None:
    missing = BackupDirectory(str(tmp_path / "missing"))
    with pytest.raises(StorageError, match="Is its file system mounted"):
        missing.check()
    assert not missing.path.exists()
    with pytest.raises(StorageError, match="not an absolute path"):
        BackupDirectory("backups").check()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is no directory"):
        BackupDirectory(str(tmp_path / "file")).check()
    BackupDirectory(str(tmp_path)).check()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_uuids_are_vms(directory: VmDirectory) -> None:
    root = directory.path.parent
    (root / "lost+found").mkdir()
    (root / "link").symlink_to(root)
    assert [found.uuid for found in BackupDirectory(str(root)).vms()] == [UUID]


class Steps:
    """Notes what a body does to a disk, in its order, and does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self._fsync, self._rename = os.fsync, os.rename
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "rename", self.rename)

    def fsync(self, descriptor: int) -> None:
        self.seen.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        self._fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self.seen.append(f"rename {Path(source).name} {Path(target).name}")
        self._rename(source, target)


def test_a_commit_is_durable_step_by_step(directory: VmDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names in it before the rename, the rename before it is told: a power loss finds the one or the other."""
    backup_id = directory.reserve([], clock=lambda: NOW)
    steps = Steps(monkeypatch)
    directory.commit(backup_id)
    assert steps.seen == [f"sync {backup_id}.partial", f"rename {backup_id}.partial {backup_id}", f"sync {UUID}"]


def test_a_file_is_durable_before_it_has_its_name(directory: VmDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    write_file(directory.path / "manifest.json", b"{}")
    assert steps.seen == ["sync .manifest.json.new", "rename .manifest.json.new manifest.json", f"sync {UUID}"]
    assert [path.name for path in directory.path.iterdir()] == ["manifest.json"]


def test_a_deletion_begins_durably(directory: VmDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(directory, "20261122T151200Z")
    steps = Steps(monkeypatch)
    begin_deletion(directory, "20261122T151200Z", None)
    assert steps.seen == ["rename 20261122T151200Z 20261122T151200Z.deleting", f"sync {UUID}"]


def test_whether_it_can_be_written_is_asked_without_writing(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    BackupDirectory(str(tmp_path)).check(touch=False)
    assert tmp_path.stat().st_mtime_ns == before


def test_the_name_of_a_new_vm_directory_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(_local, "sync_directory", synced.append)
    directory = BackupDirectory(str(tmp_path)).vm(UUID)
    for _turn in range(2):
        with directory.lock():
            assert synced == [tmp_path]
