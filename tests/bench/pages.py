# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages in the browser over 10,000 backups, with a real MariaDB: milliseconds of server time for each."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BACKUPS, VMS, TARGET_MS = 10_000, 200, 300
_ROUNDS = 7
_URL = "/admin/backups"


def measure() -> dict[str, Any]:
    """Ask for each page some times, in the environment that has what the pages need: its name -> milliseconds."""
    sys.path.insert(0, str(ROOT / "tools"))
    from environments import link, ui_environment

    path = os.pathsep.join(str(place) for place in (ROOT, link(), ROOT / "roles" / "ui" / "files"))
    argv = [ui_environment().make().bin("python"), "-m", "tests.bench.pages", "json"]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"bench: the pages cannot be measured: {done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    return [
        f"page, {name:36}{taken['first']:6.0f} ms first, then {taken['then']:4.0f} ms   to reach: {TARGET_MS} ms  "
        f"{'yes' if taken['then'] <= TARGET_MS else 'NO'}   "
        f"(processor: {taken['first_processor']:.0f}, then {taken['then_processor']:.0f} ms)"
        for name, taken in report.items()
    ]


def _measured() -> dict[str, dict[str, float]]:
    from tests.bed.history import fill, uuid_of
    from tests.bed.mariadb import mariadb
    from vmforge_backup_ui.__main__ import collect_seldom

    collect_seldom()
    found: dict[str, dict[str, float]] = {}
    with mariadb() as server:
        for words, backups, gone in (
            (f"{VMS} machines", [BACKUPS // VMS] * VMS, 0),
            ("the same and 100,000 gone", [BACKUPS // VMS] * VMS, 100_000 // VMS),
            ("1 machine", [BACKUPS], 0),
        ):
            _panel(server)
            fill(server, backups, gone=gone)
            with tempfile.TemporaryDirectory() as place:
                client = _client(server, Path(place))
                vm = f"/vms/{uuid_of(0)}"
                for name, path in (
                    ("list", "/"),
                    ("its chart", "/stored"),
                    ("search", "/?q=vm1&sort=age"),
                    ("machine", vm),
                    ("policy", f"{vm}/policy"),
                ):
                    found[f"{words}: {name}"] = _asked(client, _URL + path, server.process.pid)
    return found


def _panel(server: Any) -> None:
    from ansible_collections.vmforge.backup.plugins.module_utils._migrate import SCHEMA_ARGUMENTS, migrate
    from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
    from tests.bed.panel import PANEL

    server.reset(*PANEL)
    defaults = {name: argument.get("default") for name, argument in SCHEMA_ARGUMENTS.items()}
    migrate(Request({**defaults, **server.params()}))


def _client(server: Any, place: Path) -> Any:
    from vmforge_backup_ui.app import create_app
    from vmforge_backup_ui.auth import hash_password
    from vmforge_backup_ui.config import WebConfig

    database = {name: value for name, value in server.params().items() if name.startswith("db_")}
    admin = {"name": "admin", "password_hash": hash_password("admin")}
    config = WebConfig(
        runner=str(place / "none"), audit_log=str(place / "log"), secure=False, database=database, admin=admin
    )
    client = create_app(config).test_client()
    token = re.search('name="csrf_token" value="([^"]+)"', client.get(f"{_URL}/sign-in").text)
    assert token
    form = {"csrf_token": token[1], "name": "admin", "password": "admin"}
    assert client.post(f"{_URL}/sign-in", data=form).status_code == 303
    return client


def _asked(client: Any, path: str, database: int) -> dict[str, float]:
    """The first time, when nothing of it is known yet, and the median of the times after it.

    Processor time, of the pages and of the database together, is what other load changes least.
    """
    taken, used = [], []
    for _round in range(_ROUNDS):
        begun, before = time.perf_counter(), _processor(database)
        answer = client.get(path)
        taken.append((time.perf_counter() - begun) * 1000)
        used.append((_processor(database) - before) * 1000)
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status_code}")
    return {
        "first": round(taken[0], 1),
        "then": round(statistics.median(taken[1:]), 1),
        "first_processor": round(used[0], 1),
        "then_processor": round(statistics.mean(used[1:]), 1),
    }


def _processor(database: int) -> float:
    words = Path(f"/proc/{database}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    if sys.argv[1:] == ["json"]:
        print(json.dumps(_measured()))
    else:
        print("\n".join(lines(measure())))
