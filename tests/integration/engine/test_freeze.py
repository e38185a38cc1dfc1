# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezing a guest: however it ends, the guest is thawed, and only what was frozen is called quiesced."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from tests.bed.guest import MIB, Disk, Guest

from .driver import Engine, assert_nothing_unfinished, assert_unhurt, is_frozen, wait_for
from .ends import assert_next_run_is_good


def test_the_freezing_process_dies_and_the_watchdog_thaws(
    engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_self: Domain, _xml: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Domain, "begin_backup", die)
    entry = engine.run(guest)
    assert entry["result"] == "died"
    wait_for("thawed", lambda: not is_frozen(guest), 15)
    guest.wait_more(5)
    monkeypatch.undo()
    assert_next_run_is_good(engine, guest)


def test_the_deadline_of_the_freeze(engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job takes too long to begin: the watchdog thaws meanwhile, and the backup calls itself crash-consistent."""
    begin = Domain.begin_backup

    def dawdle(domain: Domain, xml: str) -> None:
        wait_for("thawed by the watchdog", lambda: not is_frozen(guest), 20)
        begin(domain, xml)

    monkeypatch.setattr(Domain, "begin_backup", dawdle)
    entry = engine.backup(guest, freeze_timeout=2)
    assert entry["consistency"] == "crash"
    assert_unhurt(engine, guest)
    failed = engine.fail(guest, "not_quiesced", freeze_timeout=2, quiesce="required")
    assert "quiesce is 'required'" in failed["error"]["message"]
    assert_unhurt(engine, guest)
    assert engine.partials(guest) == []
    assert len(engine.ready(guest)) == 1
    assert_nothing_unfinished(engine, guest)


def test_quiesce_is_required_and_there_is_no_agent(engine: Engine, place: Path, libvirt_daemon: None) -> None:
    with Guest("plain", place, [Disk(place / "vda.qcow2", size=16 * MIB)], pause=60_000) as plain:
        plain.wait_more(5)
        engine.fail(plain, "not_quiesced", quiesce="required")
        assert_unhurt(engine, plain)
        assert engine.backup(plain)["consistency"] == "crash"
        assert_unhurt(engine, plain)


def test_the_guest_dies_while_it_is_frozen(engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog must not go on trying to thaw what is not there any more."""

    def destroy(_domain: Domain, _xml: str) -> None:
        guest.destroy()
        raise HypervisorError("The domain went away.")

    monkeypatch.setattr(Domain, "begin_backup", destroy)
    begun = time.monotonic()
    assert engine.backup(guest)["consistency"] == "offline"
    assert time.monotonic() - begun < 30
    assert_unhurt(engine, guest, state="shut off")
    assert_nothing_unfinished(engine, guest)
