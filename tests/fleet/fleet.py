# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One master and two nodes with systemd, MariaDB, an S3 server and running guests: a small VMForge installation.

All of a fleet lies in one directory, ``.cache/fleet/<name>``; from there it is found again, and brought down.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.bed.guest import MIB, Disk, Guest, run
from tests.bed.s3 import S3Server, weed_server
from tests.fleet.image import CORE, ROOT, image, wheels
from tests.fleet.panel import DATABASE, ENV, ENV_PATH, Panel
from tests.fleet.podman import Container, podman

MASTER = "master"
NODES = ("node1", "node2")
PLACE = ROOT / ".cache" / "fleet"
# Guests of the nodes: name, and whether it runs.
GUESTS = {"node1": {"vmforge-web1": True, "vmforge-db1": False}, "node2": {"vmforge-web2": True}}
_DISK = 24 * MIB
# Behind the records of a disk there is something that takes a while to read.
_NOISE_AT, _NOISE = 4 * MIB, 12 * MIB


@dataclass(frozen=True)
class Fleet:
    """A fleet, up or not.

    Attributes:
        name: Of its directory.
    """

    name: str = "default"

    @property
    def directory(self) -> Path:
        """All that this fleet has on this machine; nodes see only their own part of it, at the same path."""
        return PLACE / self.name

    @property
    def _state(self) -> Path:
        return self.directory / "state.json"

    @cached_property
    def state(self) -> dict[str, Any]:
        """What :meth:`up` wrote down."""
        if not self._state.exists():
            raise RuntimeError(f"there is no fleet {self.name}: python -m tests.fleet up {self.name}")
        state: dict[str, Any] = json.loads(self._state.read_text())
        return state

    @cached_property
    def hosts(self) -> dict[str, Container]:
        """The hosts by name."""
        return {host: Container(name, host) for host, name in self.state["containers"].items()}

    @cached_property
    def panel(self) -> Panel:
        """The panel's part of the master."""
        return Panel(self.hosts[MASTER], self.state["panel_password"])

    @cached_property
    def s3(self) -> S3Server:
        """The S3 server, to look behind the back of what is tested."""
        known = self.state["s3"]
        return S3Server(
            known["endpoint"], known["access_key"], known["secret_key"], known["bucket"], [], self.directory / "s3"
        )

    @cached_property
    def guests(self) -> dict[str, Guest]:
        """The guests by name."""
        return {name: self._guest(node, name, self.state["uuids"][name]) for node in NODES for name in GUESTS[node]}

    def node_of(self, guest: str) -> str:
        """Return the name of a guest's node."""
        return next(node for node, guests in GUESTS.items() if guest in guests)

    def _guest(self, node: str, name: str, uuid: str) -> Guest:
        directory = self.directory / node
        # A raw disk is backed up in full each time.
        kind = "raw" if name.endswith("db1") else "qcow2"
        disks = [Disk(directory / f"{name}-vda.{kind}", format=kind, size=_DISK)]
        if name.endswith("web1"):
            disks.append(Disk(directory / f"{name}-vdb.raw", format="raw", target="vdb", size=_DISK))
        return Guest(name, directory, disks, slots=256, pause=500_000, uuid=uuid, run=self.hosts[node].run)

    def up(self, later: Collection[str] = ()) -> None:
        """Make all of it; what was begun is removed again if that fails.

        Args:
            later: Nodes that the inventory has, and that :meth:`add` makes.
        """
        if self._state.exists():
            raise RuntimeError(f"fleet {self.name} is up already: python -m tests.fleet down {self.name}")
        image()
        stem = f"vmforge-fleet-{os.getpid()}"
        for node in NODES:
            (self.directory / node).mkdir(parents=True, exist_ok=True)
        self._save(
            network=stem,
            containers={host: f"{stem}-{host}" for host in (MASTER, *NODES)},
            panel_password=secrets.token_hex(16),
            uuids={name: str(uuid.uuid4()) for guests in GUESTS.values() for name in guests},
        )
        try:
            here = [node for node in NODES if node not in later]
            self._make_network()
            self._make_hosts([MASTER, *here])
            self._make_s3()
            self._make_master()
            for node in here:
                self._make_node(node)
            self._write_inventory()
            for node in here:
                self._wait_for_guests(node)
        except BaseException:
            self.down()
            raise

    def _save(self, **more: Any) -> None:
        state = {**(json.loads(self._state.read_text()) if self._state.exists() else {}), **more}
        partial = self._state.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(state, indent=1))
        partial.rename(self._state)
        self.__dict__["state"] = state

    def add(self, node: str) -> None:
        """Make a node that :meth:`up` has left out."""
        self._make_hosts([node])
        self._make_node(node)
        self._wait_for_guests(node)

    def _make_network(self) -> None:
        network = self.state["network"]
        podman("network", "create", network)
        [subnet] = json.loads(podman("network", "inspect", network).stdout)[0]["subnets"]
        # Of their own, for a host that was off would come back with another one.
        first = ipaddress.ip_address(subnet["gateway"])
        addresses = {host: str(first + number) for number, host in enumerate(self.hosts, start=10)}
        self._save(gateway=str(first), addresses=addresses)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleet", "-f", str(self.directory / "key")],
            check=True,
            stdin=subprocess.DEVNULL,
        )

    def _make_hosts(self, hosts: Iterable[str]) -> None:
        root, packages = image(), wheels()
        made = {host: self.hosts[host] for host in hosts}
        for host, container in made.items():
            mounts = [self.directory / host] if host in NODES else [packages]
            container.create(root, self.state["network"], self.state["addresses"][host], mounts)
        public = (self.directory / "key.pub").read_text()
        for container in made.values():
            container.wait_booted()
            container.write("/root/.ssh/authorized_keys", public, "0600")

    def _make_s3(self) -> None:
        server = weed_server(self.directory / "s3", address=self.state["gateway"])
        server.start()
        assert server.process is not None
        found = {name: getattr(server, name) for name in ("endpoint", "access_key", "secret_key", "bucket")}
        for name in ("no_delete", "delete_only"):
            keys = getattr(server, name)
            found[name] = {"access_key": keys.access_key, "secret_key": keys.secret_key}
        self._save(s3={**found, "pid": server.process.pid})
        with contextlib.closing(server.client()) as client:
            client.create_bucket(Bucket=server.bucket)

    def _make_master(self) -> None:
        master = self.hosts[MASTER]
        # It runs the scheduled playbooks.
        master.write("/root/.ssh/id_ed25519", (self.directory / "key").read_text(), "0600")
        master.run(["systemctl", "-q", "enable", "--now", "mariadb"])
        self.panel.create(GUESTS, self.state["uuids"])
        master.write(ENV_PATH, ENV.format(password=self.state["panel_password"]), "0640")

    def _make_node(self, node: str) -> None:
        host = self.hosts[node]
        host.run(["systemctl", "-q", "enable", "--now", "libvirtd"])
        host.write(ENV_PATH, "APP_ENV=production\nAGENT_ONLY=1\n", "0640")
        for name, running in GUESTS[node].items():
            guest = self.guests[name]
            for disk in guest.disks:
                _fill(disk)
            guest.define()
            if running:
                guest.start()

    def _wait_for_guests(self, node: str) -> None:
        for name, running in GUESTS[node].items():
            if running:
                self.guests[name].wait_more(2)

    def revive(self, node: str, *, guests: bool = True) -> None:
        """Switch a node on again after :meth:`Container.kill`, and its guests as its administrator would."""
        self.hosts[node].start()
        for name, running in GUESTS[node].items():
            if running and guests:
                self.guests[name].start().wait_more(2)

    def _write_inventory(self) -> None:
        place = self.directory / "inventory"
        (place / "group_vars").mkdir(parents=True, exist_ok=True)
        addresses = self.state["addresses"]
        # JSON is YAML.
        groups = {"vmforge_master": [MASTER], "vmforge_nodes": list(NODES)}
        hosts = {
            group: {"hosts": {host: {"ansible_host": addresses[host]} for host in names}}
            for group, names in groups.items()
        }
        (place / "hosts.yml").write_text(json.dumps(hosts, indent=1) + "\n")
        variables = place / "group_vars" / "all.yml"
        variables.touch(mode=0o600)
        variables.write_text(json.dumps(self.variables(), indent=1) + "\n")

    def variables(self) -> dict[str, Any]:
        """What an administrator would write into the inventory."""
        known = self.state["s3"]
        common = "-F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        alive = "-o ConnectTimeout=5 -o ServerAliveInterval=3 -o ServerAliveCountMax=2"
        return {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.directory / "key"),
            "ansible_ssh_common_args": f"{common} {alive}",
            "ansible_python_interpreter": "/usr/bin/python3",
            "vmforge_backup_offsite": "s3",
            "vmforge_backup_s3_endpoint": known["endpoint"],
            "vmforge_backup_s3_region": "us-east-1",
            "vmforge_backup_s3_bucket": known["bucket"],
            "vmforge_backup_s3_prefix": "fleet",
            # Nodes may write; the master alone may delete.
            "vmforge_backup_s3_access_key": known["no_delete"]["access_key"],
            "vmforge_backup_s3_secret_key": known["no_delete"]["secret_key"],
            "vmforge_backup_s3_delete_access_key": known["delete_only"]["access_key"],
            "vmforge_backup_s3_delete_secret_key": known["delete_only"]["secret_key"],
            "vmforge_backup_db_socket": "/run/mysqld/mysqld.sock",
            "vmforge_backup_db_name": DATABASE,
            "vmforge_backup_db_user": "vmforge_backup",
            "vmforge_backup_db_password": self.state["panel_password"][::-1],
            "vmforge_backup_db_admin_user": "root",
            # From here on: how the master's own Ansible is installed, and how it reaches the nodes.
            "vmforge_backup_schedule_ansible_core": f"ansible-core=={CORE}.*",
            "vmforge_backup_schedule_pip_arguments": f"--no-index --no-compile --find-links={wheels()}",
            "vmforge_backup_schedule_delay": 0,
        }

    def down(self) -> None:
        """End and remove all of it, as far as it came."""
        if not self._state.exists():
            return
        # First, for its address goes with the last container, and without it it waits for itself.
        if "s3" in self.state:
            _end(self.state["s3"]["pid"], self.directory / "s3")
        for container in self.hosts.values():
            container.remove()
        podman("network", "rm", "-f", self.state["network"], check=False)
        shutil.rmtree(self.directory)


def _fill(disk: Disk) -> None:
    assert disk.path is not None
    raw = disk.path.with_suffix(".filled")
    with raw.open("wb") as file:
        file.truncate(_DISK)
        file.seek(_NOISE_AT)
        file.write(random.randbytes(_NOISE))
    run(["qemu-img", "convert", "-f", "raw", "-O", disk.format, str(raw), str(disk.path)])
    raw.unlink()


def _end(pid: int, directory: Path) -> None:
    """End the S3 server: this process, if it still is the one that works in this directory."""
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/{pid}/cwd") != str(directory):
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            # A child of this very process has to be waited for.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
