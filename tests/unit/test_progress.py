# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""progress.json: what it counts, and that a full disk is told in words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_the_file_says(tmp_path: Path) -> None:
    clock = Clock()
    progress = Progress(tmp_path / "progress.json", {"id": "x"}, monotonic=clock)
    progress.enter("reading", total=1000)
    progress.advance(100, 30)
    clock.now += 2
    progress.advance(100, 20)
    progress.write()
    said = json.loads((tmp_path / "progress.json").read_bytes())
    assert (said["id"], said["pid"], said["phase"]) == ("x", os.getpid(), "reading")
    assert (said["bytes_done"], said["bytes_total"], said["bytes_stored"]) == (200, 1000, 50)
    assert (said["rate"], said["eta"]) == (100, 8)
    progress.enter("verifying", total=50)
    progress.advance(50)
    assert (progress.read, progress.done) == (200, 50)
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_nothing_to_do_has_no_end_to_tell(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress.json", {}, monotonic=Clock())
    progress.enter("reading", total=0)
    assert progress.snapshot()["eta"] is None


def test_a_full_disk_is_a_storage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_self: Path, *_args: object, **_more: object) -> int:
        raise OSError(28, "No space left on device")

    progress = Progress(tmp_path / "progress.json", {})
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        progress.write()
    assert caught.value.code == "target_full"
