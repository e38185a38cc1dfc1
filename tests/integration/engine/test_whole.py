# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that nothing disturbs: what is in them, that it is of one instant, and that a guest boots from it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.bed.guest import MIB, Disk, Guest

from .driver import Engine, assert_nothing_unfinished, assert_unhurt, check_image, compare, job, verify, wait_for


@pytest.mark.parametrize(
    "compression", ["zstd", *(pytest.param(other, marks=pytest.mark.exhaustive) for other in ("zlib", "none"))]
)
def test_all_disks_of_a_running_guest_are_of_one_instant(engine: Engine, guest: Guest, compression: str) -> None:
    before = guest.wrote()
    entry = engine.backup(guest, compression=compression)
    after = guest.wrote()
    assert (entry["result"], entry["type"], entry["consistency"]) == ("created", "full", "quiesced")
    assert entry["copies"] == ["local"]
    path = Path(entry["path"])
    assert before <= verify(path, guest) <= after
    assert {file.name for file in path.iterdir()} == {
        "manifest.json", "domain.xml", "domain-live.xml", "checkpoint.xml", "vda.qcow2", "vdb.qcow2", "vdc.qcow2",
    }  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o700
    # Frozen while it began: the journal of the file system was empty then.
    assert "needs_recovery" not in ext4_features(path / "vdc.qcow2", engine)
    assert_unhurt(engine, guest)
    assert_nothing_unfinished(engine, guest)


def ext4_features(image: Path, engine: Engine) -> str:
    """Say what the superblock of an ext4 in an image says of its features."""
    from .driver import run

    raw = engine.place / "fs.raw"
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)])
    return run(["/sbin/dumpe2fs", "-h", str(raw)])


def test_a_guest_that_is_not_frozen(engine: Engine, guest: Guest) -> None:
    entry = engine.backup(guest, quiesce="never")
    assert entry["consistency"] == "crash"
    verify(Path(entry["path"]), guest)
    assert "needs_recovery" in ext4_features(Path(entry["path"]) / "vdc.qcow2", engine)
    assert_unhurt(engine, guest)


def test_a_backup_is_fresh_until_it_is_too_old(engine: Engine, guest: Guest) -> None:
    first = engine.backup(guest, max_age="1h")
    again = engine.backup(guest, max_age="1h")
    assert (first["result"], again["result"]) == ("created", "fresh")
    assert (again["id"], again["checksum_sha256"]) == (first["id"], first["checksum_sha256"])
    assert again["bytes_read"] == 0
    other = engine.backup(guest, max_age="0s")
    assert other["result"] == "created"
    assert other["id"] > first["id"]


def test_a_moved_backup_of_another_vm_is_not_fresh(engine: Engine, guest: Guest) -> None:
    first = Path(engine.backup(guest)["path"])
    manifest = json.loads((first / "manifest.json").read_bytes())
    manifest["vm"]["uuid"] = "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"
    (first / "manifest.json").write_text(json.dumps(manifest))
    assert engine.backup(guest, max_age="1h")["result"] == "created"


def test_progress_is_told_every_second(engine: Engine, guest: Guest) -> None:
    running = engine.start(guest, rate_limit=6 * MIB)
    running.middle()
    assert job(guest) == "Unbounded"
    seen = []
    while (now := running.progress()) and now["phase"] == "reading":
        if not seen or seen[-1]["updated"] != now["updated"]:
            seen.append(now)
        time.sleep(0.05)
    entry = running.wait()
    assert entry["error"] is None
    assert len(seen) >= 3
    done = [now["bytes_done"] for now in seen]
    assert done == sorted(done)
    assert all(now["bytes_done"] <= now["bytes_total"] for now in seen)
    assert all(now["rate"] < 12 * MIB for now in seen)
    assert seen[-1]["eta"] is not None and seen[-1]["eta"] <= 6
    assert {"id", "vm", "node", "pid", "started", "rate", "bytes_stored"} <= set(seen[0])
    assert entry["seconds"] >= 3
    assert not list(engine.directory(guest).glob("*/progress.json"))


def test_a_second_run_is_told_that_one_is_at_work(engine: Engine, guest: Guest) -> None:
    running = engine.start(guest, rate_limit=4 * MIB)
    running.middle()
    failed = engine.fail(guest, "locked")
    assert "Another process is working on the backups" in failed["error"]["message"]
    elsewhere = engine.fail(guest, "locked", backup_dir=str(wait_for("a directory", lambda: other_directory(engine))))
    assert elsewhere["error"]["phase"] == "starting"
    assert running.wait()["error"] is None
    assert_unhurt(engine, guest)
    assert_nothing_unfinished(engine, guest)


def other_directory(engine: Engine) -> Path:
    path = engine.place / "elsewhere"
    path.mkdir(exist_ok=True)
    return path


def test_a_stopped_guest(engine: Engine, guest_off: Guest) -> None:
    """Identical to its disks."""
    entry = engine.backup(guest_off)
    assert entry["consistency"] == "offline"
    path = Path(entry["path"])
    for disk in guest_off.disks:
        image = path / f"{disk.target}.qcow2"
        check_image(image)
        assert disk.path is not None
        compare(image, disk.path, disk.format)
    verify(path, guest_off)
    assert not (path / "domain-live.xml").exists()
    assert_unhurt(engine, guest_off, state="shut off")


@pytest.mark.exhaustive
def test_a_copy_boots(engine: Engine, guest_off: Guest) -> None:
    """A second guest, started from an overlay on the copy, finds every record."""
    path = Path(engine.backup(guest_off)["path"])
    newest = verify(path, guest_off)
    for copied in (engine.backup_dir, engine.directory(guest_off), path):
        copied.chmod(0o755)
    for image in path.glob("*.qcow2"):
        image.chmod(0o644)
    overlays = [Disk(engine.place / f"{t}.over", target=t, backing=path / f"{t}.qcow2") for t in ("vda", "vdb")]
    with Guest("boots", engine.place, overlays, mode="check", slots=guest_off.slots) as checker:
        checker.wait(rf"found 1\.\.{newest} intact")
        checker.wait_off()
