# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a listing tells of chains."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._chain_marks import mark_chains
from ansible_collections.vmforge.backup.plugins.module_utils._listing import list_entries
from tests.bed.backups import UUID
from tests.bed.chains import make_chain

Entries = list[dict[str, Any]]


@pytest.fixture
def entries(tmp_path: Path) -> Entries:
    """Three backups in a chain, and one that is no part of it, oldest first."""
    maker = make_chain(tmp_path / UUID, 3)
    maker.back_up({})
    found = list_entries(tmp_path, None, ())
    return sorted(found, key=lambda entry: str(entry["id"]))


def marked(entries: Entries, *, complete: bool = False) -> list[tuple[bool, str | None]]:
    for entry in entries:
        entry["chain_local"] = None
    mark_chains({(entry["vm"]["uuid"], entry["id"], "backup"): entry for entry in entries}, complete=complete)
    return [(entry["chain_local"], entry["error"]) for entry in entries]


FINE = (True, None)


def test_a_whole_chain(entries: Entries) -> None:
    assert [entry["type"] for entry in entries] == ["full", "incremental", "incremental", "full"]
    assert marked(entries, complete=True) == [FINE] * 4


def verified(entry: dict[str, Any], **copies: bool) -> None:
    entry["verified"] = {
        "manifest_sha256": entry["checksum_sha256"],
        "results": [{"copy": copy, "level": "data", "ok": ok} for copy, ok in copies.items()],
    }


def drop(entry: dict[str, Any]) -> None:
    entry["copies"] = ["s3"]


def change(entry: dict[str, Any]) -> None:
    entry["checksum_sha256"] = "0" * 64


def spoil(entry: dict[str, Any]) -> None:
    verified(entry, local=False)


def spoil_one(entry: dict[str, Any]) -> None:
    entry["copies"] = ["local", "s3"]
    verified(entry, local=False, s3=True)


def spoil_another(entry: dict[str, Any]) -> None:
    spoil(entry)
    entry["verified"]["manifest_sha256"] = "0" * 64


def lose(entry: dict[str, Any]) -> None:
    entry["copies"] = []


@pytest.mark.parametrize(
    ("what", "is_local", "problem"),
    [
        (drop, False, None),
        (change, False, "is not the one that it was made on"),
        (spoil, False, "was verified as bad"),
        (spoil_one, False, None),
        (spoil_another, True, None),
        (lose, False, "has no complete copy"),
    ],
)
def test_what_is_wrong_with_an_ancestor(
    entries: Entries, what: Callable[[dict[str, Any]], None], is_local: bool, problem: str | None
) -> None:
    what(entries[0])
    told = f"Its ancestor {entries[0]['id']} {problem}." if problem else None
    assert marked(entries)[1:] == [(is_local, told), (is_local, told), FINE]


@pytest.mark.parametrize(("complete", "here"), [(True, True), (True, False), (False, True)])
def test_an_ancestor_is_lost_only_where_all_places_were_looked_at(entries: Entries, complete: bool, here: bool) -> None:
    first = entries.pop(0)
    for entry in entries:
        entry["path"] = entry["path"] if here else None
    told = f"Its ancestor {first['id']} is missing." if complete and here else None
    assert marked(entries, complete=complete) == [(False, told), (False, told), FINE]


def test_an_error_of_its_own_is_not_hidden(entries: Entries) -> None:
    entries[1]["error"] = "It hurts."
    change(entries[0])
    assert marked(entries)[1][1] == "It hurts."
    assert "is not the one" in str(marked(entries)[2][1])


def test_an_ancestor_that_is_deleted_to_half(tmp_path: Path) -> None:
    maker = make_chain(tmp_path / UUID, 2)
    first = tmp_path / UUID / maker.points[0].id
    first.rename(first.with_name(f"{first.name}.deleting"))
    [child] = [entry for entry in list_entries(tmp_path, None, ()) if entry["status"] == "ready"]
    assert (child["chain_local"], child["error"]) == (False, None)
    shutil.rmtree(tmp_path / UUID)
