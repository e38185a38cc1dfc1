# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nodes that are reached by SSH: a machine of one runs at once on the other, and a connection breaks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.ansible import ROOT, found_cores
from tests.bed.records import Geometry, verify
from tests.bed.s3_proxy import cutting_proxy
from tests.fleet.fleet import NODES, Fleet
from tests.fleet.podman import podman, wait

MACHINE, COPY = "vmforge-web1", "vmforge-copy"
# Its disks are not whole before somebody lets the server be faster.
SLOW = 0.3


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
    backup = threading.Thread(target=lambda: ends.append(play(fleet, "backup", vm=MACHINE, **slow)))
    backup.start()
    try:
        wait(lambda: node.run(find).stdout != "" or not backup.is_alive(), "the backup", timeout=1200)
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
