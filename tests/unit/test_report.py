# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a run, and the list of all backups."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.plugin_utils._fleet import assign
from ansible_collections.vmforge.backup.plugins.plugin_utils._listing_report import listing
from ansible_collections.vmforge.backup.plugins.plugin_utils._report import GOOD, report

A, B, C = (f"{digit * 8}-0000-4000-8000-00000000000{place}" for place, digit in enumerate("abc", 1))
LOCATED = {
    "n1": {"vms": [{"name": "web", "uuid": A, "active": True}]},
    "n2": {"vms": [{"name": "db", "uuid": B, "active": True}]},
}


def backup(name: str, uuid: str, result: str = "created", **more: Any) -> dict[str, Any]:
    return {
        "vm": {"name": name, "uuid": uuid},
        "node": None,
        "result": result,
        "type": "full",
        "bytes_read": 10,
        "size_bytes": 5,
        "seconds": 1.5,
        "copies": ["local"],
        "error": None,
        "plan": None,
        "warnings": [],
        **more,
    }


def run(
    outcomes: dict[str, Any], located: dict[str, Any] | None = None, wanted: tuple[str, ...] = ()
) -> dict[str, Any]:
    return report(assign(LOCATED if located is None else located, wanted).as_values(), outcomes)


def rows(made: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(row["vm"], row["node"], row["result"]) for row in made["rows"]]


def test_what_was_made_is_one_row_each_and_no_problem() -> None:
    made = run({"n1": {"backups": [backup("web", A)]}, "n2": {"backups": [backup("db", B, "fresh", bytes_read=0)]}})
    assert rows(made) == [("web", "n1", "created"), ("db", "n2", "fresh")]
    assert (made["rows"][0]["bytes_read"], made["rows"][1]["bytes_read"]) == (10, None)
    assert made["problems"] == made["notes"] == []


def test_a_failure_is_named_with_its_place_and_reason() -> None:
    failed = backup("web", A, "failed", error={"code": "no_space", "message": "Not enough space.", "phase": "planning"})
    made = run({"n1": {"backups": [failed], "msg": "web: Not enough space."}, "n2": {"backups": [backup("db", B)]}})
    assert made["problems"] == [{"node": "n1", "vm": "web", "place": "web on n1", "message": "Not enough space."}]
    assert made["notes"] == ["web on n1: Not enough space."]


@pytest.mark.parametrize(
    ("outcome", "result", "said"),
    [
        ({"msg": "MODULE FAILURE", "rc": 1}, "failed", "MODULE FAILURE"),
        ({"unreachable": True, "msg": "timed out"}, "unreachable", "while it backed up: timed out"),
        ({"backups": []}, "failed", "the node told nothing of it"),
        ({"skipped": True}, "failed", "the node told nothing of it"),
    ],
)
def test_a_machine_that_its_node_tells_nothing_of_has_failed(outcome: dict[str, Any], result: str, said: str) -> None:
    made = run({"n1": outcome, "n2": {"backups": [backup("db", B)]}})
    assert rows(made) == [("web", "n1", result), ("db", "n2", "created")]
    assert said in made["problems"][0]["message"]


def test_silent_and_dropped_nodes_and_machines_that_are_nowhere_are_problems() -> None:
    located = {"n1": {"unreachable": True, "msg": "no route"}, "n2": {"msg": "no libvirt"}, "n3": {}}
    made = run({"n1": {"skipped": True}, "n2": {"skipped": True}, "n3": {}}, located, ("web",))
    assert rows(made) == [
        ("web", "-", "not found"),
        ("-", "n1", "unreachable"),
        ("-", "n2", "failed"),
        ("-", "n3", "failed"),
    ]
    assert [problem["place"] for problem in made["problems"]] == ["web", "n1", "n2", "n3"]


def test_a_stopped_definition_of_a_machine_that_runs_elsewhere_is_told_but_no_problem() -> None:
    located = {
        "n1": {"vms": [{"name": "web", "uuid": A, "active": False}]},
        "n2": {"vms": [{"name": "web", "uuid": A, "active": True}]},
    }
    made = run({"n1": {"skipped": True}, "n2": {"backups": [backup("web", A)]}}, located)
    assert rows(made) == [("web", "n2", "created"), ("web", "n1", "skipped")]
    assert (made["problems"], len(made["notes"])) == ([], 1)


def test_a_plan_shows_estimates() -> None:
    plan = {
        "estimated_read_bytes": 100,
        "estimated_stored_bytes": 40,
        "destinations": ["/var/lib/vmforge/backups/x", "s3://bucket/x"],
    }
    made = run({"n1": {"backups": [backup("web", A, "planned", plan=plan, copies=[])]}, "n2": {}})
    assert {key: made["rows"][0][key] for key in ("bytes_read", "size_bytes", "copies")} == {
        "bytes_read": 100,
        "size_bytes": 40,
        "copies": ["local", "s3"],
    }


def test_every_result_of_the_module_but_failed_is_good() -> None:
    assert {"created", "uploaded", "fresh", "planned", "deleted", "absent"} <= set(GOOD)
    assert not {"failed", "unreachable", "not found", "ambiguous"} & set(GOOD)


def entry(uuid: str = A, backup_id: str = "20261122T100000Z", status: str = "ready", **more: Any) -> dict[str, Any]:
    known = {"uuid": uuid, "name": more.pop("name", "web"), "node": more.pop("node", "n1")}
    values = {
        "vm": known,
        "id": backup_id,
        "status": status,
        "path": "/b",
        "s3_key": None,
        "copies": ["local"],
        "chain_local": True,
        "hold": None,
        "verified": None,
        "error": None,
    }
    return {**values, **more}


STORED = {"path": None, "s3_key": "p/x", "copies": ["s3"], "chain_local": False}


def test_the_list_is_newest_first_over_all_nodes() -> None:
    merged = listing(
        {
            "n1": {"backups": [entry(backup_id="20261122T100000Z")]},
            "n2": {"backups": [entry(B, "20261122T110000Z", node="n2", name="db")]},
        }
    )
    assert [(item["vm_name"], item["node"]) for item in merged["backups"]] == [("db", "n2"), ("web", "n1")]
    assert merged["problems"] == []


def test_a_backup_on_a_node_and_in_the_bucket_is_one() -> None:
    both = listing({"n1": {"backups": [entry(copies=["local", "s3"])]}}, {"backups": [entry(**STORED)]})
    [item] = both["backups"]
    assert (item["copies"], item["path"], item["chain_local"], item["error"]) == (["local", "s3"], "/b", True, None)


def test_what_only_the_bucket_has_is_listed() -> None:
    merged = listing({"n1": {"backups": []}}, {"backups": [entry(node="gone", **STORED)]})
    assert [(item["node"], item["copies"]) for item in merged["backups"]] == [("gone", ["s3"])]


def test_a_copy_that_the_bucket_has_no_more_is_not_shown() -> None:
    merged = listing({"n1": {"backups": [entry(copies=["local", "s3"], s3_key="p/x")]}}, {"backups": []})
    [item] = merged["backups"]
    assert (item["copies"], item["s3_key"]) == (["local"], None)
    assert "not in the bucket" in item["error"]
    assert len(merged["notes"]) == 1


def test_a_bucket_that_was_not_asked_or_failed_takes_nothing_away() -> None:
    nodes = {"n1": {"backups": [entry(copies=["local", "s3"])]}}
    for bucket in (None, {}, {"skipped": True}, {"msg": "wrong keys"}):
        [item] = listing(nodes, bucket)["backups"]
        assert item["copies"] == ["local", "s3"]
    failed = listing(nodes, {"msg": "wrong keys"})
    assert failed["problems"] == [{"node": "-", "place": "S3", "message": "wrong keys"}]


def test_an_upload_under_way_does_not_spoil_what_is_ready() -> None:
    half = entry(status="partial", node=None, name=None, **{**STORED, "copies": []})
    [item] = listing({"n1": {"backups": [entry()]}}, {"backups": [half]})["backups"]
    assert (item["status"], item["copies"]) == ("ready", ["local"])


def test_a_failed_attempt_and_a_backup_of_one_id_are_two() -> None:
    merged = listing({"n1": {"backups": [entry(), entry(status="failed", copies=[], name=None)]}})
    assert [item["vm_name"] for item in merged["backups"]] == ["web", "web"]


def test_bad_copies_and_holds_are_shown() -> None:
    results = [
        {"copy": "local", "level": "data", "ok": False, "at": "2026-11-22T12:00:00Z", "detail": "vda.qcow2, part 3"},
        {"copy": "s3", "level": "data", "ok": True, "at": "2026-11-22T12:00:00Z", "detail": None},
    ]
    told = entry(copies=["local", "s3"], verified={"results": results}, hold={"reason": "audit"})
    merged = listing({"n1": {"backups": [told, entry(backup_id="20261121T100000Z")]}})
    assert [item["state"] for item in merged["backups"]] == ["ready, bad local, held", "ready"]
    assert merged["notes"] == [
        "web 20261122T100000Z: bad local: vda.qcow2, part 3",
        "web 20261122T100000Z: held: audit",
    ]


def test_nodes_are_shown_as_the_inventory_calls_them() -> None:
    nodes = {"localhost": [entry(node=socket.gethostname())], "hv2.example.org": [entry(B, node="hv2", name="db")]}
    listed = {host: {"backups": backups} for host, backups in nodes.items()}
    merged = listing(listed, {"backups": [entry(C, node="gone", **STORED)]}, {"hv2.example.org": "hv2"})
    assert {item["node_name"] for item in merged["backups"]} == {"localhost", "hv2.example.org", "gone"}
    assert [item["node"] for item in merged["backups"] if item["node_name"] == "hv2.example.org"] == ["hv2"]


def test_two_machines_of_one_name_are_told_apart() -> None:
    assert listing({"n1": {"backups": [entry(), entry(B)]}})["namesakes"]
    assert not listing({"n1": {"backups": [entry(), entry(backup_id="20261121T100000Z"), entry(B, name="db")]}})[
        "namesakes"
    ]


def test_the_latest_of_each_machine_is_the_newest_that_is_ready() -> None:
    newer, newest = "20261122T110000Z", "20261122T120000Z"
    listed = [entry(), entry(backup_id=newer), entry(backup_id=newest, status="partial"), entry(B, name="db")]
    merged = listing({"n1": {"backups": listed}}, latest=True)
    assert [(item["vm_name"], item["id"]) for item in merged["backups"]] == [("web", newer), ("db", entry()["id"])]


def test_nodes_that_do_not_answer_are_problems() -> None:
    merged = listing({"n1": {"unreachable": True, "msg": "no route"}, "n2": {}, "n3": {"msg": "no directory"}})
    assert [(item["node"], item["message"].split(";")[0]) for item in merged["problems"]] == [
        ("n1", "no route"),
        ("n2", "the node failed before it was asked"),
        ("n3", "no directory"),
    ]
