# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest goes away, comes up, or has a job of someone else, while it is backed up."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import pytest

from tests.bed.guest import Guest

from .driver import Engine, assert_nothing_unfinished, assert_unhurt, job, qemu_nbds, verify, wait_for
from .ends import SLOW, assert_failed, assert_next_run_is_good


@pytest.mark.parametrize("way", ["power button", "destroy", "kill -9 of QEMU"])
def test_the_guest_goes_away(engine: Engine, guest: Guest, way: str) -> None:
    running = engine.start(guest, rate_limit=SLOW)
    running.middle()
    if way == "power button":
        # Half a minute, with any pull job whatever: libvirt 9.0 waits for the job before it looks at QEMU's end.
        guest.stop(timeout=120)
    elif way == "destroy":
        guest.destroy()
    else:
        os.kill(guest.pid(), signal.SIGKILL)
    entry = running.wait(150)
    assert (entry["result"], entry["error"]["code"]) == ("failed", "job_lost"), entry
    wait_for("the end of the guest", lambda: guest.state() == "shut off")
    assert_unhurt(engine, guest, state="shut off")
    assert_failed(engine, guest, code="job_lost", says="the domain was stopped")
    # Off, it is read without QEMU's help.
    assert engine.backup(guest)["consistency"] == "offline"
    assert_unhurt(engine, guest, state="shut off")
    assert_nothing_unfinished(engine, guest)


def test_someone_ends_our_job(engine: Engine, guest: Guest) -> None:
    running = engine.start(guest, rate_limit=SLOW)
    running.middle()
    guest.virsh("domjobabort", guest.name)
    assert running.wait(30)["error"]["code"] == "job_lost"
    assert_unhurt(engine, guest)
    assert_failed(engine, guest, code="job_lost", says="ended by someone else")


def test_a_job_that_is_not_ours_is_left_alone(engine: Engine, guest: Guest) -> None:
    xml = engine.place / "foreign.xml"
    scratch = engine.place / "foreign"
    scratch.mkdir(mode=0o777)
    scratch.chmod(0o777)
    disks = "".join(
        f"<disk name='{disk.target}' type='file'><scratch file='{scratch}/{disk.target}'/></disk>"
        for disk in guest.disks
    )
    server = f"<server transport='unix' socket='{scratch}/other'/>"
    xml.write_text(f"<domainbackup mode='pull'>{server}<disks>{disks}</disks></domainbackup>")
    guest.virsh("backup-begin", guest.name, str(xml))
    try:
        failed = engine.fail(guest, "foreign_job")
        assert f"virsh domjobabort {guest.name}" in failed["error"]["message"]
        assert job(guest) == "Unbounded"
        assert f"{scratch}/other" in guest.virsh("backup-dumpxml", guest.name)
    finally:
        guest.virsh("domjobabort", guest.name)
        wait_for("the end of the foreign job", lambda: job(guest) == "None")
    assert_next_run_is_good(engine, guest)


def test_a_stopped_guest_is_started_meanwhile(engine: Engine, guest: Guest) -> None:
    guest.stop()
    running = engine.start(guest, rate_limit=SLOW)
    running.middle()
    assert len(qemu_nbds(guest)) == 3
    guest.start()
    guest.wait("bed: agent started")
    entry = running.wait()
    assert entry["error"] is None
    assert entry["consistency"] in ("quiesced", "crash")
    assert any("was started while its disks were read" in text for text in entry["warnings"]), entry
    verify(Path(entry["path"]), guest)
    # libvirt 9.0 forgets an agent that comes up while a job runs for over 30 s (seen), so it is not asked here.
    assert_unhurt(engine, guest, agent=False)
    assert_nothing_unfinished(engine, guest)
    assert len(engine.entries(guest)) == 1


def test_what_belongs_to_another_guest_is_left_alone(engine: Engine, guest: Guest) -> None:
    """A stranger's scratch file and socket are no concern of ours."""
    other = engine.scratch_dir / f"{uuid.uuid4()}-vda.scratch"
    other.write_bytes(b"x")
    engine.backup(guest)
    assert other.read_bytes() == b"x"
    other.unlink()
    assert_unhurt(engine, guest)
