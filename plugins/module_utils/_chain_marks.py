# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a listing tells of chains: whether one opens as it lies, and what is wrong with an ancestor. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._verified import bad_copies

# UUID, id, and whether it is a backup or a failed attempt.
Key = tuple[str, str, str]


def mark_chains(found: Mapping[Key, dict[str, Any]], *, complete: bool) -> None:
    """Fill in ``chain_local``; and ``error``, where something is known to be wrong with an ancestor.

    Args:
        found: All entries of a listing.
        complete: Whether the bucket was listed too, so that an ancestor of what lies here that is in neither is lost.
    """
    problems: dict[Key, str | None] = {}
    # Parents first: their ids are smaller.
    for key in sorted(found):
        entry, parent = found[key], None
        if entry["parent"] is None:
            entry["chain_local"] = _is_good_here(entry)
            continue
        above = (key[0], str(entry["parent"]["id"]), key[2])
        if above < key:
            parent = found.get(above)
        problem = _problem(entry, parent, is_lost=complete and entry["path"] is not None)
        problems[key] = problem = problem or problems.get(above)
        entry["chain_local"] = (
            _is_good_here(entry) and parent is not None and bool(parent["chain_local"]) and problem is None
        )
        entry["error"] = entry["error"] or problem


def _problem(entry: Mapping[str, Any], parent: Mapping[str, Any] | None, *, is_lost: bool) -> str | None:
    name = f"Its ancestor {entry['parent']['id']}"
    if parent is None or parent["status"] != "ready":
        return f"{name} is missing." if is_lost else None
    if parent["checksum_sha256"] != entry["parent"]["manifest_sha256"]:
        return f"{name} is not the one that it was made on."
    if not parent["copies"]:
        return f"{name} has no complete copy."
    return f"{name} was verified as bad." if _is_bad(parent) else None


def _is_bad(entry: Mapping[str, Any]) -> bool:
    """Whether verifications found something wrong with each copy."""
    bad = _bad_copies(entry)
    return bool(bad) and bad.issuperset(entry["copies"])


def _is_good_here(entry: Mapping[str, Any]) -> bool:
    return "local" in entry["copies"] and "local" not in _bad_copies(entry)


def _bad_copies(entry: Mapping[str, Any]) -> set[str]:
    return bad_copies([entry["verified"] or {}], str(entry["checksum_sha256"]))
