# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a backup may end: what must be on record, and that the next run is good."""

from __future__ import annotations

from pathlib import Path

from tests.bed.guest import MIB, Guest

from .driver import Engine, assert_nothing_unfinished, assert_unhurt, verify

# Bytes a second: enough time to hit it in the middle.
SLOW = 3 * MIB
# For what must not end by itself while a slow machine makes up its mind.
CRAWL = MIB


def assert_failed(engine: Engine, guest: Guest, *, code: str, says: str, phase: str = "reading") -> None:
    """The last failure is on record, in words that help; and there is no backup."""
    failure = engine.failures(guest)[-1]
    assert failure["code"] == code, failure
    assert says in failure["message"], failure
    assert failure["phase"] == phase, failure
    assert failure["vm"] == {"uuid": guest.uuid, "name": guest.name}
    assert engine.ready(guest) == []
    assert engine.partials(guest) == []


def assert_next_run_is_good(engine: Engine, guest: Guest) -> None:
    """Whatever was left is gone, and a whole backup is made."""
    before = guest.wrote()
    entry = engine.backup(guest)
    assert entry["result"] == "created"
    assert_unhurt(engine, guest)
    assert_nothing_unfinished(engine, guest)
    assert verify(Path(entry["path"]), guest) >= before
