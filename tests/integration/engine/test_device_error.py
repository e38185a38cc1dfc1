# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A block device that fails while it is written in place: told, nothing is started, and the next restore is whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._restore import restore_backup
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS
from tests.bed.guest import MIB, Disk, Guest, run

from .driver import NODE, Engine, compare


@pytest.fixture
def room(place: Path) -> Iterator[Path]:
    """A file system of 24 MiB: a device in a file of it has errors when that is full."""
    path = place / "room"
    path.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)])
    try:
        yield path
    finally:
        run(["umount", "-l", str(path)])


@pytest.fixture
def device(room: Path) -> Iterator[Path]:
    run(["truncate", "-s", str(16 * MIB), str(room / "disk")])
    found = run(["losetup", "-f", "--show", str(room / "disk")]).stdout.strip()
    try:
        yield Path(found)
    finally:
        run(["losetup", "-d", found])


def restore(engine: Engine, machine: Guest) -> Outcome:
    values: dict[str, Any] = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
    values.update(vm=machine.name, node=NODE, backup_dir=str(engine.backup_dir), state_dir=str(engine.place / "state"))
    return restore_backup(Request({**values, "overwrite_devices": True, "start": True}))


def test_a_device_that_fails_starts_nothing(libvirt_daemon: None, place: Path, room: Path, device: Path) -> None:
    device.write_bytes(os.urandom(12 * MIB))
    disks = [Disk(place / "vda.qcow2", size=4 * MIB), Disk(device, format="raw", target="vdb")]
    machine = Guest(f"x{uuid.uuid4().hex[:6]}", place, disks, mode="idle").define()
    engine = Engine(place)
    try:
        path = Path(engine.backup(machine)["path"])
        run(["blkdiscard", str(device)])
        (room / "filler").write_bytes(bytes(20 * MIB))
        with pytest.raises(VMForgeError) as caught:
            restore(engine, machine)
        assert str(device) in caught.value.message
        assert "not started" in caught.value.message
        assert machine.state() == "shut off"
        (room / "filler").unlink()
        outcome = restore(engine, machine)
        assert any(f"The block device {device} was overwritten" in warning for warning in outcome.warnings)
        assert machine.state() == "running"
        machine.destroy()
        compare(path / "vdb.qcow2", str(device), "raw")
        assert not list((engine.place / "state").glob("*"))
    finally:
        machine.undefine()
