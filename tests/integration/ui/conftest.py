# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages as they are installed: runner, server, nginx with TLS, the panel's database, a guest, and a browser."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Flask and Playwright are in an environment of their own.
if importlib.util.find_spec("flask") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import bcrypt
    import jinja2
    import pyotp
    from playwright.sync_api import Browser, sync_playwright

    from vmforge_backup_ui.auth import hash_password

from ansible_collections.vmforge.backup.plugins.module_utils._db_user import USER_ARGUMENTS, keep_user
from ansible_collections.vmforge.backup.plugins.module_utils._migrate import SCHEMA_ARGUMENTS, migrate
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from tests.bed.ansible import ROOT, SYSTEM_PATH
from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.mariadb import DATABASE, MariaDB, certificates, mariadb
from tests.bed.panel import PANEL

UI = ROOT / "roles" / "ui"
URL = "/admin/backups"
# As the panel calls the guest; libvirt may call it otherwise.
NAME = "shop1"
PASSWORD = "correct horse battery staple"
USERS = (
    "CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, email VARCHAR(190) NOT NULL UNIQUE, "
    "password_hash VARCHAR(255) NOT NULL, totp_secret VARCHAR(64) NULL, failed_logins INT NOT NULL DEFAULT 0, "
    "locked_until TIMESTAMP NULL, api_token VARCHAR(64) NOT NULL DEFAULT 'hush')"
)
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ROLE = {"operators": ["op@example.com", "code@example.com"], "readers": ["reader@example.com", "locked@example.com"]}
_NGINX = """
daemon off; worker_processes 1; pid {place}/nginx.pid; error_log {place}/nginx.log;
events {{}}
http {{
    access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {place}/tls/server.pem; ssl_certificate_key {place}/tls/server.key;
        include {place}/location.conf;
    }}
}}
"""


@dataclass
class Bed:
    """All that runs.

    Attributes:
        url: Of the first page.
        totp: Makes codes for ``code@example.com``.
    """

    place: Path
    server: MariaDB
    guest: Guest
    url: str
    totp: Any

    def audit(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        return [json.loads(line) for line in (self.place / "audit.log").read_text().splitlines()]

    def manifests(self) -> list[dict[str, Any]]:
        """What backups the guest has, oldest first."""
        found = (self.place / "backups").glob(f"{self.guest.uuid}/*/manifest.json")
        return [json.loads(path.read_text()) for path in sorted(found)]


@pytest.fixture(scope="session")
def bed(libvirt_daemon: None) -> Iterator[Bed]:
    """Everything, once."""
    with scratch_directory("ui") as place, contextlib.ExitStack() as stack:
        for name, mode in (("backups", 0o700), ("scratch", 0o711), ("state", 0o700)):
            (place / name).mkdir(mode=mode)
        server = stack.enter_context(mariadb())
        guest = Guest("ui", place, [Disk(place / "vda.qcow2", size=24 * MIB)], slots=64, pause=1_000_000)
        _panel(server, guest)
        stack.enter_context(guest)
        web, front = _free_port(), _free_port()
        _configure(place, server, web)
        certificates(place / "tls")
        (place / "nginx.conf").write_text(_NGINX.format(place=place, port=front))
        (place / "location.conf").write_text(_location(web))
        for argv in (
            [
                sys.executable,
                "-m",
                "vmforge_backup_ui",
                "runner",
                str(place / "runner.json"),
                str(place / "runner.sock"),
            ],
            [sys.executable, "-m", "vmforge_backup_ui", "web", str(place / "web.json")],
            [str(shutil.which("nginx", path=SYSTEM_PATH)), "-p", str(place), "-c", str(place / "nginx.conf")],
        ):
            stack.enter_context(_process(argv, place))
        url = f"https://localhost:{front}{URL}/"
        _wait(url, place)
        guest.wait_more(3)
        yield Bed(place, server, guest, url, pyotp.TOTP(SECRET))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The distribution's Chromium, without a screen."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=shutil.which("chromium", path=SYSTEM_PATH), args=["--no-sandbox"]
        )
        yield found
        found.close()


def _panel(server: MariaDB, guest: Guest) -> None:
    server.reset(*PANEL, USERS)
    server.sql(f"INSERT INTO vm_instances (uuid, node_id, name, type) VALUES ('{guest.uuid}', 1, '{NAME}', 'kvm')")
    # As PHP writes them.
    bcrypted = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    hashed = hash_password(PASSWORD)
    server.sql(
        "INSERT INTO users (email, password_hash, totp_secret, locked_until) VALUES "
        f"('op@example.com', '{bcrypted}', NULL, NULL), ('reader@example.com', '{hashed}', NULL, NULL), "
        f"('code@example.com', '{hashed}', '{SECRET}', NULL), "
        f"('locked@example.com', '{hashed}', NULL, NOW() + INTERVAL 1 HOUR), "
        f"('customer@example.com', '{hashed}', NULL, NULL)"
    )
    _call(migrate, SCHEMA_ARGUMENTS, server.params())
    _call(keep_user, USER_ARGUMENTS, server.params(), user="backup", password="b")
    _call(keep_user, USER_ARGUMENTS, server.params(), user="ui", password="u", rights="read")


def _call(use_case: Any, arguments: Any, params: dict[str, Any], **more: Any) -> None:
    use_case(Request({**{name: item.get("default") for name, item in arguments.items()}, **params, **more}))


def _configure(place: Path, server: MariaDB, port: int) -> None:
    login = {"db_host": "127.0.0.1", "db_port": server.port, "db_name": DATABASE}
    database = {f"vmforge_backup_{name}": value for name, value in login.items()}
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "vmforge_backup_dir": str(place / "backups"),
        "vmforge_backup_scratch_dir": str(place / "scratch"),
        "vmforge_backup_restore_state_dir": str(place / "restore"),
        "vmforge_backup_restore_storage": str(place),
        "vmforge_backup_env_path": "",
        **database,
        "vmforge_backup_db_user": "backup",
        "vmforge_backup_db_password": "b",
    }
    hosts = {"vmforge_master": {"hosts": {"node1": variables}}, "vmforge_nodes": {"hosts": {"node1": None}}}
    (place / "hosts.yml").write_text(json.dumps({"all": {"children": hosts}}))
    (place / "ansible.cfg").write_text(
        f"[defaults]\ncollections_path = {ROOT / '.collections'}\ninventory = {place / 'hosts.yml'}\nnocolor = true\n"
    )
    runner = {"state": str(place / "state"), "path": f"{Path(sys.executable).parent}:{SYSTEM_PATH}"}
    (place / "runner.json").write_text(json.dumps({**runner, "ansible_config": str(place / "ansible.cfg")}))
    web = {
        "runner": str(place / "runner.sock"),
        "audit_log": str(place / "audit.log"),
        "listen": f"127.0.0.1:{port}",
        "database": {**login, "db_user": "ui", "db_password": "u"},
        **ROLE,
    }
    (place / "web.json").write_text(json.dumps(web))


def _location(port: int) -> str:
    """The block that the role writes."""
    template = (UI / "templates" / "nginx.conf.j2").read_text()
    return jinja2.Template(template).render(ui_url=URL, ui_listen=f"127.0.0.1:{port}")


@contextlib.contextmanager
def _process(argv: list[str], place: Path) -> Iterator[None]:
    env = {
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "PATH": SYSTEM_PATH,
        "PYTHONPATH": f"{ROOT / '.collections'}:{UI / 'files'}",
        # As the whole run of tests has it: what is imported is compiled once, and outside the tree.
        "PYTHONPYCACHEPREFIX": str(ROOT / ".cache" / "pycache"),
    }
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(argv, env=env, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, place: Path) -> None:
    context = ssl.create_default_context(cafile=str(place / "tls" / "ca.pem"))
    deadline = time.monotonic() + 180
    while not (place / "runner.sock").exists() or not _answers(url, context):
        if time.monotonic() > deadline:
            raise RuntimeError((place / "log").read_text() + (place / "nginx.log").read_text())
        time.sleep(0.1)


def _answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, context=context, timeout=30):
            return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
