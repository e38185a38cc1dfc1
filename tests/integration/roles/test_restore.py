# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``playbooks/verify.yml`` and ``playbooks/restore.yml``: proved, damaged, mended, and made a machine of."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed.records import Geometry
from tests.bed.records import verify as verify_records
from tests.bed.s3 import S3Server
from tests.bed.s3_proxy import Proxy, cutting_proxy
from tests.integration.engine.shelf import Shelf
from tests.integration.roles.conftest import Hypervisor, Play, Storage, nodes

# Two MiB then take three seconds.
_SLOW = 0.1
_PROGRESS = r"^\S+  {}  \d+ %  [\d.]+ of [\d.]+ [KMG]iB"


@pytest.fixture
def line(bucket: S3Server) -> Iterator[Proxy]:
    """What leads to the bucket."""
    with cutting_proxy(int(bucket.endpoint.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
def offsite(bucket: S3Server, line: Proxy, storage: Storage) -> dict[str, Any]:
    """The variables of a bucket. Lines of progress come as soon as something takes longer than a second."""
    return {
        "vmforge_backup_progress_interval": 1,
        "vmforge_backup_s3_endpoint": f"http://127.0.0.1:{line.port}",
        "vmforge_backup_s3_bucket": bucket.bucket,
        "vmforge_backup_s3_access_key": bucket.access_key,
        "vmforge_backup_s3_secret_key": bucket.secret_key,
        "vmforge_backup_s3_prefix": f"restore/{storage.place.name}",
    }


def test_a_damage_is_found_named_mended_and_remembered(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, offsite: dict[str, Any], line: Proxy
) -> None:
    db = hypervisor.db
    made = play_newest("backup.yml", vm=db.name, inventory=nodes("good"), vmforge_backup_offsite="s3", **offsite)
    assert made.code == 0, made.text
    line.pause = _SLOW
    run = play_newest("verify.yml", inventory=nodes("good"), **offsite)
    line.pause = 0
    assert run.code == 0, run.text
    assert re.search(_PROGRESS.format("verifying"), run.text, re.MULTILINE), run.text
    [row] = run.stats["vmforge_backup_verify_report"]["rows"]
    assert (row["vm_name"], row["node_name"], row["result"]) == (db.name, "good", "good")
    assert row["copies"] == ["local", "s3"]
    [manifest] = storage.backups.glob("*/*/manifest.json")
    image = manifest.with_name("vda.qcow2")
    good = image.read_bytes()
    image.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    run = play_newest("verify.yml", inventory=nodes("good"), vm=[db.name, "nobody"], **offsite)
    assert run.code == 2
    assert "vda.qcow2, part 1 at offset 0" in run.text
    assert "no node has a backup of it" in run.text
    assert run.stats["vmforge_backup_verify_report"]["rows"][0]["result"] == "repaired"
    assert image.read_bytes() == good
    record = json.loads(manifest.with_name("verified.json").read_bytes())
    assert {(result["copy"], result["ok"]) for result in record["results"]} == {("local", True), ("s3", True)}


@pytest.mark.exhaustive
def test_what_would_be_verified_is_told_line_by_line(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage
) -> None:
    Shelf(storage.backups, node="good", vm=hypervisor.db.uuid, name=hypervisor.db.name).days(2)
    planned = play_newest("verify.yml", "--check", "--diff", inventory=nodes("good"))
    # A line for each backup, as lines.
    assert len(re.findall(r"^.*: planned, data of .*$", planned.text, re.MULTILINE)) == 2
    assert "\\x0a" not in planned.text
    assert (planned.code, planned.stats["vmforge_backup_verify_report"]["rows"][0]["result"]) == (0, "planned")
    assert not list(storage.backups.glob("*/*/verified.json"))


def test_a_machine_from_the_bucket_alone(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, offsite: dict[str, Any], line: Proxy
) -> None:
    db, name = hypervisor.db, f"{hypervisor.db.name}-copy"
    options = {"vm": db.name, "to": name, "vmforge_backup_restore_storage": str(storage.place)}
    options["vmforge_backup_restore_state_dir"] = str(storage.place / "state")
    made = play_newest(
        "backup.yml",
        vm=db.name,
        inventory=nodes("good"),
        vmforge_backup_offsite="s3",
        vmforge_backup_delete_local_after_upload=True,
        **offsite,
    )
    assert made.code == 0, made.text
    lost = {**offsite, "vmforge_backup_dir": str(storage.place / "lost")}
    try:
        line.pause = _SLOW
        run = play_newest("restore.yml", inventory=nodes("a", "b"), **options, **lost)
        line.pause = 0
        assert run.code == 0, run.text
        assert re.search(_PROGRESS.format(r"\w+ vda"), run.text, re.MULTILINE), run.text
        report = run.stats["vmforge_backup_restore_report"]
        assert (report["vm"], report["result"], report["mode"]) == (name, "restored", "new")
        assert report["sources"] == {"vda": "s3"}
        assert Path(report["disks"][0]["path"]).exists()
        assert name in db.virsh("list", "--all", "--name")
    finally:
        with contextlib.suppress(RuntimeError):
            db.virsh("undefine", name)


@pytest.mark.exhaustive
def test_what_is_there_is_not_made_again_and_nothing_without_a_name(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage
) -> None:
    db, name = hypervisor.db, f"{hypervisor.db.name}-copy"
    options = {"vm": db.name, "to": name, "vmforge_backup_restore_storage": str(storage.place)}
    options["vmforge_backup_restore_state_dir"] = str(storage.place / "state")
    made = play_newest("backup.yml", vm=db.name, inventory=nodes("a"))
    assert made.code == 0, made.text
    try:
        planned = play_newest("restore.yml", "--check", "--diff", inventory=nodes("a"), **options)
        assert planned.code == 0, planned.text
        assert f"<name>{name}</name>" in planned.text
        assert not list(storage.place.glob("*.qcow2"))
        run = play_newest("restore.yml", inventory=nodes("a"), **options)
        assert run.stats["vmforge_backup_restore_report"]["result"] == "restored"
        again = play_newest("restore.yml", inventory=nodes("a"), **options)
        assert again.stats["vmforge_backup_restore_report"]["result"] == "present"
        assert "changed=0" in again.text
    finally:
        with contextlib.suppress(RuntimeError):
            db.virsh("undefine", name)
    nothing = play_newest("restore.yml")
    assert nothing.code == 2
    assert "Say which virtual machine to restore" in nothing.text


@pytest.mark.exhaustive
def test_a_backup_boots_and_is_a_machine_at_once(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, offsite: dict[str, Any]
) -> None:
    """What a guest finds on its disks while they are filled from the bucket, and the disks when they are whole."""
    web, name = hypervisor.web, f"{hypervisor.web.name}-now"
    made = play_newest("backup.yml", vm=web.name, inventory=nodes("good"), vmforge_backup_offsite="s3", **offsite)
    assert made.code == 0, made.text
    newest = web.wrote()
    booted = {"vmforge_backup_verify_level": "boot", "vmforge_backup_screenshot_dir": str(storage.place / "pictures")}
    run = play_newest("verify.yml", vm=web.name, inventory=nodes("good"), **booted, **offsite)
    assert run.code == 0, run.text
    [row] = run.stats["vmforge_backup_verify_report"]["rows"]
    assert (row["result"], row["copies"]) == ("good", ["local", "s3"])
    [record] = storage.backups.glob("*/*/verified.json")
    results = json.loads(record.read_bytes())["results"]
    assert {(result["copy"], result["level"], result["ok"]) for result in results} >= {
        ("local", "boot", True),
        ("s3", "boot", True),
    }
    # From the bucket alone.
    options = {"vm": web.name, "to": name, "vmforge_backup_restore_storage": str(storage.place)}
    options["vmforge_backup_restore_state_dir"] = str(storage.place / "state")
    options["vmforge_backup_dir"] = str(storage.place / "lost")
    try:
        run = play_newest(
            "restore.yml", inventory=nodes("a"), vmforge_backup_restore_instant=True, **options, **offsite
        )
        assert run.code == 0, run.text
        report = run.stats["vmforge_backup_restore_report"]
        assert (report["vm"], report["result"], set(report["sources"].values())) == (name, "restored", {"s3"})
        log = Path(f"{web.log}.{name}")
        while not (found := re.search(r"found 1\.\.(\d+) intact", log.read_text())):
            assert web.virsh("domstate", name).strip() == "running"
            time.sleep(0.5)
        assert 0 < int(found.group(1)) <= newest
        web.virsh("destroy", name)
        paths = [disk["path"] for disk in report["disks"]]
        assert int(found.group(1)) <= verify_records(paths, Geometry.of(web), formats=["qcow2"] * len(paths))
    finally:
        for action in ("destroy", "undefine"):
            with contextlib.suppress(RuntimeError):
                web.virsh(action, name)
