# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: one line of JSON for each sign-in and each action, also for those that were refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time, utc_now


class Audit:
    """Appends; opened anew for each line, so that the file can be rotated.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()

    def write(self, event: str, *, by: str, address: str, **values: Any) -> None:
        """Write down one event. An error is raised: what cannot be written down is not done."""
        line = {"at": format_time(utc_now()), "event": event, "by": by[:200], "address": address, **values}
        data = (json.dumps(line, sort_keys=False) + "\n").encode()
        with self._lock:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                if os.write(file, data) != len(data):
                    raise OSError(f"{self._path} took only a part of a line")
            finally:
                os.close(file)
