# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the catalogue against what a node has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._catalog import CatalogPlan, Row, plan_sync, row_of
from ansible_collections.vmforge.backup.plugins.module_utils._catalog_listing import Listing
from ansible_collections.vmforge.backup.plugins.module_utils._entry import failed_entry, unfinished_entry
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError

A, B = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
ID = "20261122T151200Z"
DIR = "/var/lib/vmforge/backups"


def ready(uuid: str = A, backup_id: str = ID, node: str = "n1", **more: Any) -> dict[str, Any]:
    entry = unfinished_entry(uuid, backup_id, "ready", {}, path=f"{DIR}/{uuid}/{backup_id}")
    entry["vm"].update(name="web", node=node)
    entry.update(
        type="full",
        instant="2026-11-22T15:12:00.250000Z",
        finished_at="2026-11-22T15:12:41Z",
        consistency="crash",
        size_bytes=100,
        checksum_sha256="0" * 64,
        copies=["local"],
    )
    return {**entry, **more}


def failed(uuid: str = A, backup_id: str = ID, node: str | None = "n1") -> dict[str, Any]:
    record = {"vm": {"name": "web"}, "node": node, "failed": "2026-11-22T15:12:09Z", "message": "No space."}
    return failed_entry(uuid, backup_id, {**record, "phase": "copying", "code": "no_space"})


def unfinished(status: str, node: str | None = "n1") -> dict[str, Any]:
    suffix = f".{status}" if status == "deleting" else ""
    return unfinished_entry(A, ID, status, {"node": node}, path=f"{DIR}/{A}/{ID}{suffix}")


def listing(*entries: Mapping[str, Any], bucket: Iterable[Any] | None = None, vms: Any = None) -> Listing:
    looked = None if bucket is None else tuple(bucket)
    return Listing(node="n1", backups=entries, vms=vms, bucket=looked, backup_dir=DIR)


def stored(plan: CatalogPlan, before: Iterable[Row] = ()) -> list[Row]:
    """The rows of a table in which a plan was executed, as they are read again."""
    rows = {row.key: row for row in before}
    for number, change in enumerate(plan.changes, start=len(rows) + 1):
        row = change.after if change.after.key is not None else replace(change.after, key=number)
        rows[row.key] = row
    read = (row_of({"id": row.key, **row.values()}, "n1") for row in rows.values())
    return [row for row in read if row is not None]


def actions(plan: CatalogPlan) -> list[tuple[str, str]]:
    return [(change.action, change.after.status) for change in plan.changes]


def test_a_new_backup_becomes_a_row() -> None:
    (row,) = stored(plan_sync([], listing(ready())))
    assert (row.vm_uuid, row.created_at, row.type, row.size_bytes) == (A, "2026-11-22 15:12:00", "full", 100)
    assert (row.storage, row.path, row.s3_key, row.status) == ("local", f"{DIR}/{A}/{ID}", None, "ready")
    assert (row.checksum_sha256, row.meta["node"], row.meta["id"], row.meta["vm_name"]) == ("0" * 64, "n1", ID, "web")
    assert {"instant", "consistency", "parent", "hold", "verified", "error", "copies"} <= set(row.meta)


@pytest.mark.parametrize(
    ("entry", "storage", "status"),
    [
        (ready(copies=["local", "s3"], s3_key="p/x"), "hybrid", "ready"),
        (ready(copies=["s3"], s3_key="p/x"), "s3", "ready"),
        (ready(copies=[]), "local", "failed"),
        (failed(), "local", "failed"),
    ],
)
def test_where_it_lies_and_whether_it_is_good(entry: dict[str, Any], storage: str, status: str) -> None:
    (row,) = stored(plan_sync([], listing(entry)))
    assert (row.storage, row.status) == (storage, status)
    assert bool(row.meta["error"]) == (status == "failed")


def test_a_failure_has_a_row_of_its_own_beside_a_backup_of_the_same_id() -> None:
    rows = stored(plan_sync([], listing(ready(), failed())))
    assert {row.path: row.status for row in rows} == {
        f"{DIR}/{A}/{ID}": "ready",
        f"{DIR}/{A}/{ID}.failed.json": "failed",
    }
    assert rows[1].created_at == "2026-11-22 15:12:00"
    assert "No space" in rows[1].meta["error"]
    assert actions(plan_sync(rows, listing(ready()))) == [("delete", "deleted")]


def test_what_another_node_made_or_nobody_knows_of_becomes_no_row() -> None:
    plan = plan_sync([], listing(ready(node="n2"), ready(B), unfinished("partial") | {"id": "20261122T151300Z"}))
    assert [row.vm_uuid for row in stored(plan)] == [B]


@pytest.mark.parametrize("node", ["n1", None])
@pytest.mark.parametrize("status", ["deleting", "partial"])
def test_a_backup_that_is_none_any_more_is_not_called_ready_nor_gone(status: str, node: str | None) -> None:
    rows = stored(plan_sync([], listing(ready())))
    plan = plan_sync(rows, listing(unfinished(status, node)))
    assert actions(plan) == [("update", "failed")]
    after = stored(plan, rows)
    assert after[0].meta["state"] == status
    assert after[0].meta["error"]
    assert after[0].size_bytes == 100
    assert not plan_sync(after, listing(unfinished(status, node))).changes
    assert actions(plan_sync(after, listing())) == [("delete", "deleted")]
    assert actions(plan_sync(after, listing(ready()))) == [("update", "ready")]


def test_changes_are_found_and_what_the_panel_added_is_kept() -> None:
    (row,) = stored(plan_sync([], listing(ready())))
    row = replace(row, meta={**row.meta, "panel": {"note": "mine"}})
    assert plan_sync([row], listing(ready())).unchanged == 1
    plan = plan_sync([row], listing(ready(hold={"reason": "audit"})))
    assert actions(plan) == [("update", "ready")]
    assert plan.changes[0].after.meta["hold"] == {"reason": "audit"}
    assert plan.changes[0].after.meta["panel"] == {"note": "mine"}


def test_a_deleted_row_stays_until_its_backup_is_there_again() -> None:
    rows = stored(plan_sync([], listing(ready())))
    gone = stored(plan_sync(rows, listing()), rows)
    assert [row.status for row in gone] == ["deleted"]
    gone = [replace(row, meta={**row.meta, "deleted_at": "2026-11-22T15:12:00Z"}) for row in gone]
    assert not plan_sync(gone, listing()).changes
    back = plan_sync(gone, listing(ready()))
    assert actions(back) == [("update", "ready")]
    assert stored(back, gone) == rows


def test_only_the_vms_of_the_listing_are_compared() -> None:
    rows = stored(plan_sync([], listing(ready(A), ready(B))))
    plan = plan_sync(rows, listing(vms=frozenset({A})))
    assert [(change.action, change.after.vm_uuid) for change in plan.changes] == [("delete", A)]


IN_S3 = {"path": None, "copies": ["s3"], "s3_key": "p/x"}


def test_gone_from_the_node_is_not_gone_while_s3_may_have_it() -> None:
    rows = stored(plan_sync([], listing(ready(copies=["local", "s3"], s3_key="p/x"))))
    plan = plan_sync(rows, listing())
    assert (plan.changes, plan.uncertain, plan.unchanged) == ((), (A,), 1)
    assert actions(plan_sync(rows, listing(bucket=[]))) == [("delete", "deleted")]
    found = plan_sync(rows, listing(bucket=[ready(**IN_S3)]))
    assert actions(found) == [("update", "ready")]
    assert (found.changes[0].after.storage, found.changes[0].after.path) == ("s3", f"{DIR}/{A}/{ID}")


def test_a_backup_whose_directory_was_moved_has_a_new_row_and_its_old_one_is_gone() -> None:
    here = ready(copies=["local", "s3"], s3_key="p/x")
    rows = stored(plan_sync([], listing(here)))
    plan = plan_sync(rows, listing({**here, "path": f"/new/{A}/{ID}"}))
    assert sorted(actions(plan)) == [("delete", "deleted"), ("insert", "ready")]
    assert plan.uncertain == ()


def test_the_bucket_rebuilds_the_rows_of_a_node_that_lost_its_disk() -> None:
    plan = plan_sync([], listing(bucket=[ready(**IN_S3), ready(B, node="n2", **IN_S3)]))
    (row,) = stored(plan)
    assert (row.vm_uuid, row.path, row.storage, row.s3_key) == (A, f"{DIR}/{A}/{ID}", "s3", "p/x")


def test_the_bucket_corrects_what_the_node_remembers() -> None:
    remembered = ready(copies=["local", "s3"], s3_key="p/x")
    broken = ready(**{**IN_S3, "copies": [], "error": "In S3, missing: vda.qcow2."})
    (row,) = stored(plan_sync([], listing(remembered, bucket=[broken])))
    assert (row.storage, row.status, row.meta["error"]) == ("local", "ready", "In S3, missing: vda.qcow2.")


def test_copies_with_different_manifests_are_told_of() -> None:
    (row,) = stored(plan_sync([], listing(ready(), bucket=[ready(**{**IN_S3, "checksum_sha256": "1" * 64})])))
    assert "differ" in row.meta["error"]


def test_of_two_rows_of_one_backup_one_stays() -> None:
    (row,) = stored(plan_sync([], listing(ready())))
    plan = plan_sync([row, replace(row, key=7)], listing(ready()))
    assert [(change.action, change.after.key) for change in plan.changes] == [("delete", 7)]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ((ready(), ready()), "twice"),
        ((ready(), {}), "entry 1 is not one of vmforge_backup_info"),
        (("web1",), "entry 0"),
        ((ready(size_bytes=-1),), "size_bytes"),
        ((ready(size_bytes=None),), "size_bytes"),
        ((ready(checksum_sha256="x"),), "checksum_sha256"),
        ((ready(checksum_sha256=None),), "entry 0"),
        ((ready(instant=None),), "entry 0"),
        ((ready(instant="yesterday"),), "entry 0"),
        ((ready(instant="2026-11-22T15:12:00"),), "no offset"),
        ((ready(backup_id="20261399T000000Z"),), "entry 0"),
        ((ready(uuid="../../etc"),), "vm.uuid"),
        ((ready(status="perhaps"),), "status"),
        ((ready(type="differential"),), "type"),
        ((ready(node=None),), "vm.node"),
        ((ready(path="relative"),), "path"),
        ((ready(copies=["tape"]),), "copies"),
        ((ready(B),), "vms does not cover"),
    ],
)
def test_a_listing_that_is_not_sound_is_refused_whole(entries: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        listing(*entries, vms=frozenset({A}))
    assert said in caught.value.message
    assert "Nothing was changed" in caught.value.message


@pytest.mark.parametrize("meta", [None, "", "{", "[]", '"n1"', '{"node": "n2"}', '{"node": null}', '{"other": 1}'])
def test_rows_of_others_are_not_ours(meta: str | None) -> None:
    record = {"id": 1, **stored(plan_sync([], listing(ready())))[0].values(), "meta": meta}
    assert row_of(record, "n1") is None


def test_a_row_without_a_path_is_not_ours_and_a_time_is_read_as_a_database_gives_it() -> None:
    (row,) = stored(plan_sync([], listing(ready())))
    record = {"id": 1, **row.values(), "created_at": datetime(2026, 11, 22, 15, 12)}
    assert row_of(record, "n1") == replace(row, key=1)
    assert row_of({**record, "path": None}, "n1") is None


@pytest.mark.parametrize(
    ("instant", "created"),
    [("2026-11-22T16:12:00+01:00", "2026-11-22 15:12:00"), ("2200-01-01T00:00:00Z", "2038-01-18 00:00:00")],
)
def test_times_are_utc_and_fit_the_column(instant: str, created: str) -> None:
    assert stored(plan_sync([], listing(ready(instant=instant))))[0].created_at == created


ids = st.sampled_from([f"2026112{day}T000000Z" for day in range(10)])
entries = st.one_of(
    st.builds(
        lambda uuid, backup_id, node, copies, hold: ready(
            uuid, backup_id, node, copies=copies, s3_key="p/x" if "s3" in copies else None, hold=hold
        ),
        st.sampled_from([A, B]),
        ids,
        st.sampled_from(["n1", "n2"]),
        st.sampled_from([["local"], ["local", "s3"], ["s3"], []]),
        st.sampled_from([None, {"reason": "x"}]),
    ),
    st.builds(failed, st.sampled_from([A, B]), ids, st.sampled_from(["n1", "n2", None])),
)
listings = st.lists(
    entries, max_size=12, unique_by=lambda entry: (entry["vm"]["uuid"], entry["id"], entry["status"] == "failed")
)


@given(before=listings, after=listings)
def test_after_a_sync_the_rows_say_what_the_node_has_and_a_second_one_changes_nothing(
    before: list[Any], after: list[Any]
) -> None:
    rows = stored(plan_sync([], listing(*before, bucket=[])))
    rows = stored(plan_sync(rows, listing(*after, bucket=[])), rows)
    own = {
        (entry["vm"]["uuid"], entry["id"], entry["status"] == "failed")
        for entry in after
        if entry["vm"]["node"] == "n1"
    }
    there = {(row.vm_uuid, row.meta["id"], row.path.endswith(".json")) for row in rows if row.status != "deleted"}
    assert there == own
    assert len({row.path for row in rows}) == len(rows)
    again = plan_sync(rows, listing(*after, bucket=[]))
    assert (again.changes, again.unchanged) == ((), len(rows))
    assert all(json.loads(row.values()["meta"])["node"] == "n1" for row in rows)
