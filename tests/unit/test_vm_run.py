# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a VM's turn ends."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import BusyError
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef
from ansible_collections.vmforge.backup.plugins.module_utils._processes import run_each
from ansible_collections.vmforge.backup.plugins.module_utils._vm_run import VmRun

VM = VmRef("0f1c2d3e-0000-4000-8000-000000000000", "web1", "node1")


def turn(monkeypatch: pytest.MonkeyPatch, work: Any) -> Any:
    """Do this in a turn, and send a signal behind it, while the watchdog is waited for."""
    options: Any = SimpleNamespace(quiesce="never", backup_dir="/nowhere")

    def run() -> Any:
        made = VmRun(options, VM)
        monkeypatch.setattr(made, "_locked_run", work)
        watchdog = SimpleNamespace(close=lambda: os.kill(os.getpid(), signal.SIGTERM) is None)
        monkeypatch.setattr(made, "_watchdog", watchdog)
        return made.run()

    return run_each([run], parallel=1, died=lambda _index, why: why)[0]


def test_what_is_done_is_told_whatever_comes_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = turn(monkeypatch, lambda: None)
    assert isinstance(entry, dict), entry
    assert entry["error"] is None


def test_so_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BusyError("Another run is at work.")

    assert turn(monkeypatch, fail)["error"]["message"] == "Another run is at work."
