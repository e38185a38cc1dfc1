# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the PHP pack got wrong, and this collection must not. Its retention is in ``tests/unit/test_retention.py``."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._catalog import Row, plan_sync
from ansible_collections.vmforge.backup.plugins.module_utils._catalog_listing import Listing
from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import VmDirectory
from ansible_collections.vmforge.backup.plugins.plugin_utils._ways import ways
from tests.bed.guest import MIB, Disk, Guest
from tests.bed.s3 import S3Server

from .driver import NODE, Engine, compare, downloaded, keys, noise


def listing(engine: Engine, guest: Guest) -> Listing:
    """As the role hands it to the catalogue."""
    return Listing(NODE, tuple(engine.entries(guest)), None, None, str(engine.backup_dir))


def rows(engine: Engine, guest: Guest, known: list[Row]) -> list[Row]:
    """The catalogue's rows after it followed the storage."""
    after = {row.path: row for row in known}
    after.update({change.after.path: change.after for change in plan_sync(known, listing(engine, guest)).changes})
    return list(after.values())


@pytest.fixture
def stopped(place: Path, libvirt_daemon: None) -> Iterator[Guest]:
    """A stopped machine with an overlay over a base image, at a path that nobody would guess, and a second disk."""
    base, data = place / "base.raw", place / "data.raw"
    for path in (base, data):
        subprocess.run(["truncate", "-s", str(40 * MIB), str(path)], check=True)
        noise(path, (MIB, 24 * MIB))
    (place / "vms").mkdir()
    # Names of 32 and more characters are names.
    guest = Guest(
        "vmforge-0123456789abcdef0123456789abcdef",
        place,
        [
            Disk(place / "vms" / "disk.qcow2", size=40 * MIB, backing=base, backing_format="raw"),
            Disk(data, format="raw", target="vdb"),
        ],
    )
    guest.define()
    try:
        yield guest
    finally:
        guest.undefine()


def test_what_could_not_be_deleted_in_s3_is_not_called_deleted(
    offsite: Engine, stopped: Guest, server: S3Server
) -> None:
    entry = offsite.backup(stopped)
    known = rows(offsite, stopped, [])
    assert server.no_delete is not None
    weak = server.params(server.no_delete, s3_prefix=offsite.s3["s3_prefix"])
    with pytest.raises(S3Error):
        offsite.remove(stopped, entry["id"], **weak)
    assert f"{entry['s3_key']}/vda.qcow2" in keys(server, entry["s3_key"])
    assert [row.status for row in rows(offsite, stopped, known)] != ["deleted"]
    # With keys that may, it goes wholly, and only then does the catalogue say so.
    offsite.remove(stopped, entry["id"])
    assert keys(server, entry["s3_key"]) == []
    assert offsite.entries(stopped) == []


def test_every_disk_where_it_really_is_and_what_defines_the_machine(engine: Engine, stopped: Guest) -> None:
    entry = engine.backup(stopped)
    path = Path(entry["path"])
    manifest = json.loads((path / "manifest.json").read_bytes())
    assert [(disk["target"], disk["source"]) for disk in manifest["disks"]] == [
        (disk.target, str(disk.path)) for disk in stopped.disks
    ]
    for disk in stopped.disks:
        assert disk.path is not None
        # An overlay comes with all that lies below it.
        compare(path / f"{disk.target}.qcow2", disk.path, disk.format)
    assert stopped.uuid in (path / "domain.xml").read_text()


def test_large_files_go_in_parts_and_what_arrived_is_proved(offsite: Engine, stopped: Guest, server: S3Server) -> None:
    entry = offsite.backup(stopped)
    manifest = json.loads((Path(entry["path"]) / "manifest.json").read_bytes())
    (record,) = (item for item in manifest["files"] if item["name"] == "vda.qcow2")
    assert len(record["parts"]) == 2
    with contextlib.closing(server.client()) as client:
        found = client.head_object(Bucket=server.bucket, Key=f"{entry['s3_key']}/vda.qcow2")
    # How S3 marks an object that came in two parts.
    assert found["ETag"].strip('"').endswith("-2")
    with downloaded(offsite, server, entry["s3_key"]) as copy:
        assert (copy / "vda.qcow2").read_bytes() == (Path(entry["path"]) / "vda.qcow2").read_bytes()


def test_a_failure_has_a_row(engine: Engine, stopped: Guest) -> None:
    first = engine.backup(stopped)
    running = engine.start(stopped, rate_limit=4 * MIB)
    running.middle()
    running.kill_all()
    running.wait()
    second = engine.backup(stopped)
    statuses = sorted(row.status for row in rows(engine, stopped, []))
    assert statuses == ["failed", "ready", "ready"]
    assert [entry["code"] for entry in engine.failures(stopped)] == ["interrupted"]
    assert {entry["id"] for entry in engine.ready(stopped)} == {first["id"], second["id"]}


def test_the_policy_decides_what_goes_offsite(offsite: Engine, stopped: Guest, server: S3Server) -> None:
    for wanted, drop, copies in (("none", False, ["local"]), ("s3", False, ["local", "s3"]), ("s3", True, ["s3"])):
        policy = {"offsite": wanted, "delete_local_after_upload": drop}
        found = ways(
            [stopped.uuid],
            {"policies": {stopped.uuid: policy}},
            {stopped.uuid: stopped.name},
            offsite="none" if wanted == "s3" else "s3",
            s3_configured=True,
        )
        (group,) = found["groups"]
        entry = offsite.backup(
            stopped, offsite=group["offsite"], delete_local_after_upload=group["delete_local_after_upload"]
        )
        assert entry["copies"] == copies


def test_locked_planned_closed_to_others_and_checked(engine: Engine, stopped: Guest) -> None:
    first = engine.backup(stopped)
    with VmDirectory(engine.directory(stopped)).lock():
        engine.fail(stopped, "locked")
    for path in engine.directory(stopped).rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE(engine.directory(stopped).stat().st_mode) == 0o700
    before = [entry["id"] for entry in engine.entries(stopped)]
    assert engine.remove(stopped, first["id"], check_mode=True).changed
    assert [entry["id"] for entry in engine.entries(stopped)] == before
    manifest = json.loads((Path(first["path"]) / "manifest.json").read_bytes())
    # Read again from the disk after it was synced, which is where the hash of the whole comes from.
    assert all(record["sha256"] for record in manifest["files"])


def test_a_long_name_is_a_name(engine: Engine, stopped: Guest) -> None:
    assert len(stopped.name) > 32
    hypervisor = Hypervisor()
    assert hypervisor.find(stopped.name).uuid == stopped.uuid
    assert hypervisor.find(stopped.uuid.upper().replace("-", "")).uuid == stopped.uuid
    assert engine.backup(stopped)["vm"]["name"] == stopped.name
    hypervisor.close()
