# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of systemd that the role writes, as systemd itself judges them; and who may start playbooks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest

ROLE = Path(__file__).resolve().parents[3] / "roles" / "ui"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
WEB, RUNNER, SOCKET = "vmforge-backup-ui.service", "vmforge-backup-ui-runner.service", "vmforge-backup-ui-runner.socket"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Where they lie, with a program that they could start."""
    return written(tmp_path, stays_here=True)


def written(place: Path, *, stays_here: bool) -> Path:
    """Write them with values as the role has them."""
    (place / "ui" / "bin").mkdir(parents=True)
    (place / "ui" / "bin" / "python").symlink_to(sys.executable)
    values = {
        "ui_dir": str(place),
        "ui_user": "vmforge-backup-ui",
        "ui_runner_user": "root",
        "ui_config_dir": "/etc/vmforge-backup-ui",
        "ui_log_dir": "/var/log/vmforge-backup-ui",
        "__ui_path": "/opt",
        "__ui_archive": {"stat": {}},
        "__ui_stays_here": stays_here,
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["bool"] = bool
    for name in (WEB, RUNNER, SOCKET):
        text = (ROLE / "templates" / f"{name}.j2").read_text()
        (place / name).write_text(environment.from_string(text).render(values))
    return place


def analyze(*argv: str) -> str:
    """What systemd says; an error is one of the test."""
    done = subprocess.run(["systemd-analyze", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_understands_them(units: Path) -> None:
    assert analyze("verify", "--man=no", *(str(units / name) for name in (WEB, RUNNER, SOCKET))) == ""


@pytest.mark.parametrize(("stays_here", "limit"), [(True, "10"), (False, "12")])
def test_the_pages_can_do_little_else_than_ask(tmp_path: Path, stays_here: bool, limit: str) -> None:
    place = written(tmp_path, stays_here=stays_here)
    # Of 100, where 0 is nothing that could be misused. What is left are sockets, and the host's files, to read.
    said = analyze("security", "--no-pager", "--offline=true", f"--threshold={limit}", str(place / WEB))
    assert "✗ RestrictAddressFamilies=~AF_UNIX" in said


def test_only_they_may_ask_and_nobody_gets_more_rights(units: Path) -> None:
    """No sudo, no group of others: a socket is the only way to a playbook."""
    socket = dict(line.split("=", 1) for line in (units / SOCKET).read_text().splitlines() if "=" in line)
    assert (socket["SocketUser"], socket["SocketGroup"], socket["SocketMode"]) == ("root", "vmforge-backup-ui", "0660")
    web = (units / WEB).read_text()
    assert re.findall(r"^User=(.*)$", web, re.MULTILINE) == ["vmforge-backup-ui"]
    assert re.findall(r"^ReadWritePaths=(.*)$", web, re.MULTILINE) == ["/var/log/vmforge-backup-ui"]
    tasks = "".join(path.read_text() for path in (ROLE / "tasks").glob("*.yml"))
    assert not re.search(r"sudo|groups:|append:|authorized_key|polkit", tasks)


@pytest.mark.parametrize("url", ["/admin/backups", "/admin/backups/", "/"])
def test_nginx_understands_the_block_and_sends_only_the_pages(tmp_path: Path, url: str) -> None:
    text = (ROLE / "templates" / "nginx.conf.j2").read_text()
    block = jinja2.Template(text).render(ui_url=url, ui_listen="127.0.0.1:8437")
    head = f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; "
    places = " ".join(f"{name}_temp_path {tmp_path}/{name};" for name in _TEMPORARY)
    (tmp_path / "nginx.conf").write_text(f"{head}{places} server {{ listen 127.0.0.1:1;\n{block} }} }}")
    # Not at its place when it is not on PATH, as for users.
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert nginx
    done = subprocess.run([nginx, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [place] = re.findall(r"location ~ (\S+) ", block)
    paths = ("/admin/backups", "/admin/backups/jobs", "/admin/backups.old", "/admin", "/x/admin/backups")
    assert [bool(re.search(place, path)) for path in paths] == [True, True, url == "/", url == "/", url == "/"]
