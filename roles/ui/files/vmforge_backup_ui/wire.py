# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the pages talk to the runner: one line of JSON each way over a UNIX socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from vmforge_backup_ui.errors import AwayError, BusyError, MissingError, RefusedError, UiError

MOST = 1 << 20
_SECONDS = 10
_ERRORS: Mapping[str, type[UiError]] = {"busy": BusyError, "missing": MissingError}


class Runner:
    """The runner, as the pages see it.

    Args:
        path: Of its socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def start(self, action: str, vm: str, by: str, name: str, values: Mapping[str, Any]) -> str:
        """Start an action; the id of its job.

        Args:
            name: Of the machine, for people.

        Raises:
            BusyError: Something else is at work on this machine.
            RefusedError: The runner does not take it.
            AwayError: There is no runner.
        """
        asked = {"do": "start", "action": action, "vm": vm, "by": by, "name": name, "values": dict(values)}
        return str(self._ask(asked)["job"])

    def jobs(self, vm: str = "") -> list[dict[str, Any]]:
        """The jobs that it remembers, newest first; those of one machine, if one is given."""
        return list(self._ask({"do": "jobs", "vm": vm})["jobs"])

    def job(self, job: str) -> dict[str, Any]:
        """One job, with the end of its ``log``."""
        return dict(self._ask({"do": "job", "job": job})["job"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(_SECONDS)
                line.connect(self._path)
                send(line, request)
                answer = receive(line)
        except (OSError, ValueError) as error:
            raise AwayError(
                "The program that starts the playbooks does not answer, so nothing can be started now. On the master: "
                "systemctl status vmforge-backup-ui-runner.socket"
            ) from error
        if "error" in answer:
            kind = _ERRORS.get(str(answer["error"]), RefusedError)
            raise kind(str(answer.get("message")), code=str(answer["error"]))
        return answer


def send(line: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message."""
    line.sendall(json.dumps(message).encode() + b"\n")


def receive(line: socket.socket) -> dict[str, Any]:
    """Receive one message.

    Raises:
        ValueError: It is none, or too long.
        OSError: The other side is gone.
    """
    data = b""
    while not data.endswith(b"\n"):
        more = line.recv(1 << 16)
        if not more or len(data) > MOST:
            raise ValueError("no message")
        data += more
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("no message")
    return message
