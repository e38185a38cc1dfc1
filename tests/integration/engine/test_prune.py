# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pruning of real files and of a real bucket: what goes, what stays, and what a killed run leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _delete, _prune_node, _prune_options
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._local import VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from tests.bed.s3 import S3Server

from .driver import keys, multiparts
from .shelf import WEEK, Shelf, results

NOW = datetime.now(timezone.utc)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """One node."""
    return Shelf(tmp_path / "backups")


@pytest.fixture
def offsite(tmp_path: Path, server: S3Server) -> Shelf:
    """One node with a place in S3 of its own."""
    return Shelf(tmp_path / "backups", s3=s3(server))


def s3(server: S3Server, **more: Any) -> dict[str, Any]:
    return {"offsite": "s3", **server.params(s3_prefix=f"p/{uuid.uuid4().hex[:8]}", **more)}


def test_what_no_rule_keeps_goes_and_a_second_run_changes_nothing(shelf: Shelf) -> None:
    ids = shelf.days(10)
    planned = shelf.prune(check_mode=True)
    assert planned.changed
    assert shelf.ids() == ids
    outcome = shelf.prune()
    assert outcome.changed
    assert outcome.failure is None
    assert shelf.ids() == ids[:7]
    assert results(outcome) == {i: "kept" if i in ids[:7] else "deleted" for i in ids}
    # The plan that was shown is the one that was carried out.
    assert outcome.diff == planned.diff
    shown = [(row["id"], row["action"], row["reasons"]) for row in planned.values["vms"][0]["backups"]]
    assert shown == [(row["id"], row["action"], row["reasons"]) for row in outcome.values["vms"][0]["backups"]]
    assert set(results(planned).values()) == {"kept", "planned"}
    [vm] = outcome.values["vms"]
    assert (vm["kept"], vm["deleted"], vm["deleted_bytes"]) == (7, 3, 3 * 1009)
    assert vm["rules"]["daily"] == {"count": 7, "bytes": 7 * 1009}
    again = shelf.prune()
    assert not again.changed
    assert again.values["vms"][0]["result"] == "unchanged"


def test_the_diff_is_a_table_with_reasons(shelf: Shelf) -> None:
    ids = shelf.days(8)
    diff = shelf.prune(check_mode=True).diff
    assert diff is not None
    before, after = diff["before"].splitlines(), diff["after"].splitlines()
    assert [line.split()[1] for line in before] == ids
    assert [line for line in before if line not in after] == [
        f"web1             {ids[-1]}     1009 B  delete  no rule keeps it"
    ]
    assert f"{ids[1]}     1009 B  keep    daily {ids[1][:4]}-{ids[1][4:6]}-{ids[1][6:8]}" in after[1]


def test_what_could_not_be_deleted_is_counted_as_kept(offsite: Shelf) -> None:
    ids = offsite.days(9)
    offsite.upload(ids[8])
    note = offsite.path / offsite.vm / ids[8] / "offsite.json"
    note.write_text(json.dumps(dict(json.loads(note.read_text()), bucket="of-another-time")))
    outcome = offsite.prune()
    [vm] = outcome.values["vms"]
    assert results(outcome)[ids[8]] == "failed"
    assert (vm["kept"], vm["deleted"], vm["result"]) == (8, 1, "failed")
    assert "of-another-time" in str(outcome.failure)
    assert offsite.ids() == [*ids[:7], ids[8]]


def test_a_node_deletes_only_its_own_and_says_so(shelf: Shelf) -> None:
    other = Shelf(shelf.path.parent / "node2", node="node2", vm=shelf.vm)
    mine, theirs = shelf.days(6, newest=NOW - timedelta(days=20)), other.days(8)
    listings = [{"node": each.node, "backups": each.listing()} for each in (shelf, other)]
    outcome = shelf.prune(listings=listings)
    assert shelf.ids() == []
    assert other.ids() == theirs
    found = results(outcome)
    assert {found[i] for i in mine} == {"deleted"}
    assert found[theirs[7]] == "elsewhere"
    [vm] = outcome.values["vms"]
    assert (vm["kept"], vm["deleted"]) == (8, 6)
    assert results(other.prune(listings=listings))[theirs[7]] == "deleted"


def test_shared_storage_that_two_nodes_list_is_one(shelf: Shelf) -> None:
    ids = [shelf.lay(NOW - timedelta(days=day), node=f"node{1 + day % 2}") for day in range(9)]
    listings = [{"node": node, "backups": shelf.listing()} for node in ("node1", "node2")]
    outcome = shelf.prune(listings=listings)
    assert len(outcome.values["vms"][0]["backups"]) == 9
    assert results(outcome)[ids[7]] == "elsewhere"
    assert shelf.ids() == ids[:8]


def test_without_all_listings_nothing_is_pruned(shelf: Shelf) -> None:
    ids = shelf.days(9)
    outcome = shelf.prune(missing_nodes=["node7"])
    assert shelf.ids() == ids
    assert outcome.values["vms"][0]["result"] == "skipped"
    assert "node7 could not be listed" in str(outcome.failure)
    stranger = shelf.lay(NOW - timedelta(days=30), node="node8")
    outcome = shelf.prune()
    assert "node8" in str(outcome.failure)
    assert "ignore_nodes" in str(outcome.failure)
    assert len(shelf.ids()) == 10
    outcome = shelf.prune(missing_nodes=["node7"], ignore_nodes=["node7", "node8"])
    assert outcome.failure is None
    assert shelf.ids() == [*ids[:7], stranger]


def test_a_vm_that_nobody_knows_is_kept_and_reported(shelf: Shelf, libvirt_daemon: None) -> None:
    ids = shelf.days(9)
    outcome = shelf.prune(known_vms=[])
    assert outcome.failure is None
    assert not outcome.changed
    assert outcome.values["vms"][0]["result"] == "unknown"
    assert "panel" in outcome.values["vms"][0]["message"]
    assert shelf.ids() == ids


def test_a_policy_that_keeps_nothing_fails_for_its_vm_alone(shelf: Shelf) -> None:
    ids = shelf.days(9)
    other = Shelf(shelf.path, name="web2")
    theirs = other.days(9)
    nothing = dict(WEEK.values(), keep_daily=0)
    outcome = shelf.prune(
        policies={shelf.vm: nothing, other.vm: WEEK.values()},
        known_vms=[shelf.vm, other.vm],
        listings=[{"node": "node1", "backups": shelf.listing()}],
    )
    assert "nothing would be kept" in str(outcome.failure)
    assert sorted(shelf.ids()) == sorted([*ids, *theirs[:7]])


def test_two_vms_of_one_name_are_told_apart(shelf: Shelf) -> None:
    other = Shelf(shelf.path)
    shelf.days(9)
    other.days(9)
    more = {"policies": {vm.vm: WEEK.values() for vm in (shelf, other)}, "known_vms": [shelf.vm, other.vm]}
    with pytest.raises(InputError, match=shelf.vm):
        shelf.prune(vm=["web1"], **more)
    outcome = shelf.prune(vm=[other.vm, "nobody"], **more)
    assert [vm["vm"]["uuid"] for vm in outcome.values["vms"]] == [other.vm]
    assert outcome.values["not_found"] == ["nobody"]


def test_a_new_policy_that_deletes_more_than_it_keeps_wants_a_word(shelf: Shelf) -> None:
    ids = shelf.days(20)
    outcome = shelf.prune(confirm=False)
    assert outcome.values["vms"][0]["result"] == "confirm"
    assert "13 backups would be deleted and 7 kept" in str(outcome.failure)
    assert set(results(outcome).values()) == {"kept", "refused"}
    assert shelf.ids() == ids
    planned = shelf.prune(confirm=False, check_mode=True)
    assert planned.failure is None
    [vm] = planned.values["vms"]
    assert (vm["result"], vm["kept"], vm["deleted"]) == ("confirm", 7, 13)
    assert "confirm: true" in vm["message"]
    assert shelf.prune().failure is None
    assert shelf.ids() == ids[:7]
    # The same policy again needs none, whatever it deletes.
    more = shelf.days(10, newest=NOW - timedelta(days=100))
    assert shelf.prune(confirm=False).values["vms"][0]["deleted"] == len(more)
    short = Policy(**dict(WEEK.values(), keep_daily=2))
    assert shelf.prune(short, confirm=False).values["vms"][0]["result"] == "confirm"
    assert shelf.ids() == ids[:7]


def test_what_dead_runs_left_is_cleared_and_old_failures_expire(shelf: Shelf) -> None:
    ids = shelf.days(3)
    root = shelf.path / shelf.vm
    (root / ids[2]).rename(root / f"{ids[2]}.deleting")
    (root / "20250101T000000Z.partial").mkdir()
    for day, name in ((40, "20260101T000000Z"), (2, "20260102T000000Z")):
        failed = (NOW - timedelta(days=day)).isoformat()
        (root / f"{name}.failed.json").write_text(json.dumps({"failed": failed, "node": "node1"}))
    planned = shelf.prune(check_mode=True)
    expected = {f"unfinished deletion of {ids[2]}", "unfinished backup 20250101T000000Z"}
    expected.add("failure record of 20260101T000000Z")
    assert set(planned.values["vms"][0]["cleared"]) == expected
    outcome = shelf.prune()
    assert outcome.changed
    assert set(outcome.values["vms"][0]["cleared"]) == expected
    # The interrupted one has a record of its own now.
    assert shelf.ids("failed") == ["20260102T000000Z", "20250101T000000Z"]
    assert shelf.ids() == ids[:2]
    assert shelf.ids("deleting") == shelf.ids("partial") == []


def test_a_vm_that_is_worked_on_fails_alone_and_its_live_partial_stays(shelf: Shelf) -> None:
    ids = shelf.days(9)
    other = Shelf(shelf.path, name="web2")
    theirs = other.days(9)
    (shelf.path / shelf.vm / "20270101T000000Z.partial").mkdir()
    more = {"policies": {vm.vm: WEEK.values() for vm in (shelf, other)}, "known_vms": [shelf.vm, other.vm]}
    more["listings"] = [{"node": "node1", "backups": shelf.listing()}]
    with VmDirectory(shelf.path / shelf.vm).lock():
        assert "20270101" not in str(shelf.prune(check_mode=True, **more).values["vms"])
        outcome = shelf.prune(**more)
    assert {vm["vm"]["uuid"]: vm["code"] for vm in outcome.values["vms"]} == {shelf.vm: "locked", other.vm: None}
    assert sorted(shelf.ids()) == sorted([*ids, *theirs[:7]])
    assert (shelf.path / shelf.vm / "20270101T000000Z.partial").exists()


def test_a_kept_backup_that_vanished_since_the_listing_stops_it(shelf: Shelf) -> None:
    ids = shelf.days(9)
    params = shelf.params()
    shutil.rmtree(shelf.path / shelf.vm / ids[0])
    outcome = shelf.prune(listings=params["listings"])
    assert outcome.values["vms"][0]["code"] == "changed"
    assert shelf.ids() == ids[1:]


@pytest.mark.parametrize("listed", ["before it was begun", "after it was begun"])
def test_a_deletion_that_was_begun_takes_no_other_backup_along(offsite: Shelf, listed: str) -> None:
    newest, older = offsite.days(2)
    offsite.upload(newest, drop_local=True)
    bucket, listings = offsite.bucket(), [{"node": offsite.node, "backups": []}]
    one = Policy(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0, min_keep=1)
    directory = offsite.path / offsite.vm
    older_entry = [found for found in offsite.listing() if found["id"] == older]
    (directory / newest).rename(directory / f"{newest}.deleting")
    listings[0]["backups"] = older_entry if listed == "before it was begun" else offsite.listing()
    outcome = offsite.prune(one, bucket=bucket, listings=listings)
    assert offsite.ids() == [older]
    assert offsite.ids("deleting") == []
    code = outcome.values["vms"][0]["code"]
    assert code == ("changed" if listed == "before it was begun" else None)


def test_a_hold_that_came_after_the_listing_is_respected(shelf: Shelf) -> None:
    ids = shelf.days(9)
    listings = shelf.params()["listings"]
    (shelf.path / shelf.vm / ids[8] / "hold.json").write_text(json.dumps({"reason": "court", "until": None}))
    outcome = shelf.prune(listings=listings)
    assert results(outcome)[ids[8]] == "held"
    assert outcome.failure is None
    assert shelf.ids() == [*ids[:7], ids[8]]


def test_a_chain_goes_from_its_end(shelf: Shelf) -> None:
    full = shelf.lay(NOW - timedelta(days=30))
    child = shelf.lay(NOW - timedelta(days=29), parent=full)
    newest = shelf.lay(NOW - timedelta(days=1))
    outcome = shelf.prune(Policy(**dict(WEEK.values(), keep_daily=1)))
    assert outcome.failure is None
    assert results(outcome) == {newest: "kept", child: "deleted", full: "deleted"}


@pytest.mark.parametrize("drop_local", [False, True])
def test_both_copies_go(offsite: Shelf, server: S3Server, drop_local: bool) -> None:
    ids = offsite.days(9)
    offsite.upload(*ids, drop_local=drop_local)
    outcome = offsite.prune()
    assert outcome.failure is None
    assert offsite.ids() == ids[:7]
    assert sorted({entry["id"] for entry in offsite.bucket()}, reverse=True) == ids[:7]


def test_a_copy_that_vanished_from_the_bucket_is_no_good_backup(offsite: Shelf, server: S3Server) -> None:
    ids = offsite.days(2)
    offsite.upload(*ids, drop_local=True)
    client = server.client()
    for key in keys(server, f"{offsite.s3['s3_prefix']}/{offsite.vm}/{ids[0]}/"):
        client.delete_object(Bucket=server.bucket, Key=key)
    client.close()
    outcome = offsite.prune(Policy(**dict(WEEK.values(), keep_daily=1)))
    rows = {row["id"]: row for row in outcome.values["vms"][0]["backups"]}
    assert rows[ids[1]]["reasons"][0] == "newest good"
    assert rows[ids[0]]["reasons"][0].startswith("bad, but nothing newer is good")


def test_what_lies_at_another_endpoint_alone_is_kept(offsite: Shelf, server: S3Server) -> None:
    ids = offsite.days(8)
    offsite.upload(ids[7], drop_local=True)
    offsite.s3.update(s3_endpoint=server.endpoint.replace("127.0.0.1", "localhost"))
    assert results(offsite.prune(bucket=[]))[ids[7]] == "kept"
    assert offsite.ids() == ids


def test_a_copy_at_another_endpoint_is_not_deleted(offsite: Shelf, server: S3Server) -> None:
    ids = offsite.days(8)
    offsite.upload(*ids)
    offsite.s3["s3_endpoint"] = server.endpoint.replace("127.0.0.1", "localhost")
    row = next(r for r in offsite.prune().values["vms"][0]["backups"] if r["id"] == ids[7])
    assert (row["result"], server.endpoint in row["message"]) == ("failed", True)
    assert offsite.ids() == ids
    assert len(offsite.bucket()) == 8


def test_a_locked_copy_is_reported_with_its_date_and_tried_again(offsite: Shelf, server: S3Server) -> None:
    name = f"b-{uuid.uuid4().hex[:8]}"
    with contextlib.closing(server.client()) as client:
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        offsite.s3["s3_bucket"] = name
        ids = offsite.days(9)
        until = (datetime.now(timezone.utc) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        offsite.upload(*ids[:8])
        offsite.upload(ids[8], s3_object_lock_mode="GOVERNANCE", s3_object_lock_retain_until=until)
        listed = client.list_objects_v2(Bucket=name)["Contents"]
        (held,) = [item["Key"] for item in listed if item["Key"].endswith(f"{ids[7]}/manifest.json")]
        client.put_object_legal_hold(Bucket=name, Key=held, LegalHold={"Status": "ON"})
        outcome = offsite.prune()
        assert outcome.failure is None
        rows = {row["id"]: row for row in outcome.values["vms"][0]["backups"]}
        assert (rows[ids[7]]["result"], rows[ids[8]]["result"]) == ("locked", "locked")
        assert until in rows[ids[8]]["message"]
        assert offsite.ids() == ids
        assert [entry["copies"] for entry in offsite.bucket() if entry["id"] in ids[7:]] == [["s3"], ["s3"]]
        client.put_object_legal_hold(Bucket=name, Key=held, LegalHold={"Status": "OFF"})
    found = results(offsite.prune())
    assert (found[ids[7]], found[ids[8]]) == ("deleted", "locked")
    assert offsite.ids() == [*ids[:7], ids[8]]


def killed(work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    """Do it in another process, which kills itself as it comes to this function."""
    pid = os.fork()
    if not pid:
        monkeypatch.setattr(where, name, lambda *_a, **_k: os.kill(os.getpid(), signal.SIGKILL))
        work()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize(
    ("where", "name"),
    [(_prune_node, "finish_deletion"), (_delete, "remove_tree"), (OffsiteBackup, "refuse_locked")],
    ids=["behind the rename", "behind the deletion in S3", "before anything"],
)
def test_kill_9_in_the_middle_and_the_next_run_goes_on(
    offsite: Shelf, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    ids = offsite.days(9)
    offsite.upload(*ids)
    killed(offsite.prune, monkeypatch, where, name)
    assert offsite.ids()[:7] == ids[:7]
    outcome = offsite.prune()
    assert outcome.failure is None
    assert outcome.changed
    assert offsite.ids() == ids[:7]
    assert offsite.ids("deleting") == []
    assert {entry["id"] for entry in offsite.bucket()} == set(ids[:7])
    assert not offsite.prune().changed


def test_abandoned_uploads_are_reaped_and_what_a_node_works_on_is_not(
    offsite: Shelf, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = offsite.days(2)
    offsite.upload(*ids)
    orphan, live = "20260101T000000Z", "20260102T000000Z"
    prefix = f"{offsite.s3['s3_prefix']}/{offsite.vm}"
    (offsite.path / offsite.vm / f"{live}.partial").mkdir()
    client = server.client()
    for backup_id in (orphan, live):
        client.put_object(Bucket=server.bucket, Key=f"{prefix}/{backup_id}/domain.xml", Body=b"x")
        client.create_multipart_upload(Bucket=server.bucket, Key=f"{prefix}/{backup_id}/vda.qcow2")
    client.close()
    with VmDirectory(offsite.path / offsite.vm).lock():
        assert offsite.prune().values["reaped"] == []
        later = datetime.now(timezone.utc) + timedelta(days=2)
        monkeypatch.setattr(_prune_options, "utc_now", lambda: later)
        expected = [f"web1: unfinished upload of {orphan} in S3"]
        expected.append(f"web1: abandoned multipart upload of {orphan}/vda.qcow2")
        assert offsite.prune(check_mode=True).values["reaped"] == expected
        assert len(multiparts(server, prefix)) == 2
        assert offsite.prune(missing_nodes=["node2"]).values["reaped"] == []
        assert offsite.prune(reap=False).values["reaped"] == []
        offsite.prune()
    assert keys(server, f"{prefix}/{orphan}/") == []
    assert multiparts(server, prefix) == [f"{prefix}/{live}/vda.qcow2"]
    assert keys(server, f"{prefix}/{live}/") != []
    assert len(offsite.bucket()) == 3


def test_the_copy_of_another_nodes_backup_of_the_same_moment_stays(offsite: Shelf, tmp_path: Path) -> None:
    ids = offsite.days(2)
    other = Shelf(tmp_path / "other", node="node2", s3=offsite.s3, vm=offsite.vm)
    other.lay(datetime.strptime(ids[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc))
    other.upload(ids[1], drop_local=True)
    before = offsite.bucket()
    one = Policy(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0, min_keep=1)
    outcome = offsite.prune(one, vm=[offsite.vm], id=[ids[1]])
    assert (outcome.failure, offsite.ids()) == (None, [ids[0]])
    assert offsite.bucket() == before


def test_what_a_newer_version_wrote_is_neither_reaped_nor_said_to_be(
    offsite: Shelf, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsite.days(1)
    prefix = f"{offsite.s3['s3_prefix']}/{offsite.vm}/20260101T000000Z"
    client = server.client()
    for name, body in (("manifest.json", b'{"schema": 99}'), ("vda.raw", b"x")):
        client.put_object(Bucket=server.bucket, Key=f"{prefix}/{name}", Body=body)
    client.close()
    later = datetime.now(timezone.utc) + timedelta(days=2)
    monkeypatch.setattr(_prune_options, "utc_now", lambda: later)
    for check_mode in (True, False):
        outcome = offsite.prune(check_mode=check_mode)
        assert (outcome.failure, outcome.changed, outcome.values["reaped"]) == (None, False, [])
    assert keys(server, prefix) == [f"{prefix}/manifest.json", f"{prefix}/vda.raw"]


def test_what_a_node_that_was_not_listed_may_be_uploading_is_not_reaped(
    offsite: Shelf, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsite.days(1)
    unknown = str(uuid.uuid4())
    uploads = {f"{offsite.s3['s3_prefix']}/{vm}/20260101T000000Z/vda.qcow2" for vm in (offsite.vm, unknown)}
    client = server.client()
    for key in uploads:
        client.put_object(Bucket=server.bucket, Key=key.replace("vda.qcow2", "domain.xml"), Body=b"x")
        client.create_multipart_upload(Bucket=server.bucket, Key=key)
    client.close()
    prefix = offsite.s3["s3_prefix"]

    def reaped(days: int, **more: Any) -> set[str]:
        later = datetime.now(timezone.utc) + timedelta(days=days)
        monkeypatch.setattr(_prune_options, "utc_now", lambda: later)
        found = offsite.prune(policies={offsite.vm: WEEK.values(), unknown: WEEK.values()}, **more).values["reaped"]
        return {str(text).split(":", maxsplit=1)[0] for text in found}

    other = Shelf(offsite.path.parent / "other", node="node2", s3=offsite.s3, vm=offsite.vm)
    [strange] = other.days(1, newest=NOW - timedelta(days=3))
    other.upload(strange)
    shutil.rmtree(other.path)
    assert reaped(30) == set()
    assert set(multiparts(server, prefix)) == uploads
    assert reaped(2, ignore_nodes=["node2"]) == {"web1"}
    assert [key for key in multiparts(server, prefix) if unknown not in key] == []
    assert reaped(6, ignore_nodes=["node2"]) == set()
    assert reaped(8, ignore_nodes=["node2"]) == {unknown}
    assert multiparts(server, prefix) == []


def test_an_endpoint_that_got_another_name(offsite: Shelf, server: S3Server) -> None:
    ids = offsite.days(8)
    offsite.upload(*ids[:7])
    offsite.upload(ids[7], drop_local=True)
    was = server.endpoint
    offsite.s3["s3_endpoint"] = was.replace("127.0.0.1", "localhost")
    kept = offsite.prune().values["vms"][0]["backups"][-1]
    assert (kept["id"], kept["result"]) == (ids[7], "failed")
    assert "vmforge_backup_s3_same_endpoints" in str(kept["message"])
    assert results(offsite.prune(s3_same_endpoints=[was]))[ids[7]] == "deleted"
    assert {entry["id"] for entry in offsite.bucket()} == set(ids[:7])


def test_what_a_node_that_is_gone_left_in_the_bucket(offsite: Shelf, tmp_path: Path) -> None:
    ids = offsite.days(7)
    gone = Shelf(tmp_path / "gone", node="node9", s3=offsite.s3, vm=offsite.vm)
    old = gone.days(3, newest=NOW - timedelta(days=60))
    gone.upload(*old, drop_local=True)
    shutil.rmtree(gone.path)
    [before] = offsite.prune().values["vms"]
    assert (before["result"], before["code"]) == ("skipped", "missing_node")
    # One node for all.
    assert set(results(offsite.prune(ignore_nodes=["node9"], reap=False)).values()) == {"kept", "elsewhere"}
    planned = offsite.prune(ignore_nodes=["node9"], check_mode=True)
    outcome = offsite.prune(ignore_nodes=["node9"])
    assert outcome.failure is None
    for found, word in ((planned, "planned"), (outcome, "deleted")):
        assert results(found) == {**dict.fromkeys(ids, "kept"), **dict.fromkeys(old, word)}
    assert offsite.bucket() == []
    assert offsite.ids() == ids


class TestKeysThatOnlyTheMasterHas:
    """Nodes may write to the bucket and nothing else."""

    def shelves(self, tmp_path: Path, server: S3Server) -> tuple[Shelf, Shelf]:
        """The master's view, and the node."""
        assert server.write_only is not None
        options = s3(server)
        vm = str(uuid.uuid4())
        (tmp_path / "master").mkdir()
        master = Shelf(tmp_path / "master" / "none", node="master", s3=options, vm=vm)
        writes = server.params(server.write_only, s3_prefix=options["s3_prefix"])
        return master, Shelf(tmp_path / "backups", s3={"offsite": "none", **writes}, vm=vm)

    def everywhere(self, master: Shelf, node: Shelf, **more: Any) -> tuple[Any, Any]:
        """As the role does it."""
        listings = [{"node": node.node, "backups": node.listing()}]
        bucket = master.bucket()
        first = master.prune(scope="s3", listings=listings, bucket=bucket, **more)
        second = node.prune(scope="local", listings=listings, bucket=bucket, gone=first.values["gone"], **more)
        return first, second

    def test_first_the_bucket_and_then_the_node(self, tmp_path: Path, server: S3Server) -> None:
        master, node = self.shelves(tmp_path, server)
        ids = node.days(9)
        node.upload(*ids[:6], ids[8], **master.s3)
        first, second = self.everywhere(master, node)
        assert (first.failure, second.failure) == (None, None)
        assert results(first) == {**dict.fromkeys(ids[:7], "kept"), ids[7]: "elsewhere", ids[8]: "deleted"}
        assert results(second) == {**dict.fromkeys(ids[:7], "kept"), ids[7]: "deleted", ids[8]: "deleted"}
        assert node.ids() == ids[:7]
        assert sorted({entry["id"] for entry in master.bucket()}, reverse=True) == ids[:6]
        assert not any(outcome.changed for outcome in self.everywhere(master, node))

    def test_with_keys_that_may_delete_and_not_read(self, tmp_path: Path, server: S3Server) -> None:
        master, node = self.shelves(tmp_path, server)
        assert server.delete_only is not None
        ids = node.days(9)
        node.upload(*ids, **master.s3)
        bucket = master.bucket()
        master.s3.update(server.params(server.delete_only, s3_prefix=master.s3["s3_prefix"]))
        listings = [{"node": node.node, "backups": node.listing()}]
        first = master.prune(scope="s3", listings=listings, bucket=bucket)
        assert first.failure is None
        assert {item["id"] for item in first.values["gone"]} == set(ids[7:])

    def test_a_node_keeps_what_the_master_could_not_delete(self, tmp_path: Path, server: S3Server) -> None:
        master, node = self.shelves(tmp_path, server)
        ids = node.days(9)
        node.upload(*ids, **master.s3)
        outcome = node.prune(scope="local", bucket=master.bucket())
        assert results(outcome)[ids[8]] == results(outcome)[ids[7]] == "waiting"
        elsewhere = [{"uuid": node.vm, "id": ids[8], "bucket": "another", "prefix": f"x/{node.vm}/{ids[8]}"}]
        assert results(node.prune(scope="local", bucket=master.bucket(), gone=elsewhere))[ids[8]] == "waiting"
        assert node.ids() == ids

    def test_what_went_at_another_endpoint_is_still_here(self, tmp_path: Path, server: S3Server) -> None:
        master, node = self.shelves(tmp_path, server)
        ids = node.days(8)
        node.upload(*ids, **master.s3)
        bucket = master.bucket()
        master.s3["s3_endpoint"] = server.endpoint.replace("127.0.0.1", "localhost")
        listings = [{"node": node.node, "backups": node.listing()}]
        gone = master.prune(scope="s3", listings=listings, bucket=bucket).values["gone"]
        assert [item["id"] for item in gone] == [ids[7]]
        outcome = node.prune(scope="local", bucket=bucket, gone=gone)
        assert results(outcome)[ids[7]] == "waiting"
        assert "vmforge_backup_s3_same_endpoints" in str(outcome.values["vms"][0]["backups"])
        assert node.ids() == ids
        # A person says that these are one server.
        more = {"listings": listings, "bucket": bucket, "s3_same_endpoints": [server.endpoint]}
        gone = master.prune(scope="s3", **more).values["gone"]
        assert {item["endpoint"] for item in gone} == {master.s3["s3_endpoint"], server.endpoint}
        assert results(node.prune(scope="local", bucket=bucket, gone=gone))[ids[7]] == "deleted"
        assert node.ids() == ids[:7]

    @pytest.mark.parametrize(
        ("where", "name"),
        [(_prune_node, "finish_deletion"), (_prune_node, "begin_deletion")],
        ids=["behind the rename", "before it"],
    )
    @pytest.mark.parametrize("drop_local", [False, True])
    def test_kill_9_between_the_two(
        self,
        tmp_path: Path,
        server: S3Server,
        monkeypatch: pytest.MonkeyPatch,
        where: Any,
        name: str,
        drop_local: bool,
    ) -> None:
        master, node = self.shelves(tmp_path, server)
        ids = node.days(8)
        node.upload(*ids, drop_local=drop_local, **master.s3)
        killed(lambda: self.everywhere(master, node), monkeypatch, where, name)
        assert {entry["id"] for entry in master.bucket()} == set(ids[:7])
        first, second = self.everywhere(master, node)
        assert (first.failure, second.failure) == (None, None)
        assert node.ids() == ids[:7]
        assert node.ids("deleting") == []

    @pytest.mark.parametrize("begun", [True, False])
    def test_what_took_the_place_of_a_copy_stays(self, tmp_path: Path, server: S3Server, begun: bool) -> None:
        master, node = self.shelves(tmp_path, server)
        ids = node.days(8)
        node.upload(*ids, **master.s3)
        bucket = master.bucket()
        other = Shelf(tmp_path / "other", node="node2", s3=master.s3, vm=node.vm)
        other.lay(datetime.strptime(ids[7], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc))
        with contextlib.closing(server.client()) as client:
            # Nothing of ours puts one backup in the place of another.
            for item in client.list_objects_v2(Bucket=server.bucket, Prefix=master.s3["s3_prefix"])["Contents"]:
                if f"/{ids[7]}/" in item["Key"]:
                    client.delete_object(Bucket=server.bucket, Key=item["Key"])
        other.upload(ids[7])
        if begun:
            (node.path / node.vm / ids[7]).rename(node.path / node.vm / f"{ids[7]}.deleting")
        listings = [{"node": node.node, "backups": node.listing()}]
        first = master.prune(scope="s3", listings=listings, bucket=bucket)
        assert [entry["vm"]["node"] for entry in master.bucket() if entry["id"] == ids[7]] == ["node2"]
        assert [item["id"] for item in first.values["gone"]] == ([ids[7]] if begun else [])

    def test_what_the_next_backup_may_build_on_stays(self, tmp_path: Path, server: S3Server) -> None:
        """It may be under way, and no lock of a node reaches the bucket."""
        master, node = self.shelves(tmp_path, server)
        today = NOW.replace(hour=0, minute=5, second=0, microsecond=0)
        moments = [today - timedelta(days=day) for day in range(9, -1, -1)]
        full = node.lay(moments[0])
        base = node.lay(moments[1], parent=full, checkpoint="vmforge-1")
        # Since then the machine is off.
        ids = [node.lay(moment) for moment in moments[2:]]
        node.upload(full, base, *ids, **master.s3)
        listings, bucket = [{"node": node.node, "backups": node.listing()}], master.bucket()
        for check_mode in (True, False):
            outcome = master.prune(scope="s3", listings=listings, bucket=bucket, check_mode=check_mode)
            word = "planned" if check_mode else "deleted"
            wanted = {**dict.fromkeys(ids, "kept"), ids[0]: word, base: "waiting", full: "waiting"}
            assert results(outcome) == wanted
            assert "may build on it" in str(outcome.values["vms"][0]["backups"])
        assert {entry["id"] for entry in master.bucket()} == {full, base, *ids[1:]}
        newer = node.lay(today + timedelta(minutes=1), checkpoint="vmforge-2")
        node.upload(newer, **master.s3)
        self.everywhere(master, node)
        assert {entry["id"] for entry in master.bucket()} == {newer, *ids[1:-1]}

    def test_the_master_asks_for_a_word_of_its_own(self, tmp_path: Path, server: S3Server) -> None:
        master, node = self.shelves(tmp_path, server)
        ids = node.days(16)
        node.upload(*ids, **master.s3)
        first, second = self.everywhere(master, node, confirm=False)
        assert first.values["vms"][0]["result"] == second.values["vms"][0]["result"] == "confirm"
        assert first.values["gone"] == []
        self.everywhere(master, node)
        assert node.ids() == ids[:7]
        assert (master.path / "state" / f"{node.vm}.json").is_file()
