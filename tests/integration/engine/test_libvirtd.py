# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirtd that is killed in the middle: QEMU goes on, and so does the backup, or the next one clears up."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _libvirt
from tests.bed.guest import Guest, scratch_directory
from tests.bed.hypervisor import PrivateLibvirt, private_libvirt

from .conftest import writer
from .driver import Engine, assert_nothing_unfinished, assert_unhurt, job, verify
from .ends import SLOW


@dataclass
class Host:
    """A host of its own: a libvirtd that may be killed, a guest that writes there, and an engine."""

    libvirt: PrivateLibvirt
    engine: Engine
    guest: Guest


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """One, with its guest at work."""
    with scratch_directory("libvirtd") as place:
        (place / "libvirt").mkdir()
        with private_libvirt(place / "libvirt") as libvirt:
            engine = Engine(place, namespace=libvirt.holder)
            with writer(place, f"p{uuid.uuid4().hex[:6]}", run=libvirt.run) as guest:
                guest.wait("bed: agent started")
                guest.wait_more(4)
                yield Host(libvirt, engine, guest)


@pytest.fixture
def host(shared: Host, place: Path) -> Iterator[Host]:
    """The same host, with an engine that knows nothing of any before; its libvirtd is there again afterwards."""
    with Engine(place, namespace=shared.libvirt.holder) as engine:
        yield Host(shared.libvirt, engine, shared.guest)
    shared.libvirt.start()


def assert_a_good_backup(host: Host) -> int:
    """A backup can be made, and nothing is left of any before; the newest record in it."""
    entry = host.engine.start(host.guest).wait()
    assert entry["error"] is None, entry
    assert_unhurt(host.engine, host.guest)
    assert_nothing_unfinished(host.engine, host.guest)
    return verify(Path(entry["path"]), host.guest)


def test_it_comes_back(host: Host) -> None:
    """QEMU keeps serving its export; the backup goes on, and its end waits for libvirtd."""
    running = host.engine.start(host.guest, rate_limit=SLOW)
    running.middle()
    host.libvirt.kill()
    time.sleep(2)
    wrote = host.guest.wait_more(4)
    host.libvirt.start()
    entry = running.wait()
    assert entry["error"] is None, entry
    assert verify(Path(entry["path"]), host.guest) <= wrote
    assert_unhurt(host.engine, host.guest)


def test_it_is_killed_together_with_the_backup(host: Host) -> None:
    """The next run finds the job by its socket."""
    running = host.engine.start(host.guest, rate_limit=SLOW)
    running.middle()
    running.kill_all()
    host.libvirt.kill()
    running.wait()
    host.guest.wait_more(4)
    host.libvirt.start()
    assert job(host.guest) == "Unbounded"
    assert_a_good_backup(host)


@pytest.mark.exhaustive
def test_it_does_not_come_back_in_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends and says so; the job and the scratch files are the next run's to clear."""
    monkeypatch.setattr(_libvirt, "_RECONNECT_SECONDS", 2)
    running = host.engine.start(host.guest, rate_limit=SLOW)
    running.middle()
    host.libvirt.kill()
    entry = running.wait()
    assert (entry["result"], entry["error"]["code"]) == ("failed", "libvirt_unreachable"), entry
    assert host.engine.ready(host.guest) == []
    host.guest.wait_more(4)
    host.libvirt.start()
    assert_a_good_backup(host)


@pytest.mark.exhaustive
def test_it_forgets_that_it_was_asked_to_end_the_job(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies right before QEMU hears of it, as often as it likes: it is asked again."""
    monkeypatch.setattr(_libvirt, "_ABORT_SECONDS", 15)
    real = _libvirt.abort_job
    asked: list[float] = []

    def lost(handle: Any) -> None:
        asked.append(time.monotonic())
        if len(asked) > 2:
            real(handle)

    monkeypatch.setattr(_libvirt, "abort_job", lost)
    running = host.engine.start(host.guest)
    entry = running.wait()
    assert entry["error"] is None, entry
    assert_unhurt(host.engine, host.guest)


@pytest.mark.exhaustive
def test_it_is_killed_right_behind_its_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the job shall end was said; whether it was done is seen, not assumed."""
    monkeypatch.setattr(_libvirt, "_ABORT_SECONDS", 15)
    real = _libvirt.abort_job
    killed: list[bool] = []

    def kill_behind(handle: Any) -> None:
        real(handle)
        if not killed:
            killed.append(True)
            host.libvirt.kill(signal.SIGKILL)
            host.libvirt.start()

    monkeypatch.setattr(_libvirt, "abort_job", kill_behind)
    entry = host.engine.start(host.guest).wait()
    assert entry["error"] is None, entry
    assert_unhurt(host.engine, host.guest)
    assert_nothing_unfinished(host.engine, host.guest)
