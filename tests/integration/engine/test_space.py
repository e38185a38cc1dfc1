# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scratch files and targets that fill up: the backup gives way, never the guest."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _guard, _pull
from ansible_collections.vmforge.backup.plugins.module_utils._guard import free_bytes, reserve_bytes
from tests.bed.guest import MIB, Disk, Guest, scratch_directory

from .driver import Engine, assert_unhurt, job, run, wait_for
from .ends import SLOW, assert_failed, assert_next_run_is_good


def mounted(image: Path, path: Path, mib: int) -> None:
    """Mount an ext4 of so many MiB."""
    run(["truncate", "-s", str(mib * MIB), str(image)])
    run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", str(image)])
    path.mkdir()
    run(["mount", "-o", "loop", str(image), str(path)])
    path.chmod(0o755)


@pytest.fixture(scope="module")
def flooder(libvirt_daemon: None) -> Iterator[Guest]:
    """A guest that overwrites its disk as fast as it can; beside it a small file system, of before its QEMU began."""
    with scratch_directory("flood") as place:
        path, small = place / "flood.raw", place / "small"
        path.write_bytes(os.urandom(64 * MIB))
        mounted(place / "small.img", small, 96)
        try:
            with Guest("flood", place, [Disk(path, format="raw")], mode="flood") as guest:
                guest.wait(r"flooded (\d{2,}) MiB")
                guest.virsh("suspend", guest.name)
                yield guest
        finally:
            run(["umount", str(small)])


@pytest.fixture
def flooding(flooder: Guest) -> Iterator[Guest]:
    """It runs while the test does, whatever the test before did to it."""
    if flooder.state() == "paused":
        flooder.virsh("resume", flooder.name)
    elif flooder.state() != "running":
        flooder.destroy()
        flooder.start()
        flooder.wait(r"flooded (\d{2,}) MiB")
    yield flooder
    if flooder.state() == "running":
        flooder.virsh("suspend", flooder.name)


@pytest.fixture
def small_scratch(engine: Engine, flooder: Guest) -> Iterator[Callable[[int], Path]]:
    """Let the engine have its scratch files where about so many MiB are free."""
    small = flooder.directory / "small"

    def make(free_mib: int) -> Path:
        (small / "taken").write_bytes(bytes(free_bytes(str(small)) - free_mib * MIB))
        engine.scratch_dir = small / "scratch"
        engine.scratch_dir.mkdir(mode=0o711)
        return engine.scratch_dir

    yield make
    shutil.rmtree(small / "scratch")
    (small / "taken").unlink()


@pytest.fixture
def small_fs(place: Path) -> Iterator[Callable[[int], Path]]:
    """Mount an ext4 of so many MiB."""
    with contextlib.ExitStack() as stack:

        def make(mib: int) -> Path:
            mounted(place / "small.img", place / "small", mib)
            stack.callback(run, ["umount", str(place / "small")])
            return place / "small"

        yield make


def test_scratch_max_is_reached(engine: Engine, flooding: Guest) -> None:
    entry = engine.fail(flooding, "scratch_full", rate_limit=MIB, scratch_max=8 * MIB)
    assert "Raise scratch_max" in entry["error"]["message"]
    assert flooding.state() == "running"
    assert job(flooding) == "None"
    assert os.listdir(engine.scratch_dir) == []
    assert_failed(engine, flooding, code="scratch_full", says="overwrote")
    flooding.wait(r"flooded \d+")


def test_the_file_system_of_scratch_fills_up(
    engine: Engine, flooding: Guest, small_scratch: Callable[[int], Path]
) -> None:
    """Faster than any watch may look: the guest pauses at a full disk, and is let go on without having lost a write."""
    scratch = small_scratch(70)
    entry = engine.run(flooding, rate_limit=MIB)
    assert entry["result"] == "failed"
    assert entry["error"]["code"] in ("scratch_full", "guest_paused")
    assert flooding.state() == "running"
    assert job(flooding) == "None"
    assert os.listdir(scratch) == []
    mark = int(flooding.wait(r"flooded (\d+)").group(1))
    wait_for("more flood", lambda: int(flooding.wait(r"flooded (\d+)").group(1)) > mark)
    assert engine.ready(flooding) == []


def test_a_guest_that_was_paused_goes_on(
    engine: Engine, flooding: Guest, small_scratch: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guards look away until QEMU has met the full file system itself."""
    monkeypatch.setattr(_pull.ScratchGuard, "__call__", lambda _self: None)
    monkeypatch.setattr(_pull.SpaceGuard, "__call__", lambda _self: None)
    scratch = small_scratch(36)
    entry = engine.fail(flooding, "guest_paused", rate_limit=MIB)
    assert "paused by a write error" in entry["error"]["message"]
    assert flooding.state() == "running"
    assert os.listdir(scratch) == []
    mark = int(flooding.wait(r"flooded (\d+)").group(1))
    wait_for("more flood", lambda: int(flooding.wait(r"flooded (\d+)").group(1)) > mark)


def test_the_target_is_too_small_from_the_start(engine: Engine, guest: Guest, small_fs: Callable[[int], Path]) -> None:
    engine.backup_dir = small_fs(70)
    failed = engine.fail(guest, "no_space")
    assert "Not enough space in" in failed["error"]["message"]
    assert_unhurt(engine, guest)
    assert_failed(engine, guest, code="no_space", says="Prune old backups")


@pytest.mark.parametrize(("place_of", "code"), [("backup_dir", "target_full"), ("scratch_dir", "scratch_full")])
def test_the_reserve_is_reached(
    engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch, place_of: str, code: str
) -> None:
    """In the middle, long before a write fails: a guest may need what is left."""
    watched, asked = getattr(engine, place_of), []

    def free(path: str) -> int:
        if not Path(path).is_relative_to(watched):
            return free_bytes(path)
        asked.append(path)
        return reserve_bytes(path) - (len(asked) > 1)

    monkeypatch.setattr(_guard, "free_bytes", free)
    entry = engine.fail(guest, code, rate_limit=SLOW)
    assert "before that could hurt a guest" in entry["error"]["message"]
    assert_unhurt(engine, guest)
    assert engine.ready(guest) == []


@pytest.mark.parametrize("free_mib", [0, pytest.param(60, marks=pytest.mark.exhaustive)])
def test_the_target_fills_up_in_the_middle(
    engine: Engine, guest: Guest, small_fs: Callable[[int], Path], free_mib: int
) -> None:
    """By someone else's data: at once to the last byte, or to below the reserve."""
    engine.backup_dir = small_fs(200)
    running = engine.start(guest, rate_limit=SLOW)
    running.middle()
    filler = engine.backup_dir / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while free_bytes(str(engine.backup_dir)) > free_mib * MIB:
                stream.write(bytes(MIB))
        except OSError:
            assert not free_mib
    entry = running.wait()
    assert (entry["result"], entry["error"]["code"]) == ("failed", "target_full"), entry
    assert_unhurt(engine, guest)
    assert_failed(engine, guest, code="target_full", says="Free space there")
    filler.unlink()
    assert_next_run_is_good(engine, guest)
