# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``vmforge_env`` on real files, with rights, links and copies; the role ``env`` on a fleet of directories."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._env import read_values
from ansible_collections.vmforge.backup.plugins.module_utils._env_set import set_env
from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from tests.bed.ansible import Ansible, found_cores

SECRET = "s3cr3t'of the panel"
NOBODY = 65534
UNSET = {"secret_values": {}, "owner": None, "group": None, "mode": "0640"}


@pytest.fixture(scope="module")
def core() -> Ansible:
    """The newest core: what is tested is our own code."""
    return found_cores()[-1]


def run(core: Ansible, *argv: str, module: str = "vmforge_env", **args: Any) -> dict[str, Any]:
    """The result of the one task, and with it all that was ``printed``."""
    with tempfile.TemporaryDirectory() as place:
        book, result = Path(place) / "play.yml", Path(place) / "result.json"
        task = {f"vmforge.backup.{module}": args, "register": "done", "ignore_errors": True}
        keep = {"ansible.builtin.copy": {"content": "{{ done | to_json }}", "dest": str(result)}, "check_mode": False}
        keep.update(diff=False, become=False)
        play = {"hosts": "localhost", "gather_facts": False, "tasks": [task, keep]}
        book.write_text(json.dumps([{**play, "vars": {"ansible_python_interpreter": "/usr/bin/python3"}}]))
        done = core.run("ansible-playbook", str(book), *argv)
        assert result.exists(), done.stdout + done.stderr
        found: dict[str, Any] = json.loads(result.read_text())
        return {**found, "printed": done.stdout + done.stderr}


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """A file of somebody else, as a panel has it."""
    path = tmp_path / ".env"
    path.write_text("# panel\nDB_PASSWORD=hush\nBACKUP_DIR=/old\n")
    path.chmod(0o644)
    os.chown(path, NOBODY, NOBODY)
    return path


def copies(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*~"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_check_mode_and_the_run_show_one_plan_without_secrets(core: Ansible, env: Path) -> None:
    wanted = {"values": {"BACKUP_DIR": "/new", "S3_SSL": True}, "secret_values": {"S3_SECRET_KEY": SECRET}}
    old = env.read_bytes()
    planned = run(core, "--check", "--diff", "-vvv", path=str(env), **wanted)
    assert (planned["changed"], env.read_bytes(), copies(env)) == (True, old, [])
    done = run(core, "--diff", "-vvv", path=str(env), **wanted)
    assert (done["diff"], done["names"]) == (planned["diff"], planned["names"])
    assert done["names"] == ["BACKUP_DIR", "S3_SSL", "S3_SECRET_KEY"]
    for shown in (planned, done):
        assert SECRET not in str(shown)
        assert "hush" not in str(shown)
    assert "BACKUP_DIR=/old\n" in done["diff"]["before"]
    assert "S3_SECRET_KEY=(hidden)\n" in done["diff"]["after"]
    assert env.read_text() == f'# panel\nDB_PASSWORD=hush\nBACKUP_DIR=/new\nS3_SSL=1\nS3_SECRET_KEY="{SECRET}"\n'
    assert (mode(env), env.stat().st_uid, env.stat().st_gid) == (0o640, NOBODY, NOBODY)
    [copy] = copies(env)
    assert (str(copy), copy.read_bytes(), mode(copy)) == (done["backup_file"], old, 0o600)
    again = run(core, path=str(env), **wanted)
    assert (again["changed"], len(copies(env))) == (False, 1)
    assert not list(env.parent.glob(".env.??????*[!~]"))


@pytest.mark.exhaustive
def test_rights_alone_are_set_without_a_copy(core: Ansible, env: Path) -> None:
    done = run(core, "--diff", path=str(env), owner="root", group="0")
    assert (done["changed"], done["names"], copies(env)) == (True, [], [])
    assert "mode 0644" in done["diff"]["before"]
    assert (mode(env), env.stat().st_uid, env.stat().st_gid) == (0o640, 0, 0)
    assert not run(core, path=str(env), owner="root", mode="0640")["changed"]
    assert run(core, path=str(env), mode=0o600)["changed"]
    assert mode(env) == 0o600


@pytest.mark.exhaustive
def test_a_file_that_is_missing_is_made(core: Ansible, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert run(core, "--check", path=str(path), values={"A": 1})["created"]
    assert not path.exists()
    done = run(core, path=str(path), values={"A": 1})
    assert (done["created"], path.read_text(), mode(path)) == (True, "A=1\n", 0o640)
    failed = run(core, path=str(tmp_path / "no" / ".env"), values={"A": 1})
    assert "its directory does not exist" in failed["msg"]


@pytest.mark.exhaustive
def test_links_are_followed_unless_somebody_else_may_have_led_us(core: Ansible, env: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(".env")
    done = run(core, path=str(link), values={"BACKUP_DIR": "/new"})
    assert (done["path"], link.is_symlink(), os.readlink(link)) == (str(env), True, ".env")
    assert "BACKUP_DIR=/new\n" in env.read_text()
    os.chown(link, 1234, 1234, follow_symlinks=False)
    failed = run(core, path=str(link), values={"BACKUP_DIR": "/bad"})
    assert "user 1234" in failed["msg"]
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert not run(core, path=str(link), values={"BACKUP_DIR": "/new"}).get("failed")
    (tmp_path / "dangling").symlink_to("nothing")
    assert "which does not exist" in run(core, path=str(tmp_path / "dangling"), values={"A": 1})["msg"]
    (tmp_path / "loop").symlink_to("loop")
    assert "leads to itself" in run(core, path=str(tmp_path / "loop"), values={"A": 1})["msg"]
    assert "BACKUP_DIR=/new\n" in env.read_text()


@pytest.mark.exhaustive
def test_what_is_no_file_is_a_clear_error(core: Ansible, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"A=1\0\n")
    for name, said in (("", "is a directory"), ("pipe", "is a device, a pipe"), ("binary", "holds zero bytes")):
        failed = run(core, path=str(tmp_path / name), values={"A": 1})
        assert said in failed["msg"]
        assert failed["failed"]
    assert (tmp_path / "binary").read_bytes() == b"A=1\0\n"
    assert "not an absolute path" in run(core, path="relative/.env", values={"A": 1}).get("msg", "")


def test_a_file_that_cannot_be_read_or_replaced_is_a_clear_error() -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        env = Path(place) / ".env"
        env.write_text("A=1\n")
        for allowed, said in (
            (0o600, f"Reading {env} failed: Permission denied"),
            (0o644, "failed: Permission denied"),
        ):
            env.chmod(allowed)
            os.seteuid(NOBODY)
            try:
                with pytest.raises(StorageError, match=said):
                    set_env(Request({"path": str(env), "values": {"A": 2}, "backup": True, **UNSET}))
            finally:
                os.seteuid(0)
            assert env.read_text() == "A=1\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"values": {"S3_SECRET_KEY": "x"}}, "belongs in secret_values"),
        pytest.param({"values": {"A": "1"}, "secret_values": {"A": "2"}}, "in both", marks=pytest.mark.exhaustive),
        pytest.param({"values": {"A": ["1"]}}, "no text and no number", marks=pytest.mark.exhaustive),
        pytest.param({"values": {"A": "it's $1"}}, "The value of A cannot be written", marks=pytest.mark.exhaustive),
        pytest.param({"values": {"A B": "1"}}, "no name of a variable", marks=pytest.mark.exhaustive),
        pytest.param(
            {"values": {"A": "1"}, "owner": "nobody-here"}, "no user 'nobody-here'", marks=pytest.mark.exhaustive
        ),
        pytest.param({"values": {"A": "1"}, "mode": "rw"}, "no octal number", marks=pytest.mark.exhaustive),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_changed(
    core: Ansible, env: Path, args: dict[str, Any], said: str
) -> None:
    old = env.read_bytes()
    failed = run(core, path=str(env), **args)
    assert said in failed["msg"]
    assert (env.read_bytes(), copies(env)) == (old, [])


def test_values_are_read_as_the_panel_reads_them(core: Ansible, env: Path) -> None:
    env.write_text("BACKUP_DIR=/a\nBACKUP_DIR='/b c'\nS3_SSL=1   # yes\nS3_SECRET_KEY=hush\r\n")
    found = run(core, module="vmforge_env_info", path=str(env))
    assert found["settings"] == {"BACKUP_DIR": "/b c", "S3_SSL": "1"}
    assert "S3_SSL" in found["warnings"][0]


@pytest.mark.exhaustive
def test_only_what_was_asked_for_is_read_and_nothing_of_a_file_that_is_not_there(core: Ansible, env: Path) -> None:
    env.write_text("BACKUP_DIR=/a\nBACKUP_DIR='/b c'\nS3_SSL=1   # yes\nS3_SECRET_KEY=hush\r\n")
    found = run(core, module="vmforge_env_info", path=str(env))
    assert found["settings"] == {"BACKUP_DIR": "/b c", "S3_SSL": "1"}
    assert "S3_SSL" in found["warnings"][0]
    found = run(core, module="vmforge_env_info", path=str(env), names=["S3_SECRET_KEY"])
    assert found["settings"] == {"S3_SECRET_KEY": "hush"}
    found = run(core, module="vmforge_env_info", path=str(env.parent / "none"))
    assert (found["exists"], found["settings"]) == (False, {})


PLAYBOOK = """
- hosts: vmforge_master:vmforge_nodes
  gather_facts: false
  roles:
    - role: vmforge.backup.env
  post_tasks:
    - ansible.builtin.debug:
        msg: "{{ inventory_hostname }} has {{ vmforge_backup_dir }}, {{ vmforge_backup_s3_ssl }}"
"""
SAMPLE = """\
APP_KEY=hush
BACKUP_DIR=/srv/b
S3_ENDPOINT=play.min.io:9000          # or s3.amazonaws.com
S3_ACCESS_KEY=m
S3_SECRET_KEY=s3cret-of-all
S3_SSL=0
"""


@dataclass(frozen=True)
class Fleet:
    """A master and two nodes, which are directories here."""

    core: Ansible
    place: Path

    def env(self, host: str) -> Path:
        return self.place / host / ".env"

    def play(self, *argv: str, **variables: Any) -> tuple[int, str]:
        lines = {host: f"{host} vmforge_backup_env_path={self.env(host)}" for host in ("m", "n1", "n2")}
        inventory, playbook = self.place / "hosts", self.place / "play.yml"
        inventory.write_text(
            f"[vmforge_master]\n{lines['m']}\n[vmforge_nodes]\n{lines['n1']}\n{lines['n2']}\n"
            "[all:vars]\nansible_connection=local\nansible_python_interpreter=/usr/bin/python3\n"
        )
        playbook.write_text(PLAYBOOK)
        done = self.core.playbook(playbook, "-i", str(inventory), *argv, variables=variables)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def fleet(core: Ansible, tmp_path: Path) -> Fleet:
    """The panel's file is on the master; the first node has one of its own."""
    fleet = Fleet(core, tmp_path)
    for host in ("m", "n1"):
        fleet.env(host).parent.mkdir()
    fleet.env("m").write_text(SAMPLE)
    fleet.env("n1").write_text("S3_ACCESS_KEY=n\nS3_SECRET_KEY=s3cret-of-n1\n")
    return fleet


@pytest.mark.exhaustive
def test_the_role_puts_the_masters_settings_on_all_hosts_and_each_keeps_its_keys(fleet: Fleet) -> None:
    code, text = fleet.play("--check", "--diff")
    assert code == 0, text
    assert (fleet.env("m").read_text(), fleet.env("n2").parent.exists()) == (SAMPLE, False)
    code, text = fleet.play("--diff", "-vvv")
    assert code == 0, text
    for host in ("m", "n1", "n2"):
        assert f"{host} has /srv/b, False" in text
    assert "s3cret" not in text
    assert "hush" not in text
    read = {host: loaded(fleet.env(host)) for host in ("m", "n1", "n2")}
    assert read["m"].pop("APP_KEY") == "hush"
    assert read["m"] == read["n2"] == {**read["n1"], "S3_ACCESS_KEY": "m", "S3_SECRET_KEY": "s3cret-of-all"}
    assert (read["n1"]["S3_ACCESS_KEY"], read["n1"]["S3_SECRET_KEY"]) == ("n", "s3cret-of-n1")
    assert len(read["n1"]) == 11
    assert "# or s3.amazonaws.com\nS3_ENDPOINT=play.min.io:9000\n" in fleet.env("m").read_text()
    code, text = fleet.play()
    assert code == 0, text
    assert text.count("changed=0 ") == 3


def loaded(path: Path) -> dict[str, str]:
    return {name: line.read for name, line in read_values(path.read_text()).items()}


@pytest.mark.exhaustive
def test_hosts_that_would_differ_are_named_and_the_others_go_on(fleet: Fleet) -> None:
    fleet.env("n1").write_text("BACKUP_DIR=/other\n")
    code, text = fleet.play()
    assert code == 2
    assert "BACKUP_DIR is /other here and /srv/b on the master: set vmforge_backup_dir for all." in text
    assert fleet.env("n1").read_text() == "BACKUP_DIR=/other\n"
    assert loaded(fleet.env("n2"))["BACKUP_DIR"] == "/srv/b"
    code, text = fleet.play(vmforge_backup_dir="/all")
    assert code == 0, text
    assert {loaded(fleet.env(host))["BACKUP_DIR"] for host in ("m", "n1", "n2")} == {"/all"}


def test_a_master_that_cannot_be_read_leaves_the_nodes_alone(fleet: Fleet) -> None:
    fleet.env("m").unlink()
    fleet.env("m").mkdir()
    code, text = fleet.play("--limit", "n1,n2")
    assert code == 2
    assert "What the .env file of m says, which n2 is to say as well, could not be read" in text
    assert f"{fleet.env('m')} is a directory" in text
    assert not fleet.env("n2").parent.exists()
