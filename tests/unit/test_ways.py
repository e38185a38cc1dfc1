# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is backed up alike, and what the panel's database does not say yet."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.filter.catalog_entries import catalog_entries
from ansible_collections.vmforge.backup.plugins.module_utils._catalog_listing import Listing
from ansible_collections.vmforge.backup.plugins.module_utils._entry import failed_entry, unfinished_entry
from ansible_collections.vmforge.backup.plugins.plugin_utils._recorded import unrecorded
from ansible_collections.vmforge.backup.plugins.plugin_utils._report import report
from ansible_collections.vmforge.backup.plugins.plugin_utils._ways import ways

A, B, C = "a", "b", "c"
NAMES = {A: "web", B: "db", C: "mail"}


def policy(offsite: str, drop: bool = False) -> dict[str, Any]:
    return {"offsite": offsite, "delete_local_after_upload": drop}


def group(vms: list[str], offsite: str, drop: bool = False) -> dict[str, Any]:
    return {"vms": vms, **policy(offsite, drop)}


def test_what_is_backed_up_alike_is_one_call() -> None:
    found = ways([A, B, C], {"policies": {A: policy("s3"), B: policy("none"), C: policy("s3")}}, s3_configured=True)
    assert found == {"groups": [group([A, C], "s3"), group([B], "none")], "warnings": []}


@pytest.mark.parametrize("drop", [False, True])
def test_s3_without_a_bucket_is_a_local_backup_and_a_warning(drop: bool) -> None:
    found = ways([A, B], {"policies": {A: policy("s3", drop), B: policy("none")}}, NAMES)
    assert found["groups"] == [group([A, B], "none")]
    (warning,) = found["warnings"]
    assert warning.startswith("web: its policy wants a copy in S3")


def test_the_only_copy_is_never_dropped() -> None:
    assert ways([A], {"policies": {A: policy("none", True)}}, s3_configured=True)["groups"] == [group([A], "none")]
    assert ways([A], {"policies": {A: policy("s3", True)}}, s3_configured=True)["groups"] == [group([A], "s3", True)]


@pytest.mark.parametrize("answer", [{"msg": "Task failed: no route"}, {"unreachable": True, "msg": "no route"}, {}])
def test_policies_that_could_not_be_read_drop_nothing(answer: dict[str, Any]) -> None:
    found = ways([A, B], answer, NAMES, offsite="s3", s3_configured=True)
    assert found["groups"] == [group([A, B], "s3")]
    (warning,) = found["warnings"]
    assert "every local copy is kept" in warning
    assert ("no route" in warning) == bool(answer)


def test_one_policy_without_meaning_concerns_one_vm() -> None:
    answer = {"policies": {B: policy("s3", True)}, "problems": {A: "keep_daily is -1."}}
    found = ways([A, B], answer, NAMES, offsite="s3", s3_configured=True)
    assert found["groups"] == [group([A], "s3"), group([B], "s3", True)]
    assert found["warnings"] == ["web: keep_daily is -1. Its local copy is kept."]


def test_a_node_with_nothing_to_do_warns_of_nothing() -> None:
    assert ways([], {"skipped": True}) == {"groups": [], "warnings": []}


def made(name: str, result: str = "created") -> dict[str, Any]:
    return {"vm": {"name": name, "uuid": name}, "node": "n1", "result": result, "id": "20261122T151200Z"}


@pytest.mark.parametrize(
    ("second", "result"),
    [({"msg": "no libvirt"}, "failed"), ({"unreachable": True, "msg": "timed out"}, "unreachable")],
)
def test_several_calls_on_one_node_are_told_as_one(second: dict[str, Any], result: str) -> None:
    here = {"here": {"n1": ["web", "db"]}, "names": {"web": "web", "db": "db"}}
    assignment = {**here, "searched": ["n1"], "silent": [], "refused": [], "skipped": []}
    both = {"n1": {"results": [{"backups": [made("web")]}, {"backups": [made("db")]}], "changed": True}}
    assert [(row["vm"], row["result"]) for row in report(assignment, both)["rows"]] == [
        ("web", "created"),
        ("db", "created"),
    ]
    half = report(assignment, {"n1": {"results": [{"backups": [made("web")]}, second]}})
    assert [(row["vm"], row["result"]) for row in half["rows"]] == [("web", "created"), ("db", result)]
    assert second["msg"] in half["problems"][0]["message"]


LISTED: dict[str, Any] = {"listing": {"backups": []}}
CERTAIN: dict[str, Any] = {"uncertain": []}
DOUBT: dict[str, Any] = {"uncertain": [A]}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({**LISTED, "recorded": CERTAIN}, None),
        ({}, None),
        ({"listing": {"msg": "No such directory"}, "recorded": {"skipped": True}}, "No such directory"),
        ({"listing": {"unreachable": True, "msg": "timed out"}}, "timed out"),
        ({**LISTED, "recorded": {"failed": True, "msg": "Task failed: Connecting failed"}}, "Connecting failed"),
        ({**LISTED, "recorded": DOUBT, "bucket": {"backups": []}, "corrected": CERTAIN}, None),
        (
            {**LISTED, "recorded": DOUBT, "bucket": {"skipped": True}, "corrected": {"skipped": True}},
            "no bucket is set",
        ),
        ({**LISTED, "recorded": DOUBT, "bucket": {"msg": "Access Denied"}, "corrected": {"skipped": True}}, "Denied"),
        ({**LISTED, "recorded": DOUBT, "bucket": {"backups": []}, "corrected": {"msg": "lost"}}, "lost"),
    ],
)
def test_what_is_not_recorded_is_told_with_its_reason(answers: dict[str, Any], said: str | None) -> None:
    found = unrecorded({"n1": answers})
    assert bool(found) == (said is not None)
    assert said is None or said in found[0]


def test_nodes_with_the_same_reason_are_one_sentence() -> None:
    away = {**LISTED, "recorded": {"msg": "away"}}
    found = unrecorded({"n1": {**away, "pending": [made("web")]}, "n2": away})
    assert found == [
        "Not recorded in the panel's database: n1 (web 20261122T151200Z); n2. The next run records it. The reason: away"
    ]


UUID = "aaaaaaaa-0000-4000-8000-000000000001"


def test_a_light_listing_has_all_that_the_catalogue_needs() -> None:
    entries = [
        failed_entry(UUID, "20261122T151200Z", {"node": "n1", "message": "No space."}),
        unfinished_entry(UUID, "20261122T151300Z", "deleting", {"node": "n1"}, path="/b/x.deleting"),
    ]
    light = [json.loads(text) for text in catalog_entries(entries)]
    listing = Listing("n1", tuple(light), None, None, "/b")
    assert len(list(listing.complete())) == len(list(listing.unfinished())) == 1
    assert all(item.items() <= entry.items() for item, entry in zip(light, entries))
    assert catalog_entries(entries, ["other"]) == []
    assert catalog_entries([{"vm": {"uuid": UUID}}], [UUID]) == [json.dumps({"vm": {"uuid": UUID}})]
