# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible costs on top of the engine: a node with 1, 10 and 50 small machines, and second roll-outs per host."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bed.ansible import Ansible, found_cores
from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.hypervisor import system_libvirt
from tests.bed.mariadb import mariadb
from tests.bed.panel import PANEL

MACHINES = (1, 10, 50)
HOSTS = (1, 5)
# Seconds of Ansible's for each further machine.
TARGET_SECONDS = 0.5
_TURNS = 3


def measure() -> dict[str, Any]:
    """Back up stopped machines by the playbook and by the engine, in turns; roll out to hosts that have it all."""
    core = found_cores()[-1]
    with system_libvirt(), scratch_directory("plays") as place:
        guests = [
            Guest(f"bench-{number}", place, [Disk(place / f"{number}.qcow2", size=MIB)])
            for number in range(max(MACHINES))
        ]
        try:
            for guest in guests:
                guest.define()
            backup = {str(count): _backup(core, place, guests[:count]) for count in MACHINES}
        finally:
            for guest in guests:
                guest.undefine()
        rollout = {str(count): _second(core, place, "rollout.yml", _hosts(place, count)) for count in HOSTS}
        site = _site(core, place)
    return {"backup": backup, "rollout": rollout, "site": site}


def _backup(core: Ansible, place: Path, guests: list[Guest]) -> dict[str, float]:
    """The fastest of some turns, for what else runs only adds."""
    names = [guest.uuid for guest in guests]
    directories = {"backup_dir": str(place / "backups"), "scratch_dir": str(place / "scratch")}
    variables = {f"vmforge_backup_{name.replace('backup_', '')}": path for name, path in directories.items()}
    engine, play = [], []
    for _turn in range(_TURNS):
        for path in directories.values():
            shutil.rmtree(path, ignore_errors=True)
            Path(path).mkdir(mode=0o711)
        engine.append(_seconds(lambda: _engine({"vm": names, "parallel": 1, **directories})))
        play.append(_seconds(lambda: _play(core, "backup.yml", [], {"vm": names, **variables})))
    return {"engine": round(min(engine), 2), "playbook": round(min(play), 2)}


def _engine(params: dict[str, Any]) -> None:
    argv = [sys.executable, "-m", "tests.bench.ours"]
    done = subprocess.run(argv, input=json.dumps(params), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"our backup failed: {done.stdout}{done.stderr}")


def _site(core: Ansible, place: Path) -> dict[str, dict[str, float]]:
    """With a master, which has the panel's database and the schedule."""
    (place / "panel").mkdir()
    with mariadb() as server:
        server.reset(*PANEL)
        master: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "vmforge_backup_dir": str(place / "roots"),
            "vmforge_backup_env_path": str(place / "panel" / ".env"),
            "vmforge_backup_db_host": "127.0.0.1",
            "vmforge_backup_db_port": server.port,
            "vmforge_backup_db_password": "of the bench",
            "vmforge_backup_db_admin_user": server.admin,
            "vmforge_backup_db_admin_password": server.admin_password,
            "vmforge_backup_schedule_dir": str(place / "schedule"),
            "vmforge_backup_schedule_prefix": str(place / "prefix"),
            "vmforge_backup_schedule_cron_file": str(place / "cron"),
        }
        return {
            str(count): _second(core, place, "site.yml", {"vmforge_master": {"master": master}, **_hosts(place, count)})
            for count in HOSTS
        }


def _hosts(place: Path, count: int) -> dict[str, Any]:
    """Hypervisors, by group: all of them this machine, with directories of their own."""
    return {
        "vmforge_nodes": {
            f"host{number}": {
                "ansible_connection": "local",
                "ansible_python_interpreter": "/usr/bin/python3",
                "vmforge_backup_dir": str(place / "roots"),
                "vmforge_backup_scratch_dir": f"{place}/host{number}/scratch",
                "vmforge_backup_env_path": f"{place}/host{number}/.env",
            }
            for number in range(count)
        }
    }


def _second(core: Ansible, place: Path, playbook: str, groups: dict[str, Any]) -> dict[str, float]:
    """The second run, after one that made everything: on the clock, and of the processor."""
    hosts = place / "hosts.json"
    hosts.write_text(json.dumps({group: {"hosts": members} for group, members in groups.items()}))
    seconds, processor = [], []
    for _turn in range(1 + _TURNS):
        before = _processor()
        seconds.append(_seconds(lambda: _play(core, playbook, ["-i", str(hosts)], {})))
        processor.append(_processor() - before)
    return {"seconds": round(min(seconds[1:]), 2), "cpu": round(min(processor[1:]), 2)}


def _processor() -> float:
    """Seconds of all processes that have ended, modules on this machine among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _play(core: Ansible, playbook: str, options: list[str], variables: dict[str, Any]) -> None:
    done = core.playbook(f"playbooks/{playbook}", *options, variables=variables, anew=True)
    if done.returncode:
        raise RuntimeError(f"{playbook} failed: {done.stdout[-3000:]}{done.stderr[-1000:]}")


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    found = []
    above = {}
    for count, seconds in report["backup"].items():
        above[int(count)] = seconds["playbook"] - seconds["engine"]
        words = f"backup.yml, {count} small machines"
        found.append(f"{words:32}{seconds['playbook']:6.2f} s, of which the engine {seconds['engine']:.2f}")
    few, many = min(above), max(above)
    further = (above[many] - above[few]) / (many - few)
    verdict = f"to reach: {TARGET_SECONDS:.2f} s  {'yes' if further <= TARGET_SECONDS else 'NO'}"
    found.append(f"{'Ansible, each further machine':32}{further:6.3f} s   {verdict}")
    for name in ("rollout", "site"):
        words = f"second {name}.yml"
        for unit in ("seconds", "cpu"):
            one, more = (report[name][str(count)][unit] for count in HOSTS)
            each = (more - one) / (HOSTS[1] - HOSTS[0])
            of = "" if unit == "seconds" else " of the processor"
            found.append(f"{words:32}{one:6.2f} s{of} for one host, {each:.2f} s for each further one")
    return found


if __name__ == "__main__":
    print("\n".join(lines(measure())))
