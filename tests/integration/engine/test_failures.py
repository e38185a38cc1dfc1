# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures that nobody planned for: on record with their type and place, and harmless for the guest all the same."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _capture, _vm_run
from ansible_collections.vmforge.backup.plugins.module_utils._guard import SpaceGuard
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import BlockReader
from ansible_collections.vmforge.backup.plugins.module_utils._pull import PullSource
from tests.bed.guest import Guest

from .driver import Engine, assert_unhurt
from .ends import SLOW, assert_failed, assert_next_run_is_good

PLACES = {
    "in the main thread": (_capture, "read_definitions", ValueError("odd")),
    "out of memory in a reader": (BlockReader, "read", MemoryError()),
    "in a watch": (PullSource, "_check_guest", KeyError("odd")),
    "in the guard of the target": (SpaceGuard, "__call__", ZeroDivisionError("odd")),
    "at the manifest": (_capture.Capture, "_write_manifest", TypeError("odd")),
}


@pytest.mark.parametrize("spot", PLACES)
def test_a_fault_of_ours(engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch, spot: str) -> None:
    where, name, error = PLACES[spot]

    def fail(*_arguments: Any, **_more: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        # There must be more to read where it happens meanwhile.
        entry = engine.fail(guest, "internal", rate_limit=None if spot == "at the manifest" else SLOW)
    message = entry["error"]["message"]
    assert type(error).__name__ in message
    assert "test_failures.py:" in message, "the place"
    assert_unhurt(engine, guest)
    assert_failed(engine, guest, code="internal", says=type(error).__name__, phase=entry["error"]["phase"])


def test_a_fault_before_anything_was_begun(engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_more: Any) -> None:
        raise AttributeError("odd")

    with monkeypatch.context() as patch:
        patch.setattr(_vm_run, "plan_turn", fail)
        entry = engine.fail(guest, "internal")
    assert entry["vm"] == {"uuid": guest.uuid, "name": guest.name}
    assert engine.partials(guest) == []
    assert_next_run_is_good(engine, guest)
