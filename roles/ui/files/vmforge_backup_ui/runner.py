# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that starts playbooks. It takes a few orders over a socket, and nothing else.

It runs as the user of the schedule, who can log in to the nodes; the pages run as one who can do nothing but ask here.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ansible_runner

from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time, utc_now
from vmforge_backup_ui.actions import Order, order
from vmforge_backup_ui.config import RunnerConfig
from vmforge_backup_ui.errors import BusyError, RefusedError, UiError
from vmforge_backup_ui.jobs import Jobs, remove
from vmforge_backup_ui.progress import clean, progress
from vmforge_backup_ui.wire import receive, send

LOG = logging.getLogger(__name__)
_SECONDS = 10
_SHOWN = 100
# People look on: a line about each machine every two seconds.
_ALWAYS = {"vmforge_backup_progress_interval": 2}
_WORDS = {
    "backup": "a backup",
    "delete": "a deletion",
    "hold": "a hold",
    "free": "the end of a hold",
    "verify": "a verification",
    "restore": "a restore",
    "policy": "a change of policy",
    "list": "a list",
    "status": "a look",
}


class Service:
    """Answers requests, and runs jobs in threads of their own.

    Args:
        config: Of the runner.
    """

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config
        self._jobs = Jobs(Path(config.state) / "jobs", config.keep)
        self._jobs.mark_lost()
        self._running: dict[str, dict[str, Any]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what was asked; an error is an answer, too."""
        try:
            what = request.get("do")
            if what == "start":
                return {"job": self.start(request)}
            if what == "jobs":
                vm = str(request.get("vm") or "")
                found = [record for record in self._jobs.all() if not vm or record["vm"] == vm]
                return {"jobs": [self._with_progress(record) for record in found[:_SHOWN]]}
            if what == "job":
                record = self._jobs.read(str(request.get("job")))
                log = clean(self._jobs.log(record["job"]))
                return {"job": {**self._with_progress(record), "log": log}}
            raise RefusedError("That is no request.")
        except UiError as error:
            return {"error": error.code, "message": error.message}

    def start(self, request: Mapping[str, Any]) -> str:
        """Start a job; its id.

        Raises:
            RefusedError: It is nothing that may be asked for.
            BusyError: Something is at work on the machine, or there is too much to do.
        """
        asked = order(request.get("action"), request.get("vm"), request.get("by"), request.get("values"))
        name = str(request.get("name") or asked.vm)[:200]
        with self._lock:
            self._refuse_busy(asked, name)
            record = self._jobs.begin(
                {"action": asked.action, "vm": asked.vm, "name": name, "by": asked.by, "values": dict(asked.values)}
            )
            self._running[record["job"]] = record
        thread = threading.Thread(target=self._run, args=(asked, record), name=record["job"])
        self._threads[record["job"]] = thread
        thread.start()
        return str(record["job"])

    def stop(self) -> None:
        """End all playbooks, and wait until they have."""
        self._stopping.set()
        for thread in list(self._threads.values()):
            thread.join()

    def _refuse_busy(self, asked: Order, name: str) -> None:
        for other in self._running.values():
            if other["vm"] == asked.vm and (asked.vm or other["action"] == asked.action):
                raise BusyError(
                    f"{other['by']} started {_WORDS[other['action']]} of {name or 'all machines'} at "
                    f"{other['began'][11:19]} UTC, and it is still under way. Wait until it is done.",
                    code="busy",
                )
        if len(self._running) >= self._config.parallel:
            raise BusyError(
                f"{len(self._running)} jobs are under way, as many as may be. Wait until one is done.", code="busy"
            )

    def _run(self, asked: Order, record: dict[str, Any]) -> None:
        try:
            done = self._list(record["job"]) if asked.action == "list" else self._play(asked, record["job"])
            if self._config.list and done["state"] == "done" and asked.action not in ("list", "status"):
                self._refresh(asked.by)
        except (OSError, ValueError, RuntimeError, ansible_runner.exceptions.AnsibleRunnerException) as error:
            LOG.exception("job %s", record["job"])
            done = {"state": "failed", "message": f"Its playbook could not be started: {error}"}
        with self._lock:
            self._jobs.write({**record, **done, "ended": format_time(utc_now())})
            self._running.pop(record["job"], None)
            self._threads.pop(record["job"], None)
        self._jobs.forget_old()

    def _refresh(self, by: str) -> None:
        """Where no database is kept, the list has to say what the nodes have now."""
        record = self._jobs.begin({"action": "list", "vm": "", "name": "", "by": by, "values": {}})
        self._jobs.write({**record, **self._list(record["job"]), "ended": format_time(utc_now())})

    def _list(self, job: str) -> dict[str, Any]:
        """List all backups into the file that the pages read."""
        asked = order("list", "", "the runner", {})
        if not self._config.list:
            return self._play(asked, job)
        target, new = Path(self._config.list), self._jobs.place(job) / "list.json"
        done = self._play(replace(asked, variables={"vmforge_backup_list_output": str(new)}), job)
        if new.exists():
            # A list that lacks a node is better than an older one; the job says what is missing.
            near = target.with_name(f".{target.name}.new")
            shutil.copyfile(new, near)
            os.chown(near, -1, target.parent.stat().st_gid)
            near.chmod(0o640)
            os.replace(near, target)
            new.unlink()
        return done

    def _play(self, asked: Order, job: str) -> dict[str, Any]:
        place = self._jobs.place(job)
        told: list[str] = []

        def listen(event: Mapping[str, Any]) -> bool:
            told.extend(_complaint(event))
            # The lines stay; the events of a large fleet would take far more room.
            return False

        done = ansible_runner.run(
            private_data_dir=str(place),
            project_dir=str(place),
            ident=job,
            playbook=f"{self._config.playbooks}{asked.playbook}",
            extravars={**_ALWAYS, **asked.variables},
            cmdline=shlex.join(self._config.arguments) or None,
            envvars={
                "ANSIBLE_CONFIG": self._config.ansible_config,
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_RETRY_FILES_ENABLED": "0",
                "LC_ALL": "C.UTF-8",
                "PATH": self._config.path,
            },
            quiet=True,
            event_handler=listen,
            cancel_callback=self._stopping.is_set,
        )
        remove(place / "env")
        state = "done" if done.rc == 0 else "lost" if self._stopping.is_set() else "failed"
        message = "" if state == "done" else told[-1] if told else f"The playbook ended with code {done.rc}."
        return {"state": state, "code": done.rc, "message": message}

    def _with_progress(self, record: dict[str, Any]) -> dict[str, Any]:
        if record["state"] != "running":
            return record
        found = progress(clean(self._jobs.log(record["job"])).splitlines())
        return {**record, "task": found.task, "percent": found.percent, "text": found.text}


def _complaint(event: Mapping[str, Any]) -> list[str]:
    """What a failed task says; what only a later report tells of counts for more, so the last one is shown."""
    if event.get("event") not in ("runner_on_failed", "runner_on_unreachable"):
        return []
    data = event.get("event_data") or {}
    result = data.get("res") or {}
    return [clean(str(result.get("msg")))[:2000]] if result.get("msg") else []


def serve(config: RunnerConfig, path: str) -> None:
    """Answer until SIGTERM. The socket is systemd's, or else one of its own at ``path``."""
    service = Service(config)
    listener = _listener(path)

    def end(_number: int, _frame: object) -> None:
        listener.close()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    while True:
        try:
            line, _address = listener.accept()
        except OSError:
            break
        threading.Thread(target=_talk, args=(service, line), daemon=True).start()
    service.stop()


def _listener(path: str) -> socket.socket:
    if os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=3)
    listener = socket.socket(socket.AF_UNIX)
    Path(path).unlink(missing_ok=True)
    before = os.umask(0o117)
    listener.bind(path)
    os.umask(before)
    listener.listen()
    return listener


def _talk(service: Service, line: socket.socket) -> None:
    with line:
        line.settimeout(_SECONDS)
        try:
            send(line, service.answer(receive(line)))
        except (OSError, ValueError) as error:
            LOG.warning("a request was cut off: %s", error)
