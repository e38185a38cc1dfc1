# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pruning makes of listings: one backup from many places, good or not; who is missing; and the report."""

from __future__ import annotations

import socket
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._prune_plan import Case, Fleet, decide_named, gather
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.plugin_utils._prune_report import prune_report
from ansible_collections.vmforge.backup.plugins.plugin_utils._prune_request import prune_request, prune_share

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
A, B = (f"{digit * 8}-{digit * 4}-{digit * 4}-{digit * 4}-{digit * 12}" for digit in "ab")
WEEK = Policy(keep_weekly=0, keep_monthly=0)


def entry(day: int = 1, **more: Any) -> dict[str, Any]:
    """What ``vmforge_backup_info`` tells of a backup so many days old."""
    moment = NOW - timedelta(days=day)
    node, uuid, name = more.pop("node", "n1"), more.pop("uuid", A), more.pop("name", "web1")
    return {
        "vm": {"uuid": uuid, "name": name, "node": node},
        "id": f"{moment:%Y%m%dT%H%M%SZ}",
        "status": "ready",
        "instant": moment.isoformat(),
        "size_bytes": 10,
        "parent": None,
        "copies": ["local"],
        "hold": None,
        "verified": None,
        "checksum_sha256": "1" * 64,
        "s3_key": None,
        "error": None,
        **more,
    }


def listing(node: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"node": node, "backups": list(entries)}


def fleet(*listings: dict[str, Any], bucket: Any = None, missing: Any = (), ignored: Any = ()) -> Fleet:
    return gather(listings, bucket, missing=missing, ignored=ignored)


def decide(*listings: dict[str, Any], known: bool = True, policy: Any = WEEK, **more: Any) -> Case:
    found = fleet(*listings, **more)
    return found.decide(found.vms[A], policy, known=known, now=NOW)


def flaw(one: dict[str, Any], **more: Any) -> str | None:
    """Why retention calls a backup bad."""
    [backup] = fleet(listing("n1", one), **more).vms[A].backups(now=NOW)
    return backup.flaw


def verified(*results: tuple[str, bool, str], checksum: str = "1" * 64) -> dict[str, Any]:
    return {
        "manifest_sha256": checksum,
        "results": [
            {"copy": copy, "level": "full", "ok": ok, "at": at, "detail": "part 3"} for copy, ok, at in results
        ],
    }


@pytest.mark.parametrize(
    ("more", "bad"),
    [
        ({}, False),
        ({"copies": []}, True),
        ({"copies": [], "error": "It has vanished."}, True),
        ({"verified": verified(("local", True, "2026-11-01"))}, False),
        ({"verified": verified(("local", False, "2026-11-01"))}, True),
        # The newest word counts.
        (
            {"verified": verified(("local", False, "2026-11-01"), ("local", True, "2026-11-02"))},
            False,
        ),
        (
            {"verified": verified(("local", True, "2026-11-01"), ("local", False, "2026-11-02"))},
            True,
        ),
        # A good copy is enough, also one that nobody looked at.
        ({"copies": ["local", "s3"], "verified": verified(("local", False, "2026-11-01"))}, False),
        # Of a manifest that was another one.
        ({"verified": verified(("local", False, "2026-11-01"), checksum="2" * 64)}, False),
        ({"instant": "yesterday"}, True),
        ({"instant": "0001-01-01T00:00:00+14:00"}, True),
        ({"instant": None}, True),
    ],
)
def test_what_is_good(more: dict[str, Any], bad: bool) -> None:
    assert (flaw(entry(**more)) is not None) == bad


def test_what_the_bucket_has_is_known_from_the_bucket() -> None:
    uploaded = entry(copies=["s3"])
    assert flaw(uploaded) is None
    assert flaw(uploaded, bucket=[uploaded]) is None
    assert flaw(uploaded, bucket=[]) is not None


@pytest.mark.parametrize(
    ("other", "known"),
    [({}, False), ({"endpoint": "https://old"}, True), ({"bucket": "old"}, True), ({"prefix": "old"}, True)],
)
def test_a_copy_in_another_place_is_neither_counted_on_nor_deleted(other: dict[str, Any], known: bool) -> None:
    place = S3Config(bucket="b", endpoint="https://new")
    newest, older = entry(1, copies=["s3"]), entry(2)
    newest["offsite_place"] = {"endpoint": "https://new", "bucket": "b", "prefix": place.key(A, newest["id"]), **other}
    found = gather([listing("n1", newest, older)], [], missing=(), ignored=(), place=place).vms[A]
    backups = {backup.id: backup for backup in found.backups(now=NOW)}
    assert backups[newest["id"]].flaw is not None
    assert (backups[newest["id"]].hold is not None) == known
    newest["copies"].append("local")
    found = gather([listing("n1", newest, older)], [], missing=(), ignored=(), place=place).vms[A]
    assert {(backup.flaw, backup.hold) for backup in found.backups(now=NOW)} == {(None, None)}


def test_one_backup_in_many_places_is_one() -> None:
    found = decide(listing("n1", entry()), listing("n2", entry()), bucket=[entry(copies=["s3"])])
    assert found.plan is not None
    assert len(found.plan.decisions) == 1
    other = decide(listing("n1", entry()), listing("n2", entry(node="n2")))
    assert other.plan is not None
    assert len(other.plan.decisions) == 2


@pytest.mark.parametrize("at", ["n1", "n2"])
def test_what_a_node_has_begun_to_delete_is_no_backup_wherever_else_it_lies(at: str) -> None:
    newest, older = entry(1), entry(2)
    begun = entry(1, status="deleting", copies=[])
    one = Policy(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0, min_keep=1)
    case = decide(listing("n1", older), listing("n2"), bucket=[entry(1, copies=["s3"])], policy=one)
    assert case.plan is not None
    assert [backup.id for backup in case.plan.deleted] == [older["id"]]
    both = {"n1": [older], "n2": []}
    both[at].append(begun)
    case = decide(
        *(listing(node, *found) for node, found in both.items()), bucket=[entry(1, copies=["s3"])], policy=one
    )
    assert case.plan is not None
    assert [backup.id for backup in case.plan.kept] == [older["id"]]
    assert newest["id"] not in {backup.id for backup in case.plan.deleted}


def test_copies_with_other_manifests_are_bad() -> None:
    assert flaw(entry(), bucket=[entry(copies=["s3"], checksum_sha256="2" * 64)]) is not None


@pytest.mark.parametrize(
    ("hold", "held"),
    [
        (None, False),
        ({"reason": "audit", "until": None}, True),
        ({"reason": "audit", "until": "2026-11-22T12:00:01Z"}, True),
        ({"reason": "audit", "until": "2026-11-22T12:00:00Z"}, False),
        ({"until": "what"}, True),
        ({"until": 5}, True),
    ],
)
@pytest.mark.parametrize("place", ["local", "s3"])
def test_holds_of_any_copy(hold: Any, held: bool, place: str) -> None:
    local, remote = entry(), entry(copies=["s3"])
    (local if place == "local" else remote)["hold"] = hold
    [backup] = fleet(listing("n1", local), bucket=[remote]).vms[A].backups(now=NOW)
    assert (backup.hold is not None) == held


def test_what_stops_a_vm() -> None:
    assert decide(listing("n1", entry())).plan is not None
    assert decide(listing("n1", entry()), missing=["n2"]).code == "missing_node"
    assert decide(listing("n1", entry()), missing=["n2"], ignored=["n2"]).plan is not None
    assert decide(listing("n1", entry(), entry(2, node="n9"))).code == "missing_node"
    assert decide(listing("n1", entry()), known=False).code == "unknown_vm"
    assert decide(listing("n1", entry()), policy=InputError("no such policy")).message == "no such policy"
    assert decide(listing("n1", entry()), policy=Policy(timezone="Europe/Brelin")).code == "policy"


def test_a_parent_that_is_another_makes_no_good_backup() -> None:
    full = entry(3)
    sound = entry(2, parent={"id": full["id"], "manifest_sha256": full["checksum_sha256"]})
    other = entry(1, parent={"id": full["id"], "manifest_sha256": "2" * 64})
    missing = entry(0, parent={"id": entry(9)["id"], "manifest_sha256": "2" * 64})
    backups = fleet(listing("n1", full, sound, other, missing)).vms[A].backups(now=NOW)
    assert [backup.flaw for backup in backups] == [
        None,
        None,
        f"its parent {full['id']} is not the one that it was made on",
        # Told by whoever knows the chain.
        None,
    ]


def test_named_backups_need_nobody_else() -> None:
    full, child = entry(3), entry(2, parent={"id": entry(3)["id"]})
    found = fleet(listing("n1", full, child), missing=["n2"]).vms[A]
    refused = decide_named(found, [full["id"]], now=NOW)
    assert (refused.code, child["id"] in str(refused.message)) == ("has_child", True)
    both = decide_named(found, [full["id"], child["id"]], now=NOW)
    assert both.plan is not None
    assert [backup.id for backup in both.plan.deleted] == [child["id"], full["id"]]
    held = fleet(listing("n1", entry(hold={"reason": "audit", "until": None}))).vms[A]
    assert decide_named(held, [entry()["id"]], now=NOW).code == "held"


@pytest.mark.parametrize(
    "wrong",
    [
        {"vm": None},
        {"vm": {"uuid": "../../etc", "name": "x", "node": "n1"}},
        {"vm": {"uuid": A.upper(), "name": "x", "node": "n1"}},
        {"id": "../x"},
        {"id": None},
        {"status": "perhaps"},
        {"copies": None},
    ],
)
def test_a_malformed_listing_decides_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        fleet(listing("n1", entry(), {**entry(2), **wrong}))


def test_a_node_twice_decides_nothing() -> None:
    with pytest.raises(InputError, match="twice"):
        fleet(listing("n1", entry()), listing("n1"))


@given(st.lists(st.integers(0, 40), unique=True, max_size=12), st.lists(st.integers(0, 40), unique=True, max_size=12))
def test_nodes_make_the_same_plan_whatever_order_they_see(mine: list[int], theirs: list[int]) -> None:
    one = listing("n1", *(entry(day) for day in mine))
    two = listing("n2", *(entry(day, node="n2") for day in theirs))
    if not mine and not theirs:
        return
    assert _rows(decide(one, two)) == _rows(decide(two, one))


def _rows(case: Case) -> list[Any]:
    plan = case.plan
    return [] if plan is None else [(d.backup.id, d.backup.node, d.keep, d.reasons) for d in plan.decisions]


DEAD = {"unreachable": True, "msg": "no route"}


def answer(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"backups": list(entries), "changed": False}


def test_the_request_names_who_is_missing_and_why() -> None:
    found = prune_request({"h1": answer(entry()), "h2": DEAD, "h3": {}, "h4": {}}, names={"h1": "n1"}, ignored=["h4"])
    assert found["hosts"] == {"h1": "n1"}
    assert found["missing"] == ["h2", "h3"]
    assert [problem["message"] for problem in found["problems"]] == [
        "could not be listed: no route",
        "could not be listed: it is not in this run; leave out --limit, or name it in vmforge_backup_ignore_nodes",
    ]
    assert found["vms"] == [{"uuid": A, "name": "web1"}]


@pytest.mark.parametrize(
    ("time", "off"),
    [("11:54:59", True), ("11:55:00", False), ("12:00:09", False), ("12:25:00", False), ("12:25:01", True)],
)
def test_clocks_that_are_apart_stop_everything(time: str, off: bool) -> None:
    """Seen before the bucket is touched. How long a listing took is no fault of a clock."""
    began, at, right = {"h1": "2026-11-22T12:00:00Z", "h2": "2026-11-22T12:00:00Z"}, "2026-11-22T12:20:00Z", "12:10:00"
    for nodes_say, bucket_says, place in ((time, right, "h2"), (right, time, "S3")):
        listed = {"h1": answer(entry()), "h2": {**answer(), "time": f"2026-11-22T{nodes_say}Z"}, "h3": {}}
        bucket = {**answer(), "time": f"2026-11-22T{bucket_says}Z"}
        found = prune_request(listed, bucket=bucket, ignored=["h3"], began=began, at=at)
        assert found["clocks"] == ([place] if off else [])
        assert [problem["place"] for problem in found["problems"]] == found["clocks"]
        assert found["missing"] == []


def test_a_bucket_that_failed_is_missing_and_one_that_was_not_asked_is_not() -> None:
    for bucket, missing, entries in (
        (None, [], None),
        ({"skipped": True}, [], None),
        ({"msg": "denied"}, ["S3"], []),
        (answer(entry(copies=["s3"])), [], [A]),
    ):
        found = prune_request({"n1": answer(entry())}, bucket=bucket)
        assert found["missing"] == missing
        assert (found["bucket"] and [item["vm"]["uuid"] for item in found["bucket"]]) == entries


def test_machines_are_found_by_any_name_of_theirs() -> None:
    listed = {"n1": answer(entry(), entry(2, name="old"), entry(uuid=B))}
    domains = {"n1": {"vms": [{"uuid": A, "name": "new"}]}}
    for name in ("old", "new", A, A.upper()):
        assert [vm["uuid"] for vm in prune_request(listed, domains, wanted=[name])["vms"]] == [A]
    twice = prune_request(listed, domains, wanted=["web1"])
    assert twice["vms"] == []
    assert f"{A}, {B}" in twice["problems"][0]["message"]
    assert prune_request(listed, wanted=["nobody"])["problems"][0]["message"] == (
        "has no backup. There are backups of old, web1"
    )


def test_a_node_gets_what_it_has_something_of() -> None:
    request = prune_request({"n1": answer(entry()), "n2": answer(entry(uuid=B, node="n2"), entry(3, node="n1"))})
    assert prune_share(request, "n1")["vm"] == [A]
    assert prune_share(request, "n2")["vm"] == [A, B]
    assert prune_share(request, "n1", everything=True)["vm"] == [A, B]
    assert [len(item["backups"]) for item in prune_share(request, "n1")["listings"]] == [1, 1]


def test_what_is_not_there_is_answered_with_what_is() -> None:
    listed = {"n1": answer(*(entry(day) for day in range(1, 9)))}
    message = prune_request(listed, wanted=["web1"], ids=["20260101T000000Z"])["problems"][0]["message"]
    newest = ", ".join(f"202611{day}T120000Z" for day in (21, 20, 19, 18, 17))
    assert message == f"there is no such backup. There are {newest} and 3 more"


def told(result: str, *backups: tuple[str, str, str], code: str | None = None) -> dict[str, Any]:
    rows = [
        {
            "id": backup_id,
            "node": node,
            "action": "delete",
            "result": became,
            "reasons": ["no rule keeps it"],
            "message": None,
            "size_bytes": 10,
            "copies": ["local"],
        }
        for backup_id, node, became in backups
    ]
    vm = {"uuid": A, "name": "web1"}
    more = {"code": code, "message": "why", "cleared": [], "rules": {}, "backups": rows}
    return {"vms": [{"vm": vm, "result": result, **more}], "reaped": []}


def test_the_report_counts_what_really_went() -> None:
    request = prune_request({"n1": answer(entry()), "n2": answer(entry(2, node="n2"))})
    done = {
        "n1": told("pruned", ("1", "n1", "deleted"), ("2", "n2", "elsewhere"), ("3", "n2", "elsewhere")),
        "n2": told(
            "failed", ("1", "n1", "elsewhere"), ("2", "n2", "deleted"), ("3", "n2", "failed"), code="not_deleted"
        ),
    }
    found = prune_report(request, done)
    [row] = found["vms"]
    assert (row["deleted"], row["kept"], row["deleted_bytes"], row["result"]) == (2, 1, 20, "failed")
    assert {item["id"]: item["result"] for item in found["backups"]} == {"1": "deleted", "2": "deleted", "3": "failed"}
    assert [(problem["node"], problem["place"]) for problem in found["problems"]] == [("n2", "web1 on n2")]


def test_a_missing_node_is_told_once_and_not_by_every_machine() -> None:
    request = prune_request({"n1": answer(entry()), "dead": DEAD})
    found = prune_report(request, {"n1": told("skipped", code="missing_node"), "dead": {}})
    assert [problem["place"] for problem in found["problems"]] == ["dead"]
    assert "dead could not be listed: no route" in found["notes"]


def test_a_node_that_was_lost_on_the_way_is_a_problem() -> None:
    request = prune_request({"n1": answer(entry())})
    assert prune_report(request, {"n1": DEAD})["problems"][0]["message"] == "no route"
    assert prune_report(request, {"n1": {"skipped": True}})["problems"] == []
    assert prune_report(request, {}, policies={"msg": "the database is away"})["problems"][0]["place"] == "policies"


def test_locked_is_told_and_is_no_problem() -> None:
    done = {"n1": told("unchanged", ("1", "n1", "locked"))}
    done["n1"]["vms"][0]["backups"][0]["message"] = "it is locked until 2027"
    found = prune_report(prune_request({"n1": answer(entry())}), done)
    assert found["problems"] == []
    assert "web1 1: it is locked until 2027" in found["notes"]


def test_check_mode_counts_what_would_go_and_asks_for_a_word() -> None:
    request = prune_request({"n1": answer(entry()), "n2": answer(entry(2, node="n2"))})
    backups = [("1", "n1", "kept"), ("2", "n1", "planned"), ("3", "n2", "elsewhere")]
    done = {"n1": told("confirm", *backups, code="confirm"), "n2": told("unchanged", ("3", "n2", "planned"))}
    found = prune_report(request, done, check_mode=True)
    [row] = found["vms"]
    assert (row["result"], row["kept"], row["deleted"], row["deleted_bytes"]) == ("confirm", 1, 2, 20)
    assert found["problems"] == []
    assert "web1: why" in found["notes"]
    assert [problem["place"] for problem in prune_report(request, done)["problems"]] == ["web1 on n1"]


def test_a_deletion_tells_of_what_was_named_alone() -> None:
    request = prune_request({"n1": answer(entry(1), entry(2))}, wanted=["web1"], ids=[entry(2)["id"]])
    done = {"n1": told("pruned", (entry(1)["id"], "n1", "kept"), (entry(2)["id"], "n1", "deleted"))}
    done["n1"]["vms"][0]["rules"] = {"not": {"count": 1, "bytes": 10}}
    found = prune_report(request, done)
    assert [item["id"] for item in found["backups"]] == [entry(2)["id"]]
    assert "keeps by rule" not in str(found["notes"])


def test_a_deletion_that_nobody_is_there_for_is_a_problem() -> None:
    backup_id = entry(2)["id"]
    request = prune_request({"n1": answer(entry(2, node="n9"))}, wanted=["web1"], ids=[backup_id])
    [problem] = prune_report(request, {"n1": told("unchanged", (backup_id, "n9", "elsewhere"))})["problems"]
    assert problem["place"] == f"web1 {backup_id}"
    [unseen] = prune_report(request, {"n1": {"vms": [], "reaped": []}})["problems"]
    assert "it is of a node, which is not in this run" in unseen["message"]
    assert "it is of n9, which is not in this run" in problem["message"]


def test_nodes_are_shown_as_the_inventory_calls_them() -> None:
    here = socket.gethostname()
    listed = {"localhost": answer(entry(node=here)), "hv2.example.org": answer(entry(2, node="hv2"))}
    request = prune_request(listed, names={"localhost": "", "hv2.example.org": "hv2"})
    done = {"localhost": told("unchanged", ("1", here, "kept"), ("2", "hv2", "kept"), ("3", "gone", "kept"))}
    found = prune_report(request, done)
    assert {item["id"]: item["node"] for item in found["backups"]} == {
        "1": "localhost",
        "2": "hv2.example.org",
        "3": "gone",
    }
