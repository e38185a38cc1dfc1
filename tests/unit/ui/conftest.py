# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages without a server: a list in place of the database, and a runner that starts nothing."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Flask is in an environment of its own.
if importlib.util.find_spec("flask") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import bcrypt
    from flask.testing import FlaskClient

    from vmforge_backup_ui.app import Parts, create_app
    from vmforge_backup_ui.config import WebConfig
    from vmforge_backup_ui.wire import receive, send

URL = "/admin/backups"
VM = "7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed"
PASSWORD = "hush-hush"
NAME = "<script>alert(1)</script>"


def entry(
    backup_id: str, *, vm: str = VM, name: str = "web1", parent: str | None = None, **more: Any
) -> dict[str, Any]:
    """A backup as a listing has it."""
    at = f"{backup_id[:4]}-{backup_id[4:6]}-{backup_id[6:8]}T{backup_id[9:11]}:{backup_id[11:13]}:{backup_id[13:15]}Z"
    made = {
        "vm": {"uuid": VM, "name": name, "node": "node1"},
        "vm_name": name,
        "id": backup_id,
        "status": "ready",
        "type": "incremental" if parent else "full",
        "instant": at,
        "finished_at": at,
        "consistency": "quiesced",
        "parent": {"id": parent, "manifest_sha256": parent[:8] * 8} if parent else None,
        "size_bytes": 1 << 20,
        "checksum_sha256": backup_id[:8] * 8,
        "path": f"/srv/{VM}/{backup_id}",
        "s3_key": None,
        "copies": ["local"],
        "hold": None,
        "verified": None,
        "error": None,
    }
    return {**made, **more}


@dataclass
class StillRunner:
    """Takes orders, and remembers them. ``answer`` is what it says to all that is started."""

    path: Path
    orders: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=lambda: {"job": "20261122T151200Z-0123abcd"})
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        """Answer until the socket is closed."""
        while True:
            try:
                line, _address = listener.accept()
            except OSError:
                return
            with line:
                asked = receive(line)
                if asked["do"] == "start":
                    self.orders.append(asked)
                    send(line, self.answer)
                elif asked["do"] == "jobs":
                    send(line, {"jobs": self.jobs})
                else:
                    found = [job for job in self.jobs if job["job"] == asked["job"]]
                    send(line, {"job": {**found[0], "log": "x"}} if found else {"error": "missing", "message": "gone"})


@dataclass
class Site:
    """The pages, with who may sign in: ``admin``, who may do everything."""

    place: Path
    client: FlaskClient
    runner: StillRunner

    def list(self, *entries: dict[str, Any]) -> None:
        """Say what backups there are."""
        (self.place / "list.json").write_text(json.dumps({"backups": list(entries)}))

    def token(self, page: str = "/sign-in") -> str:
        """What a form of a page would send along."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.client.get(f"{URL}{page}").text)
        assert found
        return found[1]

    def sign_in(self, name: str = "admin", password: str = PASSWORD, **more: str) -> Any:
        """Try."""
        form = {"csrf_token": self.token(), "name": name, "password": password, **more}
        return self.client.post(f"{URL}/sign-in", data=form)

    def post(self, page: str, **form: str) -> Any:
        """Send a form as a page of ours does."""
        return self.client.post(f"{URL}{page}", data={"csrf_token": self.token("/"), **form})

    def audit(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        return [json.loads(line) for line in (self.place / "audit.log").read_text().splitlines()]


def shared(site: Site) -> Parts:
    """What the application has one of for all requests."""
    found: Parts = site.client.application.extensions["vmforge"]
    return found


@pytest.fixture(scope="session")
def hashed() -> str:
    """The password, as cheap as can be: hashing is slow by design."""
    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture
def site(tmp_path: Path, hashed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Nobody is signed in."""
    monkeypatch.setattr("vmforge_backup_ui.auth._NOBODY", hashed)
    runner = StillRunner(tmp_path / "s")
    config = WebConfig(
        runner=str(runner.path),
        audit_log=str(tmp_path / "audit.log"),
        list=str(tmp_path / "list.json"),
        secure=False,
        admin={"name": "admin", "password_hash": hashed},
    )
    app = create_app(config)
    app.testing = True
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runner.path))
        listener.listen()
        threading.Thread(target=runner.serve, args=(listener,), daemon=True).start()
        yield Site(tmp_path, app.test_client(), runner)
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def inside(site: Site) -> Site:
    """The administrator is signed in, and there is a chain of three."""
    first, second, third = "20261101T010000Z", "20261102T010000Z", "20261103T010000Z"
    site.list(entry(first), entry(second, parent=first), entry(third, parent=second))
    assert site.sign_in().status_code == 303
    return site
