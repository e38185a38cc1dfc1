# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""However a freeze ends: a guest that may be frozen is thawed, or watched until it is; any other costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError
from ansible_collections.vmforge.backup.plugins.module_utils._freeze import ThawWatchdog
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._quiesce import Quiesce

Answer = Any
SILENT = HypervisorError("silent", code="agent_silent")
AWAY = HypervisorError("away", code="libvirt_unreachable")
NO = HypervisorError("no")


@dataclass
class Guest:
    """Answers as it was told, and counts."""

    frozen: Answer = 2
    thawed: Answer = 2
    state_word: str = "running"
    connected: bool = True
    armed: bool = False
    thaws: int = 0
    warnings: list[str] = field(default_factory=list)

    def state(self) -> SimpleNamespace:
        return SimpleNamespace(state=self.state_word)

    def agent_connected(self) -> bool:
        return self.connected

    def freeze(self, *, timeout: int) -> int:
        assert (timeout, self.armed) == (7, True)
        return self._answer(self.frozen)

    def thaw(self) -> int:
        self.thaws += 1
        return self._answer(self.thawed)

    def arm(self) -> None:
        self.armed = True

    def disarm(self) -> None:
        self.armed = False

    def _answer(self, value: Answer) -> int:
        if isinstance(value, Exception):
            raise value
        return int(value)

    def quiesce(self, *, watched: bool = True) -> Quiesce:
        watchdog = cast(ThawWatchdog, self) if watched else None
        return Quiesce(cast(Domain, self), watchdog, 7, self.warnings)


@pytest.mark.parametrize(
    ("frozen", "thawed", "found", "armed"),
    [
        (2, 2, 2, True),
        (0, 0, 0, True),
        (SILENT, SILENT, 0, True),
        (NO, 0, None, False),
        (NO, NO, None, False),
        (NO, 2, None, False),
        (NO, AWAY, 0, True),
        (NO, SILENT, 0, True),
        (AWAY, AWAY, 0, True),
        (AWAY, 2, None, False),
    ],
    ids=str,
)
def test_freezing(frozen: Answer, thawed: Answer, found: int | None, armed: bool) -> None:
    guest = Guest(frozen, thawed)
    assert guest.quiesce().freeze() == found
    assert guest.armed is armed
    failed = isinstance(frozen, Exception)
    assert len(guest.warnings) == failed
    assert guest.thaws == (failed and frozen is not SILENT)


@pytest.mark.parametrize(("thawed", "found", "armed"), [(2, 2, False), (0, 0, False), (SILENT, 0, True)])
def test_thawing(thawed: Answer, found: int, armed: bool) -> None:
    guest = Guest(armed=True, thawed=thawed)
    assert guest.quiesce().thaw() == found
    assert guest.armed is armed
    assert len(guest.warnings) == isinstance(thawed, Exception)


@pytest.mark.parametrize(
    ("guest", "watched"), [(Guest(state_word="paused"), True), (Guest(connected=False), True), (Guest(), False)]
)
def test_nobody_is_asked_who_could_not_answer(guest: Guest, watched: bool) -> None:
    assert guest.quiesce(watched=watched).freeze() is None
    assert (guest.armed, guest.warnings) == (False, [])
