# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What dead runs have left: finished and deleted only in its own place, never forgotten, and never in the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _remove, _s3_client
from ansible_collections.vmforge.backup.plugins.module_utils._capture import Capture
from ansible_collections.vmforge.backup.plugins.module_utils._local import VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id, format_time
from ansible_collections.vmforge.backup.plugins.module_utils._new_backup import NewBackup
from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.s3 import S3Server

from .driver import Engine, keys, multiparts, noise

ONLY_S3 = {"delete_local_after_upload": True}
OTHER = "another-bucket"


@pytest.fixture(scope="module")
def shared_guest(libvirt_daemon: None) -> Iterator[Guest]:
    """A small one that is never started."""
    with scratch_directory("engine") as place:
        guest = Guest("left", place, [Disk(place / "vda.raw", format="raw", size=24 * MIB)])
        guest.define()
        noise(place / "vda.raw", (0, 20 * MIB))
        yield guest
        guest.undefine()


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    """The same, as it is."""
    return shared_guest


@pytest.fixture
def other(server: S3Server) -> str:
    """Another bucket on the same server."""
    client = server.client()
    if OTHER not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=OTHER)
    client.close()
    return OTHER


def die(*_arguments: Any, **_more: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(engine: Engine, guest: Guest, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, **more: Any) -> str:
    """Let a run die as it calls something; the id of what it left."""
    with monkeypatch.context() as patch:
        patch.setattr(where, name, die)
        assert engine.run(guest, **more)["result"] == "died"
    (path,) = engine.partials(guest)
    return path.name.split(".")[0]


def test_what_lies_only_in_s3_is_finished_in_its_own_bucket(
    offsite: Engine, guest: Guest, server: S3Server, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed(offsite, guest, monkeypatch, NewBackup, "_commit", **ONLY_S3)
    made = offsite.backup(guest, s3_bucket=other, **ONLY_S3)
    assert any(left in text and "begun in another place" in text for text in made["warnings"]), made["warnings"]
    assert not any(left in key for key in keys(server, offsite.s3["s3_prefix"], other))
    assert [path.name for path in offsite.partials(guest)] == [f"{left}.partial"]
    again = offsite.backup(guest, **ONLY_S3)
    assert again["warnings"] == []
    assert offsite.partials(guest) == []
    assert {entry["id"] for entry in offsite.ready(guest, bucket=True) if entry["copies"]} == {
        left, made["id"], again["id"],
    }  # fmt: skip
    assert any(left in key for key in keys(server, offsite.s3["s3_prefix"]))


def test_a_deletion_is_finished_in_its_own_bucket(
    offsite: Engine, guest: Guest, server: S3Server, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = offsite.backup(guest)
    pid = os.fork()
    if not pid:
        monkeypatch.setattr(_remove, "finish_deletion", die)
        offsite.remove(guest, entry["id"])
        os._exit(0)
    os.waitpid(pid, 0)
    made = offsite.backup(guest, s3_bucket=other)
    assert any("orphaned" in text and entry["id"] in text for text in made["warnings"]), made["warnings"]
    assert keys(server, f"{entry['s3_key']}/") != []
    assert (offsite.directory(guest) / f"{entry['id']}.deleting").is_dir()
    assert offsite.backup(guest)["warnings"] == []
    assert keys(server, f"{entry['s3_key']}/") == []
    assert not (offsite.directory(guest) / f"{entry['id']}.deleting").exists()


@pytest.mark.parametrize(
    "way",
    ["another bucket", *(pytest.param(way, marks=pytest.mark.exhaustive) for way in ("without S3", "another prefix"))],
)
def test_a_place_where_parts_may_lie_is_not_forgotten(
    offsite: Engine, guest: Guest, server: S3Server, other: str, way: str
) -> None:
    running = offsite.start(guest, rate_limit=3 * MIB)
    running.middle()
    running.kill_all()
    running.wait()
    (path,) = offsite.partials(guest)
    prefix = f"{offsite.s3['s3_prefix']}/{guest.uuid}/"
    assert multiparts(server, prefix) != []
    elsewhere = {
        "without S3": {"offsite": "none"},
        "another bucket": {"s3_bucket": other},
        "another prefix": {"s3_prefix": offsite.s3["s3_prefix"] + "-other"},
    }[way]
    for _turn in range(2):
        made = offsite.backup(guest, **elsewhere)
        (told,) = made["warnings"]
        assert server.bucket in told and prefix in told and server.endpoint in told, told
    assert {file.name for file in path.iterdir()} == {"progress.json", "offsite.json"}, "the room is given back"
    assert multiparts(server, prefix) != []
    assert [failure["code"] for failure in offsite.failures(guest)] == ["interrupted"]
    assert offsite.backup(guest)["warnings"] == []
    assert multiparts(server, prefix) == []
    assert offsite.partials(guest) == []


def test_another_endpoint_is_another_place(
    offsite: Engine, guest: Guest, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(offsite, guest, monkeypatch, Capture, "_write_manifest", **ONLY_S3)
    (told,) = offsite.backup(guest, s3_endpoint=server.endpoint.replace("127.0.0.1", "localhost"))["warnings"]
    assert server.endpoint in told
    assert len(offsite.partials(guest)) == 1
    assert offsite.backup(guest)["warnings"] == []
    assert offsite.partials(guest) == []
    assert multiparts(server, f"{offsite.s3['s3_prefix']}/{guest.uuid}/") == []


@pytest.mark.parametrize("bad", ["a deletion without the S3 options", "a broken note", "a note that is no object"])
def test_one_bad_leftover_does_not_block_new_backups(engine: Engine, guest: Guest, bad: str) -> None:
    stuck = engine.directory(guest) / "20260101T000000Z.deleting"
    stuck.mkdir(parents=True)
    good = engine.directory(guest) / "20260102T000000Z.partial"
    good.mkdir()
    note = {"a deletion without the S3 options": "{}", "a broken note": "{", "a note that is no object": "[]"}[bad]
    (stuck / "offsite.json").write_text(note)
    entry = engine.backup(guest)
    assert entry["result"] == "created"
    (told,) = entry["warnings"]
    assert "It was not possible to finish the deletion of 20260101T000000Z; the next run tries again" in told
    assert stuck.is_dir()
    assert not good.exists(), "the one behind it was cleared"


def test_a_fault_of_ours_in_clearing_up_does_not_block_either(engine: Engine, guest: Guest) -> None:
    odd = engine.directory(guest) / "20260101T000000Z.partial"
    odd.mkdir(parents=True)
    (odd / "progress.json").write_text('{"started": "x"}')
    (odd / "offsite.json").write_text('{"bucket": "b", "prefix": "p"}')
    (odd / "folder").mkdir()
    entry = engine.backup(guest)
    assert entry["result"] == "created"
    assert any("clear the unfinished 20260101T000000Z" in text for text in entry["warnings"]), entry["warnings"]


@pytest.mark.parametrize(("ahead", "result"), [(timedelta(minutes=4), "fresh"), (timedelta(hours=1), "created")])
def test_a_clock_that_was_ahead_makes_no_backup_fresh(
    engine: Engine, guest: Guest, ahead: timedelta, result: str
) -> None:
    entry = engine.backup(guest)
    path = Path(entry["path"]) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["instant"] = format_time(datetime.now(timezone.utc) + ahead)
    path.write_text(json.dumps(manifest))
    assert engine.backup(guest, max_age="2d")["result"] == result


def test_a_commit_that_fails_is_on_record_until_the_next_run_has_made_it(
    offsite: Engine, guest: Guest, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 dies right before the manifest: all data are there, and only the last step is missing."""
    monkeypatch.setattr(_s3_client, "_QUICK_ATTEMPTS", 2)
    monkeypatch.setattr(_s3_client, "_PATIENT_ATTEMPTS", 2)
    real = NewBackup._commit
    assert server.process is not None
    pid = server.process.pid

    def without_s3(new: NewBackup, *arguments: Any) -> None:
        os.kill(pid, signal.SIGKILL)
        real(new, *arguments)

    monkeypatch.setattr(NewBackup, "_commit", without_s3)
    try:
        failed = offsite.run(guest, **ONLY_S3)
    finally:
        monkeypatch.undo()
        server.stop()
        server.start()
    assert (failed["result"], failed["error"]["phase"]) == ("failed", "committing"), failed
    (failure,) = offsite.failures(guest)
    assert (failure["phase"], failure["code"]) == ("committing", failed["error"]["code"])
    assert "the next run takes the last step" in failure["message"]
    assert offsite.ready(guest, bucket=True) == []
    again = offsite.backup(guest, max_age="1h", **ONLY_S3)
    assert (again["result"], again["id"]) == ("fresh", failure["id"])
    assert [entry["status"] for entry in offsite.entries(guest, bucket=True)] == ["ready"]


@pytest.mark.parametrize("state", ["present", "absent"])
def test_check_mode_touches_nothing(engine: Engine, guest: Guest, state: str) -> None:
    before = engine.backup_dir.stat().st_mtime_ns
    stranger = "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"
    outcome = engine.ask(guest, check_mode=True, state=state, id="20260101T000000Z", vm=[guest.uuid])
    assert outcome.values["backups"][0]["result"] == {"present": "planned", "absent": "absent"}[state]
    if state == "absent":
        for check_mode in (True, False):
            outcome = engine.ask(guest, check_mode=check_mode, state=state, id="20260101T000000Z", vm=[stranger])
            assert outcome.values["backups"][0]["result"] == "absent"
            assert list(engine.backup_dir.iterdir()) == [], "no directory, no lock, for a UUID of nobody"
    else:
        assert engine.backup_dir.stat().st_mtime_ns == before
    assert list(engine.backup_dir.iterdir()) == []


def test_a_deletion_in_check_mode_needs_no_lock(engine: Engine, guest: Guest) -> None:
    entry = engine.backup(guest)
    (engine.directory(guest) / ".lock").unlink()
    before = engine.directory(guest).stat().st_mtime_ns
    assert engine.remove(guest, entry["id"], check_mode=True).changed
    assert engine.directory(guest).stat().st_mtime_ns == before
    assert [found["status"] for found in engine.entries(guest)] == ["ready"]


def test_a_copy_that_is_complete_is_never_discarded(
    offsite: Engine, guest: Guest, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the last rename, and then the manifest here was damaged: that in S3 is one all the same."""
    left = killed(offsite, guest, monkeypatch, VmDirectory, "commit", **ONLY_S3)
    (offsite.directory(guest) / f"{left}.partial" / "manifest.json").write_text("{")
    made = offsite.backup(guest, **ONLY_S3)
    assert offsite.partials(guest) == []
    ready = {entry["id"]: entry["copies"] for entry in offsite.ready(guest, bucket=True)}
    assert ready == {left: ["s3"], made["id"]: ["s3"]}


def test_an_id_is_greater_than_all_in_s3(offsite: Engine, guest: Guest, server: S3Server) -> None:
    """Also than that of a backup which this host never saw, begun by a clock a few seconds ahead."""
    ahead = format_id(datetime.now(timezone.utc) + timedelta(seconds=8))
    client = server.client()
    key = f"{offsite.s3['s3_prefix']}/{guest.uuid}/{ahead}/domain.xml"
    client.put_object(Bucket=server.bucket, Key=key, Body=b"x")
    client.close()
    assert offsite.backup(guest)["id"] > ahead
