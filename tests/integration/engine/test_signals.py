# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are asked to stop, or killed: what must be done is done, by them or by the next run."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from tests.bed.guest import Guest

from .driver import Engine, assert_nothing_unfinished, assert_unhurt, job, qemu_nbds, wait_for
from .ends import SLOW, assert_failed, assert_next_run_is_good

_MORE = pytest.mark.exhaustive


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=_MORE), pytest.param(signal.SIGHUP, marks=_MORE)]
)
def test_a_signal_ends_it_cleanly(engine: Engine, guest: Guest, number: int) -> None:
    running = engine.start(guest, rate_limit=SLOW)
    running.middle()
    running.kill(number)
    entry = running.wait()
    assert (entry["result"], entry["error"]["code"]) == ("failed", "cancelled")
    assert signal.Signals(number).name in entry["error"]["message"]
    assert_unhurt(engine, guest)
    assert_failed(engine, guest, code="cancelled", says="was stopped by")
    assert os.listdir(engine.directory(guest)) != []


def test_a_second_signal_does_not_interrupt_the_cleaning_up(engine: Engine, guest: Guest) -> None:
    running = engine.start(guest, rate_limit=SLOW)
    running.middle()
    for _turn in range(20):
        running.kill(signal.SIGTERM)
        time.sleep(0.005)
    assert running.wait()["error"]["code"] == "cancelled"
    assert_unhurt(engine, guest)
    assert_failed(engine, guest, code="cancelled", says="SIGTERM")


@pytest.mark.parametrize("everything", [False, True])
def test_kill_9_and_the_next_run(engine: Engine, guest: Guest, everything: bool) -> None:
    running = engine.start(guest, rate_limit=SLOW)
    child = running.middle()
    if everything:
        running.kill_all()
        assert running.wait() == {}
    else:
        running.kill(pid=child)
        entry = running.wait()
        assert (entry["result"], entry["why"]) == ("died", "its process was killed by SIGKILL")
    assert engine.ready(guest) == []
    assert [entry["status"] for entry in engine.entries(guest)] == ["partial"]
    # The job outlives its client, and the guest goes on meanwhile.
    assert job(guest) == "Unbounded"
    guest.wait_more(5)
    assert_next_run_is_good(engine, guest)
    (failure,) = engine.failures(guest)
    assert (failure["code"], failure["phase"]) == ("interrupted", "reading")
    assert "killed, or the host went down" in failure["message"]


# A moment, and whether it is always tried before the call or behind it.
MOMENTS = {"freeze": "behind", "thaw": "before", "begin_backup": "behind", "abort_backup": "before"}


@pytest.mark.parametrize(
    ("moment", "side"),
    [
        pytest.param(moment, side, marks=() if side == always else _MORE)
        for moment, always in MOMENTS.items()
        for side in ("before", "behind")
    ],
)
def test_a_signal_at_the_worst_moment(
    engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch, moment: str, side: str
) -> None:
    """Right before or right behind a call into libvirt; what must be done is done all the same."""
    real, early = getattr(Domain, moment), side == "before"
    sent = []

    def signalled(domain: Domain, *args: Any, **more: Any) -> Any:
        for now in (True, False):
            if now == early and not sent:
                sent.append(True)
                os.kill(os.getpid(), signal.SIGTERM)
            if now:
                answer = real(domain, *args, **more)
        return answer

    monkeypatch.setattr(Domain, moment, signalled)
    entry = engine.run(guest)
    assert (entry["result"], entry["error"]["code"]) == ("failed", "cancelled"), entry
    assert_unhurt(engine, guest)
    assert engine.ready(guest) == []


def test_kill_9_while_a_stopped_guest_is_read(engine: Engine, guest_off: Guest) -> None:
    guest = guest_off
    running = engine.start(guest, rate_limit=SLOW)
    running.kill(pid=running.middle())
    assert running.wait()["result"] == "died"
    wait_for("the end of qemu-nbd, by its parent's death", lambda: not qemu_nbds(guest), 10)
    engine.backup(guest)
    assert_unhurt(engine, guest, state="shut off")
    assert_nothing_unfinished(engine, guest)
