# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role ``schedule`` with cron: what it installs runs, and what it removes is its own."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bed.ansible import Ansible, found_cores

PLAYBOOK = """
- hosts: vmforge_master
  gather_facts: false
  roles:
    - role: vmforge.backup.schedule
"""
# libvirt's test driver: no machine at all, and one that cannot be backed up.
EMPTY = "<node></node>"
OTHERS = "# mine\n5 4 * * * root /usr/bin/true\n"
# "hush-hush", encrypted with the password "pw".
PASSWORD = "pw"


@dataclass(frozen=True)
class Master:
    """A master that is also the only node, with all that the role writes in a directory."""

    core: Ansible
    place: Path

    @property
    def home(self) -> Path:
        return self.place / "opt" / "backup"

    @property
    def cron(self) -> Path:
        return self.place / "cron"

    def play(self, *argv: str, **variables: Any) -> str:
        """Run the role; what it printed."""
        playbook = self.place / "play.yml"
        playbook.write_text(PLAYBOOK)
        options = ["-i", str(self.place / "hosts.yml"), "--vault-password-file", str(self.place / "password")]
        given = {
            "vmforge_backup_schedule_dir": str(self.home),
            "vmforge_backup_schedule_cron_file": str(self.cron),
            "vmforge_backup_schedule_prefix": str(self.place / "usr"),
            "vmforge_backup_manage_packages": False,
            # Most of it is never imported here.
            "vmforge_backup_schedule_pip_arguments": "--no-compile",
            **variables,
        }
        done = self.core.playbook(playbook, *options, *argv, variables=given)
        text = done.stdout + done.stderr
        assert done.returncode == (0 if "expected" not in variables else 2), text
        return text

    def job(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a job as cron does."""
        return subprocess.run(
            [str(self.home / "job"), *argv],
            env={"HOME": str(self.place), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"},
            capture_output=True,
            text=True,
            check=False,
        )

    def entries(self) -> list[str]:
        return [
            line for line in self.cron.read_text().splitlines() if line.startswith(("@", "*")) or line[:1].isdigit()
        ]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Master:
    """Its inventory has a secret in a vault."""
    core, place = found_cores()[-1], tmp_path_factory.mktemp("schedule")
    (place / "password").write_text(PASSWORD)
    (place / "empty.xml").write_text(EMPTY)
    (place / "backups").mkdir()
    done = core.run("ansible-vault", "encrypt_string", "--vault-password-file", str(place / "password"), "hush-hush")
    secret = done.stdout[done.stdout.index("!vault") :].strip().replace("\n", "\n  ")
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": "/home/me/key",
        "vmforge_backup_uri": f"test://{place / 'empty.xml'}",
        "vmforge_backup_dir": str(place / "backups"),
        "vmforge_backup_env_path": "",
    }
    groups = {"vmforge_master": {"hosts": {"m": host}}, "vmforge_nodes": {"hosts": {"m": None, "n2": {"x": 1}}}}
    (place / "hosts.yml").write_text(json.dumps({"all": {"children": groups}}))
    (place / "group_vars").mkdir()
    (place / "group_vars" / "all.yml").write_text(
        f"vmforge_backup_s3_secret_key: {secret}\nansible_user: me\n"
        'vmforge_backup_derived: "{{ inventory_hostname }}-x"\n'
    )
    return Master(core, place)


def test_it_installs_what_runs_and_goes_without_a_trace(master: Master) -> None:
    _check_check_mode(master)
    master.cron.write_text(OTHERS)
    text = master.play("--diff", "-vvv")
    assert "hush-hush" not in text
    _check_entries(master)
    _check_inventory(master)
    _check_jobs(master)
    _check_command(master)
    _remove(master)


@pytest.mark.exhaustive
def test_other_times_and_what_check_mode_leaves(master: Master) -> None:
    master.cron.write_text(OTHERS)
    master.play()
    assert "changed=0 " in master.play()
    assert "changed=0 " in master.play("--check")
    master.play(vmforge_backup_schedule_backup_at="Sat 23:05", vmforge_backup_schedule_catch_up_at="12:30")
    times = {entry.rsplit(" ", 1)[1]: " ".join(entry.split()[:5]) for entry in master.entries()[1:]}
    assert (times["backup"], times["catch-up"]) == ("5 23 * * 6", "30 12 * * *")
    assert OTHERS in master.cron.read_text()
    master.play("--check", vmforge_backup_schedule_state="absent")
    assert master.home.exists()
    _remove(master)
    assert "changed=0 " in master.play(vmforge_backup_schedule_state="absent")


def _remove(master: Master) -> None:
    master.play(vmforge_backup_schedule_state="absent")
    assert (master.home.exists(), master.home.parent.exists()) == (False, True)
    assert [path for path in (master.place / "usr").rglob("*") if not path.is_dir()] == []
    assert [
        line for line in master.cron.read_text().splitlines() if not line.startswith("MAILTO")
    ] == OTHERS.splitlines()


@pytest.mark.exhaustive
def test_a_real_cron_runs_it(master: Master) -> None:
    master.play()
    _check_cron(master)
    master.play(vmforge_backup_schedule_state="absent")


def _check_check_mode(master: Master) -> None:
    nowhere = master.place / "nowhere"
    paths = {"dir": nowhere / "opt" / "backup", "cron_file": nowhere / "cron", "prefix": nowhere / "usr"}
    master.play("--check", "--diff", **{f"vmforge_backup_schedule_{name}": str(path) for name, path in paths.items()})
    assert not nowhere.exists()


def _check_entries(master: Master) -> None:
    text = master.cron.read_text()
    assert OTHERS in text
    assert "MAILTO=" in text
    _theirs, backup, *_rest = master.entries()
    found = re.fullmatch(rf"0 1 \* \* \* root {master.home}/job --delay ([0-9]+) backup", backup)
    assert found
    assert 0 <= int(found[1]) <= 45 * 60
    assert f"@reboot root {master.home}/job --delay 300 catch-up" in master.entries()


def _check_inventory(master: Master) -> None:
    path = master.home / "hosts.yml"
    assert path.stat().st_mode & 0o777 == 0o600
    inventory = json.loads(path.read_text().split("\n", 1)[1])["all"]
    assert list(inventory["children"]["vmforge_nodes"]["hosts"]) == ["m", "n2"]
    first, second = inventory["hosts"]["m"], inventory["hosts"]["n2"]
    assert (first["ansible_connection"], first["vmforge_backup_derived"]) == ("local", "m-x")
    assert (second["ansible_user"], second["vmforge_backup_derived"]) == ("me", "n2-x")
    assert second["vmforge_backup_s3_secret_key"] == "hush-hush"
    assert not {"x", "ansible_ssh_private_key_file"} & {*first, *second}


def _check_jobs(master: Master) -> None:
    done = master.job("--direct", "backup", "--limit", "m")
    assert "There is no virtual machine." in done.stdout
    with subprocess.Popen(["flock", "--no-fork", str(master.home / "lock"), "sleep", "3600"]) as other:
        try:
            while subprocess.run(["flock", "-n", str(master.home / "lock"), "true"], check=False).returncode == 0:
                pass
            done = master.job("catch-up")
            assert (done.returncode, done.stdout) == (0, "")
        finally:
            other.kill()
    assert master.job("nonsense").returncode == 64


def _check_cron(master: Master) -> None:
    """A cron of its own takes the role's entries as after a boot: what fails is mailed, and nothing else."""
    report, done = master.place / "caught-up.json", master.place / "code"
    (boot,) = [entry for entry in master.entries() if entry.startswith("@reboot")]
    now = boot.replace("--delay 300", "--delay 0") + " --limit m -e vmforge_backup_"
    ended = f"until [ -e {done} ]; do sleep 0.1; done"
    entries = [
        *[line for line in master.cron.read_text().splitlines() if line.startswith("MAILTO")],
        f"{now}report_file={report}; echo $? >{done}.partial; mv {done}.partial {done}",
        f"{now}uri=test:///nowhere; echo $?".replace("@reboot root ", f"@reboot root {ended}; "),
    ]
    with _booted(master.place / "boot", entries) as mail:
        head, _empty, body = mail().partition("\n\n")
    assert (done.read_text(), json.loads(report.read_text())["rows"]) == ("0\n", [])
    assert "\nTo: root\n" in head
    assert f"{master.home}/job --delay 0 catch-up" in head
    assert "Cannot reach libvirt" in body
    assert body.endswith("vmforge-backup: catch-up failed with code 2\n2\n")


@contextlib.contextmanager
def _booted(place: Path, entries: list[str]) -> Iterator[Callable[[], str]]:
    """A cron that believes that the machine has just started; what waits for its only mail."""
    crontabs, programs = place / "cron.d", place / "sbin"
    for path in (crontabs, programs):
        path.mkdir(parents=True)
    (crontabs / "entries").write_text("\n".join(entries) + "\n")
    mailer = programs / "sendmail"
    mailer.write_text(f"#!/bin/sh\ncat >{place}/$$.partial && mv {place}/$$.partial {place}/$$.mail\n")
    mailer.chmod(0o755)
    mounts = [
        ["--bind", str(crontabs), "/etc/cron.d"],
        ["-t", "overlay", "-o", f"lowerdir={programs}:/usr/sbin", "overlay", "/usr/sbin"],
        ["-t", "tmpfs", "tmpfs", "/run"],
        ["-t", "tmpfs", "tmpfs", "/var/spool/cron"],
    ]
    script = " && ".join([*(shlex.join(["mount", *mount]) for mount in mounts), "exec cron -f"])
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script]) as cron:

        def mail() -> str:
            while not (found := list(place.glob("*.mail"))):
                assert cron.poll() is None
                time.sleep(0.1)
            (only,) = found
            return only.read_text()

        try:
            yield mail
        finally:
            cron.terminate()


def _check_command(master: Master) -> None:
    assert "complete -F" in (master.place / "usr/share/bash-completion/completions/vmforge-backup").read_text()

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        program = str(master.place / "usr" / "bin" / "vmforge-backup")
        env = {"HOME": str(master.place), "PATH": "/usr/bin:/bin", "VMFORGE_BACKUP_PROGRESS_INTERVAL": "0"}
        return subprocess.run([program, *words], env=env, capture_output=True, text=True, check=False)

    done = command("run", "no such; one", "--json", "--", "--limit", "m")
    assert done.returncode == 2, done.stdout + done.stderr
    assert [(row["vm"], row["result"]) for row in json.loads(done.stdout)["rows"]] == [("no such; one", "not found")]
    done = command("list", "--", "--limit", "m")
    assert (done.returncode, done.stdout) == (0, "Backups\n\nThere is no backup.\n")
    done = command("verify", "--nonsense")
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"vmforge_backup_schedule_backup_at": "1:00"}, "1:00 is no time for backup"),
        pytest.param(
            {"vmforge_backup_schedule_prune_at": "Someday 01:00"},
            "Someday 01:00 is no time",
            marks=pytest.mark.exhaustive,
        ),
        pytest.param({"vmforge_backup_schedule_with": "anacron"}, "schedule_with", marks=pytest.mark.exhaustive),
    ],
)
def test_a_wrong_variable_is_named(master: Master, variables: dict[str, str], said: str) -> None:
    text = master.play("--check", expected=True, **variables)
    assert said in text
