# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role ``schedule`` with systemd, on a host that runs it: a missed night, a failure, and what it removes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.bed.ansible import found_cores
from tests.fleet.alone import host_alone
from tests.fleet.podman import Container, wait

pytestmark = pytest.mark.exhaustive

PLAYBOOK = """
- hosts: vmforge_master
  gather_facts: false
  roles:
    - role: vmforge.backup.schedule
"""
# libvirt's test driver: no machine at all.
NODE, EMPTY = "/root/empty.xml", "<node></node>"
REPORT, MAIL = "/root/report.json", "/root/mail"
# Of somebody else, one of them with a name like ours.
OTHERS = ("other", "vmforge-backup-other")
TIMER = "[Timer]\nOnCalendar=yearly\nPersistent=true\n[Install]\nWantedBy=timers.target\n"
STAMPS = "/var/lib/systemd/timers"
JOB = "vmforge-backup@{}.service"


@dataclass(frozen=True)
class Master:
    """A host that is also the only node.

    Attributes:
        place: A directory for the inventory.
    """

    host: Container
    place: Path

    def play(self, **variables: Any) -> int:
        """Run the role; how many tasks changed something."""
        playbook = self.place / "play.yml"
        playbook.write_text(PLAYBOOK)
        done = found_cores()[-1].playbook(playbook, "-i", str(self.place / "hosts.yml"), variables=variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return int(re.findall(r"changed=(\d+)", done.stdout)[-1])

    def ask(self, *argv: str) -> str:
        """What a program prints, whatever its code."""
        return self.host.run(argv, check=False).stdout.strip()

    def property(self, job: str, name: str) -> str:
        """What systemd knows of the service of a job."""
        return self.ask("systemctl", "show", "-P", name, JOB.format(job))

    def timers(self) -> set[str]:
        """All that systemd runs and that is called like ours."""
        text = self.ask("systemctl", "list-units", "--plain", "--no-legend", "vmforge-backup*.timer")
        return set(re.findall(r"^\S+", text, re.MULTILINE))


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    with host_alone(tmp_path) as (host, variables):
        host.write(NODE, EMPTY)
        for name in OTHERS:
            host.write(f"/etc/systemd/system/{name}.timer", TIMER)
            host.write(f"/etc/systemd/system/{name}.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
            host.run(["systemctl", "-q", "enable", "--now", f"{name}.timer"])
        host.write("/etc/systemd/system/mail@.service", f"[Service]\nType=oneshot\nExecStart=/bin/touch {MAIL}-%i\n")
        # Far from now, so that nothing runs but what was missed.
        far = (datetime.now(timezone.utc) + timedelta(hours=12)).strftime("%H:%M")
        variables |= {
            "vmforge_backup_uri": f"test://{NODE}",
            "vmforge_backup_env_path": "",
            "vmforge_backup_schedule_with": "systemd",
            "vmforge_backup_schedule_delay": 0,
            "vmforge_backup_schedule_backup_at": far,
            "vmforge_backup_schedule_prune_at": far,
            "vmforge_backup_schedule_verify_at": "",
            "vmforge_backup_schedule_on_failure": "mail@%n.service",
            "vmforge_backup_schedule_arguments": ["-e", f"vmforge_backup_report_file={REPORT}"],
        }
        groups = {"vmforge_master": {"hosts": {"master": variables}}, "vmforge_nodes": {"hosts": {"master": None}}}
        (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"children": groups}}))
        yield Master(host, tmp_path)


def test_a_missed_night_is_made_up_for_a_failure_is_told_and_only_what_is_ours_goes(master: Master) -> None:
    ours = {f"vmforge-backup-{job}.timer" for job in ("backup", "prune")}
    entries = master.play(vmforge_backup_schedule_with="cron", vmforge_backup_schedule_cron_file="entries")
    assert entries > 0
    assert master.timers() == {f"{OTHERS[1]}.timer"}
    master.play(vmforge_backup_schedule_cron_file="entries")
    assert master.ask("ls", "/etc/cron.d/entries") == ""
    assert master.timers() == {*ours, f"{OTHERS[1]}.timer"}
    # Another time is no reason to run at once what is due at night.
    master.host.run(["touch", "--date=2 days ago", f"{STAMPS}/stamp-vmforge-backup-prune.timer"])
    later = {"vmforge_backup_schedule_prune_at": master.ask("date", "--utc", "--date=11 hours", "+%H:%M")}
    master.play(**later)
    assert master.play(**later) == 0
    _check_a_missed_night(master)
    _check_a_failure(master)
    master.play(vmforge_backup_schedule_state="absent")
    assert master.timers() == {f"{OTHERS[1]}.timer"}
    assert master.ask("systemctl", "is-active", *(f"{name}.timer" for name in OTHERS)) == "active\nactive"
    look = f"ls -d {STAMPS}/*vmforge* /etc/systemd/system/vmforge* /etc/systemd/system/*/vmforge* /opt/*"
    assert {path.rpartition("/")[2] for path in master.ask("sh", "-c", look).split()} == {
        f"stamp-{OTHERS[1]}.timer",
        f"{OTHERS[1]}.service",
        f"{OTHERS[1]}.timer",
    }
    assert master.play(vmforge_backup_schedule_state="absent") == 0


def _check_a_missed_night(master: Master) -> None:
    """Off for two nights; only the timer whose last run is as old has missed one."""
    assert [master.property(job, "ExecMainStartTimestamp") for job in ("backup", "prune")] == ["", ""]
    assert master.ask("ls", REPORT) == ""
    stamp = f"{STAMPS}/stamp-vmforge-backup-backup.timer"
    master.host.run(["touch", "--date=2 days ago", stamp])
    master.host.kill()
    master.host.start()
    wait(lambda: master.property("backup", "Result") != "" and master.ask("ls", REPORT) != "", "the missed job", 600)
    wait(lambda: master.property("backup", "ActiveState") == "inactive", "its end", 600)
    assert (master.property("backup", "Result"), master.property("backup", "ExecMainStatus")) == ("success", "0")
    assert json.loads(master.ask("cat", REPORT))["rows"] == []
    assert "There is no virtual machine." in master.ask("journalctl", "-q", "-o", "cat", "-t", "vmforge-backup")
    assert master.property("prune", "ExecMainStartTimestamp") == ""


def _check_a_failure(master: Master) -> None:
    """It has Ansible's code, systemd knows of it, and starts what writes mail."""
    master.host.run(["mv", NODE, f"{NODE}.away"])
    assert master.host.run(["systemctl", "start", JOB.format("catch-up")], check=False).returncode != 0
    assert master.property("catch-up", "ExecMainStatus") == "2"
    assert JOB.format("catch-up") in master.ask("systemctl", "--failed", "--plain", "--no-legend")
    assert "Cannot reach libvirt" in master.ask("journalctl", "-q", "-o", "cat", "-t", "vmforge-backup")
    wait(lambda: master.ask("sh", "-c", f"ls {MAIL}-*").startswith(f"{MAIL}-vmforge"), "what writes mail", 600)
