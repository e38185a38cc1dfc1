# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role ``ui`` on a host with systemd: installed, confined, asked from within, and removed."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bed.ansible import ROOT, found_cores
from tests.fleet.alone import host_alone
from tests.fleet.image import ui_wheels
from tests.fleet.panel import Panel
from tests.fleet.podman import Container

pytestmark = pytest.mark.exhaustive

PLAY = """
- hosts: vmforge_master
  gather_facts: false
  tasks:
    - name: Make the tables
      ansible.builtin.include_role:
        name: vmforge.backup.catalog
    - name: Install Ansible
      ansible.builtin.include_role:
        name: vmforge.backup.schedule
    - name: Install the pages
      ansible.builtin.include_role:
        name: vmforge.backup.ui
"""
# The password of somebody whom the panel knows, as PHP hashes it.
USERS = (
    "CREATE TABLE users (email VARCHAR(190), password_hash VARCHAR(255)); INSERT INTO users VALUES ('op@example.com', "
    "'$2y$04$HPv8auqVlqO1jng60DDAvO3atHeLO.f5cQ6Zp6vRgGAtnU/y1ItsG');"
)
WEB, SOCKET = "vmforge-backup-ui.service", "/run/vmforge-backup-ui-runner.sock"
# As nginx would ask: sign in, look, let all nodes tell what they do, and wait for the end of that.
VISIT = r"""
import http.client, re, sys, time, urllib.parse
cookie = ""
def ask(method, path, **form):
    global cookie
    line = http.client.HTTPConnection("127.0.0.1", 8437, timeout=300)
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "panel", "X-Forwarded-For": "192.0.2.7",
               "Host": "panel", "Referer": "https://panel/", "Cookie": cookie,
               "Content-Type": "application/x-www-form-urlencoded"}
    line.request(method, "/admin/backups" + path, urllib.parse.urlencode(form) if form else None, headers)
    answer = line.getresponse()
    cookie = (answer.getheader("Set-Cookie") or cookie).split(";")[0]
    return answer.status, answer.getheader("Location") or "", answer.read().decode()
def token(page):
    return re.search('name="csrf_token" value="([^"]+)"', page)[1]
page = ask("GET", "/sign-in")[2]
status, place, _page = ask("POST", "/sign-in", csrf_token=token(page), name="op@example.com", password=sys.argv[1])
assert status == 303, status
status, _place, page = ask("GET", "/")
assert status == 200 and "vm-of-the-panel" in page, page
status, job, page = ask("POST", "/status", csrf_token=token(page))
assert status == 303, page
while ">under way<" in (page := ask("GET", job.removeprefix("/admin/backups"))[2]):
    time.sleep(0.2)
assert ">done<" in page, page
"""


@dataclass(frozen=True)
class Master:
    """A host with systemd and the panel's database.

    Attributes:
        place: A directory for the inventory.
    """

    host: Container
    place: Path

    def play(self, **variables: str) -> list[str]:
        """Apply the roles, as from a control node; the tasks that changed something."""
        core = found_cores()[-1]
        (self.place / "play.yml").write_text(PLAY)
        done = core.playbook(self.place / "play.yml", "-i", str(self.place / "hosts.yml"), variables=variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"^TASK \[([^\]]*)\] \**\n(?:(?!TASK).*\n)*?changed:", done.stdout, re.MULTILINE)


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """It has packages only, and runs nothing of ours."""
    password = secrets.token_hex(8)
    with host_alone(tmp_path, [ui_wheels()]) as (host, variables):
        host.run(["systemctl", "-q", "enable", "--now", "mariadb"])
        panel = Panel(host, password)
        panel.create({"master": {"vm-of-the-panel": True}}, {"vm-of-the-panel": "7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed"})
        panel.sql(USERS)
        variables |= {
            "vmforge_backup_env_path": "",
            "vmforge_backup_db_socket": "/run/mysqld/mysqld.sock",
            "vmforge_backup_db_user": "vmforge_backup",
            "vmforge_backup_db_password": password,
            "vmforge_backup_db_admin_user": "root",
            "vmforge_backup_schedule_with": "systemd",
            "vmforge_backup_ui_pip_arguments": f"--no-index --find-links={ui_wheels()}",
            "vmforge_backup_ui_db_password": password[::-1],
            "vmforge_backup_ui_operators": ["op@example.com"],
        }
        inventory = {"vmforge_master": {"hosts": {"master": variables}}}
        (tmp_path / "hosts.yml").write_text(json.dumps(inventory))
        yield Master(host, tmp_path)


def test_the_pages_work_confined_and_go_without_a_trace(master: Master) -> None:
    host = master.host
    master.play()
    assert master.play() == []
    host.run(["python3", "-c", VISIT, "rasmuslerdorf"])
    # Who asked is on record, with the address that the proxy told of.
    log = [json.loads(line) for line in host.run(["cat", "/var/log/vmforge-backup-ui/audit.log"]).stdout.splitlines()]
    assert [(line["event"], line["by"], line["address"]) for line in log] == [
        (event, "op@example.com", "192.0.2.7") for event in ("sign-in", "status", "status started")
    ]
    # The kernel agrees with the unit.
    pid = host.run(["systemctl", "show", "-P", "MainPID", WEB]).stdout.strip()
    status = dict(line.split(":\t", 1) for line in host.run(["cat", f"/proc/{pid}/status"]).stdout.splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16)) == ("1", "2", 0)
    # Nobody else may ask, and they may do nothing else.
    ask = f"import socket; socket.socket(socket.AF_UNIX).connect({SOCKET!r})"
    for user, may in (("vmforge-backup-ui", True), ("nobody", False), ("www-data", False)):
        done = host.run(
            ["setpriv", f"--reuid={user}", "--init-groups", f"--regid={user_group(host, user)}"]
            + ["python3", "-c", ask],
            check=False,
        )
        assert (done.returncode == 0) is may, done.stderr
    for path in ("/root/.ssh/authorized_keys", "/etc/vmforge-backup-ui/runner.json", "/opt/vmforge-backup/inventory"):
        assert host.run(["setpriv", "--reuid=vmforge-backup-ui", "--clear-groups", "cat", path], check=False).returncode
    # A password, made as the documentation tells.
    [command] = re.findall(r"^cd /opt.*\n.* password$", (ROOT / "docs" / "ui.md").read_text(), re.MULTILINE)
    assert host.run(["sh", "-c", command], stdin="geheim\n").stdout.startswith("$argon2id$")
    master.play(vmforge_backup_ui_state="absent")
    places = f"/etc/vmforge-backup-ui /var/lib/vmforge-backup-ui /opt/vmforge-backup/ui {SOCKET}"
    look = f"ls -d {places} /etc/systemd/system/vmforge-backup-ui*; getent passwd vmforge-backup-ui"
    left = host.run(["sh", "-c", look], check=False)
    assert left.stdout == ""


def user_group(host: Container, user: str) -> str:
    """A user's own group."""
    return host.run(["id", "-g", user]).stdout.strip()
