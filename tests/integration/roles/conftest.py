# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor of its own with two guests, and playbooks run on it as people run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bed import warm
from tests.bed.ansible import ROOT, SYSTEM_PATH, Ansible, found_cores
from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.hypervisor import PrivateLibvirt, private_libvirt
from tests.bed.mariadb import MariaDB, mariadb
from tests.bed.s3 import S3Server, weed


@dataclass(frozen=True)
class Run:
    """A playbook's end.

    Attributes:
        code: Of its process.
        text: All that it printed.
        stats: The custom statistics, which AWX calls artifacts.
    """

    code: int
    text: str
    stats: Mapping[str, Any]

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """VM, node and result of each row of the report."""
        return [(row["vm"], row["node"], row["result"]) for row in self.stats["vmforge_backup_report"]["rows"]]


Play = Callable[..., Run]


@dataclass(frozen=True)
class Hypervisor:
    """A libvirtd of its own.

    Attributes:
        web: A running guest with an agent and two disks.
        db: A stopped guest.
    """

    libvirt: PrivateLibvirt
    web: Guest
    db: Guest


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Hypervisor]:
    """The guests, for all tests: nothing here changes them."""
    with scratch_directory("roles") as place:
        (place / "libvirt").mkdir()
        with private_libvirt(place / "libvirt") as libvirt:
            disks = [Disk(place / "web.raw", format="raw", size=48 * MIB, fs_mib=16)]
            disks += [Disk(place / "web-b.qcow2", target="vdb", size=24 * MIB)]
            disks += [Disk(None, target="sda", device="cdrom", bus="sata")]
            web = Guest("web", place, disks, agent=True, fs="vda", base=16, pause=500_000, run=libvirt.run)
            # Something to read: what does not compress takes a while over a slow line.
            (place / "noise").write_bytes(os.urandom(2 * MIB))
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", place / "noise", place / "db.qcow2"], check=True)
            subprocess.run(["qemu-img", "resize", "-q", place / "db.qcow2", "24M"], check=True)
            db = Guest("db", place, [Disk(place / "db.qcow2", size=24 * MIB)], run=libvirt.run)
            with web:
                web.wait_more(2)
                db.define()
                try:
                    yield Hypervisor(libvirt, web, db)
                finally:
                    db.undefine()


@dataclass(frozen=True)
class Storage:
    """Directories of one test."""

    place: Path

    @property
    def backups(self) -> Path:
        """The ``backup_dir``."""
        return self.place / "backups"

    @property
    def variables(self) -> dict[str, Any]:
        """The collection-wide variables that lead here."""
        return {"vmforge_backup_dir": str(self.backups), "vmforge_backup_scratch_dir": str(self.place / "scratch")}

    def manifests(self) -> list[dict[str, Any]]:
        """All backups that there are, oldest first."""
        return [json.loads(path.read_text()) for path in sorted(self.backups.glob("*/*/manifest.json"))]


@pytest.fixture
def storage() -> Iterator[Storage]:
    """As the role node makes them."""
    with scratch_directory("storage") as place:
        (place / "backups").mkdir(mode=0o700)
        (place / "scratch").mkdir(mode=0o711)
        (place / "scratch").chmod(0o711)
        yield Storage(place)


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server."""
    with weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(scope="session")
def database_server() -> Iterator[MariaDB]:
    """A MariaDB for the panel's tables, which each test makes anew."""
    with mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of whoever runs the playbooks."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def play(ansible: Ansible, hypervisor: Hypervisor, storage: Storage, tmp_path: Path, home: Path) -> Play:
    """Run a playbook with each ansible-core beside the guests: ``play("backup.yml", "--check", vm="web")``."""
    return _player(ansible, hypervisor, storage, tmp_path, home)


@pytest.fixture
def play_newest(hypervisor: Hypervisor, storage: Storage, tmp_path: Path, home: Path) -> Play:
    """The same with the newest core alone: for what is decided by our own code."""
    return _player(found_cores()[-1], hypervisor, storage, tmp_path, home)


def _player(ansible: Ansible, hypervisor: Hypervisor, storage: Storage, tmp_path: Path, home: Path) -> Play:
    def run(playbook: str | Path, *argv: str, inventory: str = "", **more: Any) -> Run:
        hosts, variables = tmp_path / "hosts", tmp_path / "variables.json"
        hosts.write_text(inventory)
        # In a file, as people should: Ansible itself prints what is given in words.
        variables.write_text(json.dumps({**storage.variables, **more}))
        # Absolute, for to enter the namespace is to leave the directory.
        where = playbook if isinstance(playbook, Path) else ROOT / "playbooks" / playbook
        options = ["-i", str(hosts)] if inventory else []
        done = warm.run(
            ansible.bin / "ansible-playbook",
            [str(where), *options, "-e", f"@{variables}", *argv],
            env={
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "PATH": f"{ansible.bin}:{SYSTEM_PATH}",
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_SHOW_CUSTOM_STATS": "1",
                **ansible.env,
            },
            within=hypervisor.libvirt.argv([]),
        )
        found = re.search(r"^\tRUN: (\{.*?\})$", done.stdout, re.MULTILINE | re.DOTALL)
        return Run(done.returncode, done.stdout + done.stderr, json.loads(found.group(1)) if found else {})

    return run


NODES = """
[vmforge_nodes]
{}

[vmforge_nodes:vars]
ansible_connection=local
ansible_python_interpreter=/usr/bin/python3
"""
# Nobody listens there.
DEAD = "dead ansible_connection=ssh ansible_host=127.0.0.1 ansible_port=9 ansible_ssh_common_args='-F /dev/null'"


def nodes(*lines: str) -> str:
    """An inventory of nodes, all on this host."""
    return NODES.format("\n".join(lines))
