# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A socket has its name a moment before anybody listens: who connects then is refused."""

from __future__ import annotations

import socket
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._qemu import listens


def test_a_socket_is_ready_when_somebody_listens(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert not listens(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert path.exists()
        assert not listens(path)
        server.listen()
        assert listens(path)
    assert not listens(path)
