# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One entry of a listing: the same fields whatever it tells of, small, and nothing made up."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._entry import failed_entry, ready_entry, unfinished_entry
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord, manifest_sha256
from tests.bed.lay import NODE, UUID, manifest_of

ID = "20261122T151200Z"


def ready(**more: Any) -> dict[str, Any]:
    manifest = manifest_of(ID, **more)
    facts: dict[str, Any] = {"path": "/b", "s3_key": None, "copies": ["local"], "hold": None, "verified": None}
    return ready_entry(manifest, manifest.encode(), offsite_pending=False, **facts)


def test_a_backup() -> None:
    entry = ready(excluded=(("sda", "cdrom"),))
    assert entry["vm"] == {"uuid": UUID, "name": "web1", "node": NODE}
    assert (entry["id"], entry["status"], entry["type"]) == (ID, "ready", "full")
    assert entry["checksum_sha256"] == manifest_sha256(manifest_of(ID, excluded=(("sda", "cdrom"),)).encode())
    assert entry["excluded"] == [{"target": "sda", "reason": "cdrom"}]
    assert entry["size_bytes"] == 8
    assert entry["disks"] == [
        {"target": "vda", "type": "full", "file": "vda.qcow2", "virtual_size": 1 << 20, "data_bytes": 65536}
    ]


def test_it_stays_small_however_many_parts_there_are() -> None:
    files = (FileRecord("vda.qcow2", 100 * 9000, sha256=None, part_size=100, parts=("0" * 64,) * 9000),)
    assert len(repr(ready(files=files))) < 2000
    assert "0" * 64 not in repr(ready(files=files))


def test_every_kind_has_the_same_fields() -> None:
    kinds = [ready(), unfinished_entry(UUID, ID, "partial", {}), failed_entry(UUID, ID, {})]
    assert {tuple(sorted(entry)) for entry in kinds} == {tuple(sorted(kinds[0]))}
    assert {tuple(entry["vm"]) for entry in kinds} == {("uuid", "name", "node")}


def test_entries_do_not_share_what_can_be_changed() -> None:
    first, second = (unfinished_entry(UUID, ID, "partial", {}) for _turn in range(2))
    first["copies"].append("local")
    first["vm"]["name"] = "other"
    assert (second["copies"], second["vm"]["name"]) == ([], None)


def test_a_hold_is_a_copy() -> None:
    manifest, hold = manifest_of(ID), {"reason": "audit"}
    facts: dict[str, Any] = {"path": None, "s3_key": "k", "copies": ["s3"], "verified": None}
    entry = ready_entry(manifest, manifest.encode(), hold=hold, offsite_pending=True, **facts)
    hold["reason"] = "other"
    assert entry["hold"] == {"reason": "audit"}
    assert entry["offsite_pending"] is True


@pytest.mark.parametrize(
    ("progress", "name", "node"),
    [({}, None, None), ({"vm": {"name": "web1"}, "node": "n"}, "web1", "n"), ({"vm": {}}, None, None)],
)
def test_an_unfinished_one(progress: dict[str, Any], name: str | None, node: str | None) -> None:
    entry = unfinished_entry(UUID, ID, "deleting", progress, path="/p", error="odd")
    assert (entry["status"], entry["path"], entry["error"]) == ("deleting", "/p", "odd")
    assert (entry["vm"]["name"], entry["vm"]["node"]) == (name, node)


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ({}, "unknown (phase None, code None)"),
        ({"message": "It broke.", "phase": "reading", "code": "source"}, "It broke. (phase reading, code source)"),
    ],
)
def test_a_failure(failure: dict[str, Any], text: str) -> None:
    entry = failed_entry(UUID, ID, dict(failure, failed="2026-11-22T15:12:00Z"))
    assert (entry["status"], entry["error"], entry["finished_at"]) == ("failed", text, "2026-11-22T15:12:00Z")
