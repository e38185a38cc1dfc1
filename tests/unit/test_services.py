# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that outlive whoever starts them: whoever is stopped in between knows of them all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _services
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError
from ansible_collections.vmforge.backup.plugins.module_utils._services import Service, Services
from ansible_collections.vmforge.backup.plugins.module_utils._signals import cancelled_by_signals


def test_a_signal_waits_until_it_is_known_what_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_services, "_SYSTEMD", tmp_path / "none")
    services = Services(tmp_path)
    service = Service("it", ("/bin/sleep", "600"), tmp_path / "socket", tmp_path / "log")
    fork, pids = os.fork, []

    def signalled() -> int:
        pid = fork()
        if pid:
            pids.append(pid)
            os.kill(os.getpid(), signal.SIGTERM)
        return pid

    monkeypatch.setattr(os, "fork", signalled)
    with pytest.raises(CancelledError, match="SIGTERM"), cancelled_by_signals():
        services.start(service)
    try:
        assert services.running(service)
        services.stop(service)
        assert not services.running(service)
    finally:
        os.kill(pids[0], signal.SIGKILL)
        os.waitpid(pids[0], 0)
