# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting a backup: what refuses it, that nothing is touched then, and that a begun deletion is finished."""

from __future__ import annotations

import json
import os
import signal
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _delete, _remove
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import manifest_sha256
from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.s3 import S3Server

from .driver import Engine, assert_nothing_unfinished, keys


@pytest.fixture(scope="module")
def shared_guest(libvirt_daemon: None) -> Any:
    """A small one that is never started."""
    with scratch_directory("engine") as place:
        guest = Guest("delete", place, [Disk(place / "vda.qcow2", size=4 * MIB)])
        guest.define()
        yield guest
        guest.undefine()


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    """The same, as it is."""
    return shared_guest


def snapshot(engine: Engine, guest: Guest) -> dict[str, bytes]:
    """Every file of a guest's backups."""
    root = engine.directory(guest)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refused(engine: Engine, guest: Guest, backup_id: str, code: str, **more: Any) -> str:
    """The deletion must be refused with this code, with nothing touched."""
    before = snapshot(engine, guest)
    with pytest.raises((InputError, S3Error)) as caught:
        engine.remove(guest, backup_id, **more)
    assert caught.value.code == code
    assert snapshot(engine, guest) == before
    return str(caught.value)


def test_a_local_backup(engine: Engine, guest: Guest) -> None:
    first, second = engine.backup(guest)["id"], engine.backup(guest)["id"]
    before = snapshot(engine, guest)
    assert engine.remove(guest, first, check_mode=True).changed
    assert snapshot(engine, guest) == before
    outcome = engine.remove(guest, first)
    assert outcome.changed
    assert outcome.values["backups"][0]["result"] == "deleted"
    assert [entry["id"] for entry in engine.entries(guest)] == [second]
    assert_nothing_unfinished(engine, guest)
    again = engine.remove(guest, first)
    assert not again.changed
    assert again.values["backups"][0]["result"] == "absent"


@pytest.mark.parametrize(("until", "refuses"), [(None, True), (3600, True), (-3600, False)])
def test_a_hold(engine: Engine, guest: Guest, until: int | None, refuses: bool) -> None:
    entry = engine.backup(guest)
    end = None if until is None else (datetime.now(timezone.utc) + timedelta(seconds=until)).isoformat()
    hold = {"reason": "audit 7", "by": "me", "since": "2026-01-01T00:00:00Z", "until": end}
    (Path(entry["path"]) / "hold.json").write_text(json.dumps(hold))
    if refuses:
        assert "audit 7" in refused(engine, guest, entry["id"], "held")
    else:
        assert engine.remove(guest, entry["id"]).changed


def test_a_hold_that_lies_only_in_s3(offsite: Engine, guest: Guest, server: S3Server) -> None:
    entry = offsite.backup(guest)
    client = server.client()
    body = json.dumps({"reason": "court", "until": None}).encode()
    client.put_object(Bucket=server.bucket, Key=f"{entry['s3_key']}/hold.json", Body=body)
    client.close()
    assert "court" in refused(offsite, guest, entry["id"], "held")


def test_a_child(engine: Engine, guest: Guest) -> None:
    parent, child = engine.backup(guest), engine.backup(guest)
    path = Path(child["path"]) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    digest = manifest_sha256((Path(parent["path"]) / "manifest.json").read_bytes())
    manifest.update(type="incremental", full_reason=None, parent={"id": parent["id"], "manifest_sha256": digest})
    path.write_text(json.dumps(manifest))
    assert child["id"] in refused(engine, guest, parent["id"], "has_child")
    assert engine.remove(guest, child["id"]).changed
    assert engine.remove(guest, parent["id"]).changed


def test_another_nodes_backup(engine: Engine, guest: Guest) -> None:
    entry = engine.backup(guest)
    assert "delete it there" in refused(engine, guest, entry["id"], "other_node", node="node2")


def test_without_the_s3_options_its_copy_would_be_orphaned(offsite: Engine, guest: Guest, server: S3Server) -> None:
    entry = offsite.backup(guest)
    assert "orphaned" in refused(offsite, guest, entry["id"], "offsite", offsite="none")
    elsewhere = refused(offsite, guest, entry["id"], "offsite", s3_prefix="another/place")
    assert offsite.s3["s3_prefix"] in elsewhere
    assert keys(server, f"{entry['s3_key']}/") != []


@pytest.mark.parametrize("mode", ["both", "only", "only, from elsewhere"])
def test_copies_in_s3(offsite: Engine, guest: Guest, server: S3Server, mode: str) -> None:
    entry = offsite.backup(guest, delete_local_after_upload=mode != "both")
    if mode == "only, from elsewhere":
        (offsite.place / "fresh").mkdir()
        offsite.backup_dir = offsite.place / "fresh"
    assert offsite.remove(guest, entry["id"]).changed
    assert keys(server, f"{entry['s3_key']}/") == []
    assert offsite.entries(guest, bucket=True) == []
    assert not offsite.remove(guest, entry["id"]).changed


@pytest.mark.parametrize("where", ["finish_deletion", "remove_tree"])
def test_kill_9_behind_the_rename(
    offsite: Engine, guest: Guest, server: S3Server, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The backup is none any more, and the next run of any kind finishes it."""
    entry = offsite.backup(guest)
    pid = os.fork()
    if not pid:
        for module in (_delete, _remove):
            if hasattr(module, where):
                monkeypatch.setattr(module, where, lambda *_a, **_k: os.kill(os.getpid(), signal.SIGKILL))
        offsite.remove(guest, entry["id"])
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert [item["status"] for item in offsite.entries(guest, bucket=True)] == ["deleting"]
    with pytest.raises(S3Error) as caught:
        offsite.remove(guest, entry["id"], offsite="none")
    assert caught.value.code == "s3_options"
    made = offsite.backup(guest)
    assert [item["id"] for item in offsite.entries(guest, bucket=True)] == [made["id"]]
    assert keys(server, f"{entry['s3_key']}/") == []
    assert_nothing_unfinished(offsite, guest, server)


def bucket(server: S3Server, *, lock: bool = False) -> str:
    """A bucket of its own, with versions, or with object lock as well."""
    name = f"b-{uuid.uuid4().hex[:8]}"
    client = server.client()
    client.create_bucket(Bucket=name, **({"ObjectLockEnabledForBucket": True} if lock else {}))
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    return name


def test_every_version_goes(offsite: Engine, guest: Guest, server: S3Server) -> None:
    offsite.s3["s3_bucket"] = name = bucket(server)
    entry = offsite.backup(guest)
    client = server.client()
    client.put_object(Bucket=name, Key=f"{entry['s3_key']}/domain.xml", Body=b"newer")
    assert offsite.remove(guest, entry["id"]).changed
    left = client.list_object_versions(Bucket=name)
    client.close()
    assert left.get("Versions", []) == []
    assert left.get("DeleteMarkers", []) == []


def test_a_locked_object_refuses_before_anything_is_touched(offsite: Engine, guest: Guest, server: S3Server) -> None:
    until = (datetime.now(timezone.utc) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    lock = {"s3_object_lock_mode": "GOVERNANCE", "s3_object_lock_retain_until": until}
    offsite.s3["s3_bucket"] = name = bucket(server, lock=True)
    entry = offsite.backup(guest, **lock)
    before = keys(server, "", name)
    assert "locked until" in refused(offsite, guest, entry["id"], "s3_locked")
    assert keys(server, "", name) == before
    assert len(before) == 3
