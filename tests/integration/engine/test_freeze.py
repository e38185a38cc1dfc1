# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezing a guest: however it ends, the guest is thawed, and only what was frozen is called quiesced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _freeze
from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from tests.bed.guest import Guest

from .driver import Engine, assert_nothing_unfinished, assert_unhurt, is_connected, is_frozen, verify, wait_for
from .ends import assert_next_run_is_good


def test_the_freezing_process_dies_and_the_watchdog_thaws(
    engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_self: Domain, *_xml: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Domain, "begin_backup", die)
    entry = engine.run(guest)
    assert entry["result"] == "died"
    wait_for("thawed", lambda: not is_frozen(guest))
    guest.wait_more(5)
    monkeypatch.undo()
    assert_next_run_is_good(engine, guest)


def test_the_deadline_of_the_freeze(engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job takes too long to begin: the watchdog thaws meanwhile, and the backup calls itself crash-consistent."""
    begin = Domain.begin_backup

    def dawdle(domain: Domain, *xml: Any) -> None:
        wait_for("thawed by the watchdog", lambda: not is_frozen(guest))
        begin(domain, *xml)

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


def test_a_job_that_cannot_begin_leaves_the_thaw_to_nobody(
    engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog is for a process that died; this one lives, and thaws at once."""

    def refuse(_domain: Domain, *_xml: Any) -> None:
        assert is_frozen(guest)
        raise HypervisorError("No job today.")

    monkeypatch.setattr(Domain, "begin_backup", refuse)
    monkeypatch.setattr(_freeze.ThawWatchdog, "_thaw", lambda _self: False)
    try:
        entry = engine.fail(guest, "hypervisor")
        assert "No job today." in entry["error"]["message"]
        assert entry["warnings"] == []
        assert not is_frozen(guest)
        assert_unhurt(engine, guest)
    finally:
        with contextlib.suppress(RuntimeError):
            guest.virsh("domfsthaw", guest.name)


def test_the_guest_dies_while_it_is_frozen(engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog must not go on trying to thaw what is not there any more."""

    def destroy(_domain: Domain, *_xml: Any) -> None:
        guest.destroy()
        raise HypervisorError("The domain went away.")

    monkeypatch.setattr(Domain, "begin_backup", destroy)
    monkeypatch.setattr(_freeze, "_TRY_SECONDS", 1800.0)
    begun = time.monotonic()
    assert engine.backup(guest)["consistency"] == "offline"
    assert time.monotonic() - begun < 900
    assert_unhurt(engine, guest, state="shut off")
    assert_nothing_unfinished(engine, guest)


def test_an_agent_that_does_not_answer(engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its channel and says nothing: the backup is made, and calls itself what it is."""
    monkeypatch.setattr(_freeze, "_TRY_SECONDS", 2.0)
    monkeypatch.setitem(Domain.thaw.__kwdefaults__, "timeout", 2)
    stop = {"path": "/bin/busybox", "arg": ["killall", "-STOP", "qemu-ga"]}
    with contextlib.suppress(RuntimeError):
        # Its answer may come, or not.
        order = json.dumps({"execute": "guest-exec", "arguments": stop})
        guest.virsh("qemu-agent-command", guest.name, "--timeout", "2", order)
    try:
        wait_for("silence", lambda: is_silent(guest))
        entry = engine.backup(guest, freeze_timeout=2)
        assert entry["consistency"] == "crash"
        told = " ".join(entry["warnings"])
        assert "could not be frozen" in told
        assert "does not answer, so it is not certain that its file systems are thawed" in told
        assert f"virsh domfsthaw {guest.uuid}" in told
        verify(Path(entry["path"]), guest)
        failed = engine.fail(guest, "not_quiesced", freeze_timeout=2, quiesce="required")
        assert "Is the guest agent running?" in failed["error"]["message"]
        assert_nothing_unfinished(engine, guest)
        guest.wait_more(4)
    finally:
        guest.destroy()


def is_silent(guest: Guest) -> bool:
    """Whether the agent leaves a ping without an answer."""
    try:
        guest.virsh("qemu-agent-command", guest.name, "--timeout", "2", '{"execute": "guest-ping"}')
    except RuntimeError:
        return is_connected(guest)
    return False
