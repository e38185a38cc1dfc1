# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection awx.awx, and as much of AWX's API as its modules need to make objects and to look at them again."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements" / "awx.txt"
_PREFIX = "ansible_collections/awx/awx/"
_API = "/api/v2/"
_ENCRYPTED = "$encrypted$"
# What AWX adds to new objects by itself, as far as modules look at it.
_ADDED: dict[str, dict[str, Any]] = {"projects": {"scm_revision": ""}}


def awx_collections() -> Path:
    """A directory of collections with awx.awx in it, taken out of its package on first use.

    The whole package would be 60,000 files.
    """
    wanted = REQUIREMENTS.read_text()
    place = ROOT / ".cache" / "awx"
    stamp = place / "made-from"
    if stamp.exists() and stamp.read_text() == wanted:
        return place
    shutil.rmtree(place, ignore_errors=True)
    pip = [str(ROOT / ".venv-uv" / "bin" / "pip"), "download", "-q", "--disable-pip-version-check", "--no-deps"]
    # The package wants a newer Python than may run this; its files are the same for all.
    pip += ["--only-binary", ":all:", "--python-version", "3.12", "-d", str(place), "-r", str(REQUIREMENTS)]
    subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
    [wheel] = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place, [name for name in archive.namelist() if name.startswith(_PREFIX)])
    wheel.unlink()
    stamp.write_text(wanted)
    return place


class FakeAwx:
    """Objects by their kind, as AWX's API names it, such as ``job_templates``.

    Attributes:
        url: Where it is served.
        token: What a request has to bear.
        calls: Every change that was asked for, as ``POST job_templates``.
    """

    def __init__(self, token: str) -> None:
        self.url = ""
        self.token = token
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.related: dict[tuple[str, int, str], Any] = {}
        self.calls: list[str] = []
        self._lock = threading.Lock()

    def add(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        """Make an object, as a person would have."""
        number = 1 + sum(len(found) for found in self.objects.values())
        url = f"{_API}{kind}/{number}/"
        related = {"survey_spec": f"{url}survey_spec/"} if kind == "job_templates" else {}
        made = {
            **_ADDED.get(kind, {}),
            **fields,
            "id": number,
            "type": kind,
            "url": url,
            "related": related,
            "summary_fields": {},
        }
        self.objects.setdefault(kind, []).append(made)
        return made

    def named(self, kind: str) -> dict[str, dict[str, Any]]:
        """Objects of a kind by their names."""
        return {found["name"]: found for found in self.objects.get(kind, [])}

    def names_of(self, kind: str, owner: dict[str, Any], relation: str) -> list[str]:
        """What is attached to an object, by name."""
        numbers = self.related.get((owner["type"], owner["id"], relation), [])
        return [found["name"] for found in self.objects[kind] if found["id"] in numbers]

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        """Status and content of an answer."""
        parts = urlsplit(target)
        words = parts.path[len(_API) :].strip("/").split("/")
        with self._lock:
            if method != "GET":
                self.calls.append(f"{method} {'/'.join(words)}")
            if len(words) == 1:
                return self._collection(method, words[0], dict(parse_qsl(parts.query)), body)
            if len(words) == 2:
                return self._item(method, words[0], int(words[1]), body)
            return self._relation(method, (words[0], int(words[1]), words[2]), body)

    def _collection(self, method: str, kind: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if method == "POST":
            return 201, _shown(self.add(kind, **body))
        pool = self.objects.get("job_templates" if kind == "unified_job_templates" else kind, [])
        found = [item for item in pool if _matches(item, query)]
        return 200, {"count": len(found), "next": None, "results": [_shown(item) for item in found]}

    def _item(self, method: str, kind: str, number: int, body: Any) -> tuple[int, Any]:
        for item in self.objects.get(kind, []):
            if item["id"] == number:
                if method == "PATCH":
                    item.update(body)
                return 200, _shown(item)
        return 404, {"detail": "Not found."}

    def _relation(self, method: str, key: tuple[str, int, str], body: Any) -> tuple[int, Any]:
        if key[2] == "survey_spec":
            if method == "POST":
                self.related[key] = body
            return 200, self.related.get(key, {})
        numbers = self.related.setdefault(key, [])
        if method == "POST":
            if body.get("disassociate"):
                numbers.remove(body["id"])
            else:
                numbers.append(body["id"])
            return 204, None
        return 200, {"count": len(numbers), "next": None, "results": [{"id": number} for number in numbers]}


def _matches(item: dict[str, Any], query: dict[str, str]) -> bool:
    return all(
        str(item.get(name, "")) == value if "__" not in name else True
        for name, value in query.items()
        # Of a kind without organizations none is stored.
        if name != "organization" or "organization" in item
    )


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    """Secrets are never read back."""
    inputs = item.get("inputs")
    if item["type"] != "credentials" or not isinstance(inputs, dict):
        return item
    hidden = {name: _ENCRYPTED if name in ("secret_key", "password") else value for name, value in inputs.items()}
    return {**item, "inputs": hidden}


@contextlib.contextmanager
def fake_awx(token: str) -> Iterator[FakeAwx]:
    """Serve one on a port of this host."""
    awx = FakeAwx(token)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {awx.token}":
                status, content = 401, {"detail": "Authentication credentials were not provided."}
            else:
                status, content = awx.answer(self.command, self.path, json.loads(text) if text else None)
            data = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                "Connection": "close",
                "X-API-Product-Name": "AWX",
                "X-API-Product-Version": "24.6.1",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: Any) -> None:
            pass

    for verb in ("GET", "POST", "PATCH", "DELETE"):
        setattr(Handler, f"do_{verb}", Handler.serve)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    awx.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield awx
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
