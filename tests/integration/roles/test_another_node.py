# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nodes that are reached by SSH: a machine of one runs at once on the other, connections and restores fail."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _journal, _restore_run
from tests.bed.ansible import ROOT, found_cores
from tests.bed.guest import MIB, Disk, Guest, run
from tests.bed.records import Geometry, verify
from tests.bed.s3_proxy import cutting_proxy
from tests.fleet import fault
from tests.fleet.fleet import NODES, Fleet
from tests.fleet.podman import Container, podman, wait
from tests.integration.engine.test_restore import STEPS

MACHINE, COPY = "vmforge-web1", "vmforge-copy"
# Its disks are not whole before somebody lets the server be faster.
SLOW = 0.3
# A restore's steps: what it writes down before it does it, and what the engine's tests let fail.
NOTES = {
    f"note {kind}"
    for module in (_journal, _restore_run)
    for kind in re.findall(r'\.note\("(\w+)"', inspect.getsource(module))
    # What was on a device before cannot be put back.
    if kind != "device"
}
FUNCTIONS = {name if inspect.ismodule(owner) else f"{owner.__name__}.{name}" for owner, name, _turn in STEPS.values()}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two nodes, without a database."""
    made = Fleet(f"instant-{os.getpid()}")
    try:
        # Its server outlives whoever starts it.
        subprocess.run([sys.executable, "-m", "tests.fleet", "up", made.name], cwd=ROOT, check=True)
        known = {name: value for name, value in made.variables().items() if not name.startswith("vmforge_backup_db_")}
        hosts = {host: {"ansible_host": made.state["addresses"][host]} for host in NODES}
        inventory = {"all": {"vars": known}, "vmforge_nodes": {"hosts": hosts}}
        (made.directory / "nodes.json").touch(mode=0o600)
        (made.directory / "nodes.json").write_text(json.dumps(inventory))
        ready = play(made, "rollout")
        assert ready.returncode == 0, ready.stdout + ready.stderr
        yield made
    finally:
        made.down()


def play(fleet: Fleet, playbook: str, **variables: object) -> subprocess.CompletedProcess[str]:
    inventory = str(fleet.directory / "nodes.json")
    return found_cores()[-1].playbook(f"playbooks/{playbook}.yml", "-i", inventory, variables=variables)


@pytest.mark.exhaustive
def test_a_machine_runs_at_once_on_another_node_and_writes_while_its_disks_are_filled(fleet: Fleet) -> None:
    origin, there = fleet.guests[MACHINE], fleet.hosts["node2"]
    made = play(fleet, "backup", vm=MACHINE)
    assert made.returncode == 0, made.stdout + made.stderr
    newest = origin.wrote()
    # What it boots from lies on its node, and no backup has it.
    log = f"{origin.log}.{COPY}"
    there.run(["mkdir", "-p", "-m", "0755", str(origin.directory)])
    for kind in ("kernel", "initrd"):
        path = origin.directory / f"{MACHINE}.{kind}"
        podman("cp", str(path), f"{there.name}:{path}")

    def said(pattern: str) -> list[str]:
        return re.findall(pattern, there.run(["cat", log], check=False).stdout, re.MULTILINE)

    ends: list[subprocess.CompletedProcess[str]] = []
    with cutting_proxy(fleet.s3.port, fleet.state["gateway"]) as proxy:
        proxy.pause = SLOW
        options = {
            "vmforge_backup_restore_instant": True,
            "vmforge_backup_restore_storage": str(fleet.directory / "node2"),
            "vmforge_backup_s3_endpoint": f"http://{fleet.state['gateway']}:{proxy.port}",
        }
        restore = threading.Thread(
            target=lambda: ends.append(play(fleet, "restore", vm=MACHINE, to=COPY, node="node2", **options))
        )
        restore.start()
        try:
            wait(lambda: len(said(r"^wrote \d+$")) > 3 or not restore.is_alive(), "the copy", timeout=1200)
            # It is not whole yet: what it had is still read through the slow line.
            assert ends == []
        finally:
            proxy.pause = 0.0
            restore.join()
    assert ends[0].returncode == 0, ends[0].stdout + ends[0].stderr
    [found] = said(r"found 1\.\.(\d+) intact")
    assert 0 < int(found) <= newest
    there.run(["virsh", "-q", "destroy", COPY])
    images = [Path(path) for path in there.run(["virsh", "-q", "domblklist", COPY]).stdout.split()[1::2]]
    assert verify(images, Geometry.of(origin)) >= int(said(r"^wrote (\d+)$")[3])
    for path in images:
        assert b"backing-filename" not in subprocess.check_output(["qemu-img", "info", "--output=json", str(path)])
    units = there.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "vmforge-instant-*"]).stdout
    assert units == ""


@pytest.mark.exhaustive
def test_a_connection_that_breaks_ends_no_backup(fleet: Fleet) -> None:
    """Neither the work on the node, nor the playbook, which asks again."""
    node, ends = fleet.hosts["node1"], []
    find = ["find", "/var/lib/vmforge/backups", "-name", "*.partial"]
    slow = {"vmforge_backup_rate_limit": "300K", "vmforge_backup_type": "full", "vmforge_backup_progress_interval": 1}

    def asked() -> int:
        return node.run(["journalctl", "-q", "--no-pager"]).stdout.count("vmforge_backup_job")

    before = asked()
    backup = threading.Thread(target=lambda: ends.append(play(fleet, "backup", vm=MACHINE, **slow)))
    backup.start()
    try:
        # To begin the work is asked once, how far it is again and again.
        wait(lambda: asked() > before or not backup.is_alive(), "the backup", timeout=1200)
        [begun] = node.run(find).stdout.split()
        # All sessions, and what they have started.
        node.run(["pkill", "-KILL", "-f", "^sshd: root"])
        assert ends == []
        assert node.run(find).stdout.split() == [begun]
    finally:
        backup.join()
    assert ends[0].returncode == 0, ends[0].stdout + ends[0].stderr
    assert re.search(rf"{MACHINE} +node1 +created", ends[0].stdout)
    assert node.run(["ls", begun.removesuffix(".partial") + "/manifest.json"]).stdout


@dataclass
class Machine:
    """A machine of node2 with two disks, whose restores fail.

    Attributes:
        guest: It runs and does not write.
        stored: What its disks held when it was backed up, and do not hold now.
        stored_xml: Its definition then; now it has another one.
    """

    fleet: Fleet
    guest: Guest
    stored: dict[str, str]
    stored_xml: str

    @property
    def node(self) -> Container:
        return self.fleet.hosts["node2"]

    def order(self, behind: int, functions: Sequence[str], *, die: bool = False) -> None:
        """Let the next restore fail when so many calls of these have returned."""
        order = {"behind": behind, "functions": functions, "die": die}
        self.node.run(["rm", "-f", str(fault.HIT)])
        self.node.write(str(fault.ORDER), json.dumps(order))

    def restore(self) -> tuple[subprocess.CompletedProcess[str], str]:
        """Restore it where it runs; how that ended, and behind which step it failed as ordered."""
        options = {"force": True, "start": True, "boot_timeout": 1, "old": "remove"}
        variables = {f"vmforge_backup_restore_{name}": value for name, value in options.items()}
        done = play(self.fleet, "restore", vm=self.guest.name, node="node2", **variables)
        return done, self.node.run(["cat", str(fault.HIT)], check=False).stdout

    def shape(self) -> dict[str, Any]:
        """All that a failed restore must leave as it was."""
        files = [Path(str(disk.path)) for disk in self.guest.disks]
        names = {path.name for path in self.guest.directory.glob(f"*{self.guest.name}*")}
        return {
            "names": {name for name in names if not name.endswith((".console", ".xml"))},
            "inodes": [path.stat().st_ino for path in files],
            "bytes": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files],
            "xml": definition(self.guest),
            "disks": self.guest.virsh("domblklist", self.guest.name),
            "state": self.guest.state(),
            "notes": self.node.run(["find", "/var/lib/vmforge/restore", "-mindepth", "1"], check=False).stdout,
            "helpers": self.node.run(["pgrep", "-l", "nbdkit|qemu-nbd|qemu-storage"], check=False).stdout,
        }


def definition(guest: Guest) -> str:
    return guest.virsh("dumpxml", "--inactive", guest.name)


def contents(guest: Guest) -> dict[str, str]:
    """What the machine reads from its disks."""
    found = {}
    for disk in guest.disks:
        raw = guest.directory / "contents"
        run(["qemu-img", "convert", "-U", "-f", disk.format, "-O", "raw", str(disk.path), str(raw)])
        found[disk.target] = hashlib.sha256(raw.read_bytes()).hexdigest()
        raw.unlink()
    return found


def write_noise(guest: Guest) -> None:
    for disk in guest.disks:
        raw = guest.directory / "noise"
        raw.write_bytes(bytes(2 * MIB) + os.urandom(2 * MIB))
        run(["qemu-img", "convert", "-f", "raw", "-O", disk.format, str(raw), str(disk.path)])
        raw.unlink()


@pytest.fixture
def machine(fleet: Fleet) -> Iterator[Machine]:
    node, directory = fleet.hosts["node2"], fleet.directory / "node2"
    disks = [Disk(directory / "vmforge-undone-vda.qcow2"), Disk(directory / "vmforge-undone-vdb.raw", "raw", "vdb")]
    guest = Guest("vmforge-undone", directory, disks, mode="idle", run=node.run)
    site = node.run(["/usr/bin/python3", "-c", "import site; print(site.getsitepackages()[0])"]).stdout.strip()
    node.write(f"{site}/vmforge_fault.py", Path(fault.__file__).read_text())
    node.write(f"{site}/vmforge_fault.pth", "import vmforge_fault\n")
    try:
        write_noise(guest)
        guest.define()
        # libvirt orders a definition anew when it is defined from its own words; only then it stays as it is.
        path = directory / f"{guest.name}.xml"
        path.write_text(definition(guest))
        guest.virsh("define", str(path))
        # Without bitmaps, so that an image stays as it is while its machine does not write.
        made = play(fleet, "backup", vm=guest.name, vmforge_backup_max_incrementals=0)
        assert made.returncode == 0, made.stdout + made.stderr
        stored, stored_xml = contents(guest), definition(guest)
        write_noise(guest)
        assert contents(guest) != stored
        guest.virsh("desc", guest.name, "--config", "--new-desc", "Not in the backup.")
        path.write_text(definition(guest))
        guest.virsh("define", str(path))
        guest.start().wait("bed: ready")
        yield Machine(fleet, guest, stored, stored_xml)
    finally:
        guest.undefine()
        node.run(["rm", "-f", f"{site}/vmforge_fault.py", f"{site}/vmforge_fault.pth", str(fault.ORDER)])


@pytest.mark.exhaustive
def test_a_restore_in_place_that_fails_behind_any_step_is_undone(machine: Machine) -> None:
    before, failed = machine.shape(), []
    assert before["state"] == "running"
    for behind in itertools.count(1):
        machine.order(behind, ["Journal.note", *sorted(FUNCTIONS)])
        done, step = machine.restore()
        if not step:
            break
        failed.append(step)
        assert done.returncode == 2, (failed, done.stdout)
        assert "injected" in done.stdout, failed
        assert machine.shape() == before, failed
    assert_restored(machine, done, before, failed)


@pytest.mark.exhaustive
def test_a_restore_in_place_that_is_killed_behind_any_step_is_undone_by_the_next_one(machine: Machine) -> None:
    before, killed = machine.shape(), []
    for behind in itertools.count(1):
        machine.order(behind, ["Journal.note", *sorted(FUNCTIONS)], die=True)
        done, step = machine.restore()
        if not step:
            break
        killed.append(step)
        assert done.returncode == 2, (killed, done.stdout)
        # The next one fails as well, at the first step of its own.
        machine.order(1, ["Journal.note"])
        done, again = machine.restore()
        assert again, killed
        assert done.returncode == 2, (killed, done.stdout)
        assert "injected" in done.stdout, killed
        after = machine.shape()
        # Disks that a machine was started with may be worth something.
        kept = {name for name in after["names"] - before["names"] if "start_domain" in killed and ".before-" in name}
        for name in kept:
            (machine.guest.directory / name).unlink()
        assert {**after, "names": after["names"] - kept} == before, killed
    assert_restored(machine, done, before, killed)


def assert_restored(
    machine: Machine, done: subprocess.CompletedProcess[str], before: dict[str, Any], failed: list[str]
) -> None:
    """No step was forgotten, and a run in which none fails restores it."""
    assert set(failed) == NOTES | {function.rpartition(".")[2] for function in FUNCTIONS}
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(machine.guest) == machine.stored
    after = machine.shape()
    assert after["xml"] == machine.stored_xml != before["xml"]
    for same in ("names", "disks", "state", "notes", "helpers"):
        assert after[same] == before[same]
