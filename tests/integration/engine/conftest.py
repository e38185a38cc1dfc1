# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest that writes for all tests, an engine of its own for each test, and S3."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.guest import run as run_program
from tests.bed.s3 import S3Server, weed

from .driver import Engine, is_connected, noise, wait_for

NOISE_MIB = 24


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS: rights, versions, locks."""
    with weed(tmp_path_factory.mktemp("weed-engine")) as found:
        yield found


def writer(place: Path, name: str, **more: Any) -> Guest:
    """A guest with records on a qcow2 and a raw disk, and a mounted ext4 that its agent freezes."""
    raw = place / "noise.raw"
    run_program(["truncate", "-s", str(48 * MIB), str(raw)])
    # Far behind the records: it makes the backup long enough to be hit in the middle.
    noise(raw, (16 * MIB, NOISE_MIB * MIB))
    run_program(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(place / "vda.qcow2")])
    raw.unlink()
    disks = [
        Disk(place / "vda.qcow2"),
        Disk(place / "vdb.raw", format="raw", target="vdb", size=20 * MIB),
        Disk(place / "vdc.qcow2", target="vdc", size=16 * MIB, fs_mib=12),
    ]
    # With a pause and few places: it must not eat a processor, while it writes or as it looks at what is there.
    settings: dict[str, Any] = {
        "agent": True,
        "fs": "vdc",
        "records_on": ["vda", "vdb"],
        "pause": 250_000,
        "slots": 128,
    }
    return Guest(name, place, disks, **{**settings, **more})


@pytest.fixture(scope="session")
def shared_guest(libvirt_daemon: None) -> Iterator[Guest]:
    """The guest of all tests that need no other, started."""
    with scratch_directory("engine") as place, writer(place, f"e{uuid.uuid4().hex[:6]}") as guest:
        yield guest


@pytest.fixture
def guest(shared_guest: Guest) -> Iterator[Guest]:
    """The shared guest, running and writing, whatever the test before did to it; it sleeps between the tests."""
    if shared_guest.state() == "paused":
        shared_guest.virsh("resume", shared_guest.name)
    # Also where libvirt has lost its agent: see test_a_stopped_guest_is_started_meanwhile.
    if shared_guest.state() != "running" or not is_connected(shared_guest):
        shared_guest.destroy()
        shared_guest.start()
    shared_guest.wait("bed: agent started")
    wait_for("the agent", lambda: is_connected(shared_guest))
    shared_guest.wait_more(2)
    yield shared_guest
    if shared_guest.state() == "running":
        shared_guest.virsh("suspend", shared_guest.name)


@pytest.fixture
def guest_off(shared_guest: Guest) -> Guest:
    """The shared guest, off, whatever the test before did to it."""
    if shared_guest.state() == "paused":
        shared_guest.virsh("resume", shared_guest.name)
    if shared_guest.state() == "running":
        # Before it has booted it does not hear the button; and without a record there is nothing to prove.
        shared_guest.wait_more(2)
    shared_guest.stop()
    return shared_guest


@pytest.fixture
def engine(place: Path) -> Iterator[Engine]:
    """An engine with directories of its own."""
    with Engine(place) as made:
        yield made


@pytest.fixture
def offsite(place: Path, server: S3Server) -> Iterator[Engine]:
    """An engine that also stores in S3, under a prefix of its own."""
    with Engine(place, {"offsite": "s3", **server.params(s3_prefix=f"e/{uuid.uuid4().hex[:8]}")}) as made:
        yield made
