# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a verification, and the choice of the host that restores."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.plugin_utils._verify_report import restore_host, verify_report


def entry(name: str, backup_id: str, result: str, message: str | None = None) -> dict[str, Any]:
    return {"vm": {"name": name, "uuid": f"uuid-of-{name}"}, "id": backup_id, "result": result, "message": message}


def test_rows_of_all_nodes_and_every_reason() -> None:
    report = verify_report(
        {
            "node1": {
                "backups": [entry("web", "2", "good"), entry("web", "1", "bad", "Damaged: it.")],
                "not_found": ["x"],
            },
            "node2": {"backups": [entry("db", "1", "repaired", "Mended: it.")], "not_found": ["x", "web"]},
            "node3": {"msg": "Module failed: no directory", "failed": True},
            "node4": {},
        },
        ["web", "x"],
    )
    assert [(row["vm_name"], row["id"], row["node_name"]) for row in report["rows"]] == [
        ("db", "1", "node2"),
        ("web", "1", "node1"),
        ("web", "2", "node1"),
    ]
    assert [(item["node"], item["place"]) for item in report["problems"]] == [
        ("node2", "db 1"),
        ("node1", "web 1"),
        ("node3", "node3"),
        ("node4", "node4"),
        ("-", "x"),
    ]
    assert report["notes"][2] == "node3: no directory"


def test_what_is_only_planned_has_read_an_unknown_amount() -> None:
    planned = {**entry("web", "1", "planned"), "bytes_read": 0, "seconds": 0.0}
    [row] = verify_report({"n": {"backups": [planned]}})["rows"]
    assert (row["bytes_read"], row["seconds"]) == (None, None)


def test_a_manifest_that_cannot_be_read_has_no_name() -> None:
    broken = {**entry("", "1", "bad", "no"), "vm": {"uuid": "u", "name": None}}
    assert verify_report({"n": {"backups": [broken]}})["problems"][0]["place"] == "u 1"


RUNS, STOPPED = {"name": "web", "uuid": "u", "active": True}, {"name": "web", "uuid": "u", "active": False}
OLD, NEW = {"id": "20261101T000000Z"}, {"id": "20261102T000000Z"}


@pytest.mark.parametrize(
    ("located", "listed", "chosen"),
    [
        ({"a": {"vms": [STOPPED]}, "b": {"vms": [RUNS]}}, {"a": {"backups": [NEW]}}, "b"),
        ({"a": {"vms": []}, "b": {"vms": [STOPPED]}}, {"a": {"backups": [NEW]}}, "b"),
        ({"a": {"vms": []}, "b": {"msg": "away"}}, {"a": {"backups": [OLD]}, "b": {"backups": [NEW]}}, "b"),
        ({}, {"b": {"backups": []}}, "a"),
        ({"a": {"skipped": True}}, {}, "a"),
    ],
)
def test_the_host_that_restores(located: dict[str, Any], listed: dict[str, Any], chosen: str) -> None:
    assert restore_host(["a", "b"], "web", located, listed) == chosen
    assert restore_host(["a", "b"], "u", located, listed) == chosen
