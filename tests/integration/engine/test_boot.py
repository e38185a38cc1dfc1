# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups are proved by booting them: from here and from S3, beside the running guest, without a trace."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._verify import verify_backups
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VERIFY_ARGUMENTS
from tests.bed.guest import Guest, run, scratch_directory
from tests.bed.s3 import S3Server

from .conftest import writer
from .driver import NODE, Engine, wait_for

# What the guest says once it has read every record on its disks, and found the right one in each place.
INTACT = r"found 1\.\.[1-9]\d* intact"
SCREEN_AND_NETWORK = """
    <video><model type='vga'/></video>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='pty'><target port='1'/></serial>"""


@dataclass
class Stored:
    """A guest that runs, and a backup of it in both places."""

    guest: Guest
    engine: Engine
    entry: dict[str, Any]

    def verify(self, **more: Any) -> Outcome:
        params = {name: spec.get("default") for name, spec in VERIFY_ARGUMENTS.items()}
        params.update(vm=[self.guest.name], level="boot", node=NODE, backup_dir=str(self.engine.backup_dir))
        params.update(scratch_dir=str(self.engine.scratch_dir), screenshot_dir=str(self.engine.place / "pictures"))
        params.update({"boot_memory": 192, "boot_timeout": 300, **more})
        return verify_backups(Request(params))

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((Path(self.entry["path"]) / "verified.json").read_bytes())
        return found

    def traces(self) -> list[str]:
        """Of boot tests, anywhere."""
        found = [name for name in run(["virsh", "list", "--all", "--name"]).stdout.split() if "vmforge-boot" in name]
        found += [name for name in os.listdir(self.engine.scratch_dir) if name != ".boot-lock"]
        found += [str(path) for path in Path("/var/lib/libvirt/qemu").glob("domain-*vmforge-boot*")]
        found += [str(path) for path in Path("/var/log/libvirt/qemu").glob("vmforge-boot*")]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes()
            except OSError:
                continue
            if str(self.engine.place).encode() in words and b"pytest" not in words and b"guest=" not in words:
                found.append(words.replace(b"\0", b" ").decode())
        return found


@pytest.fixture(scope="module")
def stored(libvirt_daemon: None, server: S3Server) -> Iterator[Stored]:
    with (
        scratch_directory("boot") as place,
        writer(place, f"b{uuid.uuid4().hex[:6]}", extra=SCREEN_AND_NETWORK) as guest,
    ):
        options = {"offsite": "s3", **server.params(s3_prefix=f"b/{uuid.uuid4().hex[:8]}")}
        engine = Engine(place, options)
        guest.wait("bed: agent started")
        guest.wait_more(20)
        yield Stored(guest, engine, engine.backup(guest))


def only(outcome: Outcome) -> dict[str, Any]:
    [entry] = outcome.values["backups"]
    found: dict[str, Any] = entry
    return found


def test_the_agent_of_a_machine_booted_beside_the_first_answers(stored: Stored) -> None:
    before = stored.guest.wrote()
    outcome = stored.verify(**stored.engine.s3)
    assert outcome.failure is None, outcome.failure
    entry = only(outcome)
    assert (entry["result"], entry["boot"]["proof"], entry["boot"]["problem"]) == ("good", "agent", None)
    picture = Path(entry["boot"]["screenshot"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.name == f"{stored.entry['id']}.png"
    assert {(check["copy"], check["level"], check["ok"]) for check in stored.record()["results"]} == {
        ("local", "boot", True),
        ("s3", "boot", True),
    }
    assert stored.traces() == []
    # Nobody has noticed.
    assert stored.guest.state() == "running"
    assert stored.guest.wait_more(5) > before


def test_from_s3_alone_the_guest_finds_all_its_records(stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    outcome = stored.verify(backup_dir=str(tmp_path / "empty"), boot_pattern=INTACT, **stored.engine.s3)
    assert outcome.failure is None, outcome.failure
    assert (only(outcome)["result"], only(outcome)["copies"]) == ("good", ["s3"])
    # The agent starts before the records are looked at: it may be the first.
    assert only(outcome)["boot"]["proof"] in ("pattern", "agent")
    assert stored.traces() == []


def test_one_that_does_not_boot_is_told_and_stays_good_as_data(stored: Stored) -> None:
    # Not enough memory for its initramfs.
    outcome = stored.verify(boot_memory=64, boot_timeout=8, boot_pattern="login:")
    entry = only(outcome)
    assert outcome.failure is not None
    assert "did not boot" in outcome.failure
    assert (entry["result"], entry["boot"]["proof"]) == ("bad", None)
    known = {(check["copy"], check["level"], check["ok"]) for check in stored.record()["results"]}
    assert {("local", "data", True), ("local", "boot", False)} <= known
    assert stored.traces() == []


def test_after_kill_9_the_next_run_removes_what_was_left(stored: Stored) -> None:
    pid = os.fork()
    if not pid:
        try:
            stored.verify(boot_pattern="never", boot_timeout=300)
        finally:
            os._exit(1)
    wait_for("the machine", lambda: list(Path("/var/lib/libvirt/qemu").glob("domain-*-vmforge-boot*/monitor.sock")))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for("libvirt", lambda: "vmforge-boot" not in run(["virsh", "list", "--name"]).stdout)
    assert stored.traces() != []
    outcome = stored.verify()
    assert outcome.failure is None, outcome.failure
    assert stored.traces() == []
