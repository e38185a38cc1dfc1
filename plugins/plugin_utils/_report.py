# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a run: one row per virtual machine, and what went wrong. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason

# Results that are as they should be; all others are failures.
GOOD = ("created", "uploaded", "fresh", "planned", "deleted", "absent", "skipped")
_COLUMNS = ("vm", "node", "result", "type", "bytes_read", "size_bytes", "seconds", "copies")
_LOST = (
    "the connection to the node was lost while it backed up: {message}. The backup may have been completed; "
    "list.yml shows what is there."
)


def report(assignment: Mapping[str, Any], outcomes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put together what all nodes did.

    Args:
        assignment: Values of an ``Assignment``.
        outcomes: Node -> what its ``vmforge_backup`` returned, or a loop of it; empty or skipped for one that had
            nothing to do.

    Returns:
        ``rows`` for the table and for programs, ``problems``: each with ``node``, ``vm`` and ``message``, ``notes``.
    """
    rows: list[dict[str, Any]] = []
    outcomes = {node: _together(outcome) for node, outcome in outcomes.items()}
    for node in outcomes:
        uuids = assignment["here"].get(node, [])
        rows += _node_rows(node, outcomes[node], {uuid: assignment["names"][uuid] for uuid in uuids})
    rows += [_row(**item) for item in assignment["skipped"]]
    rows += [_row(**item) for item in assignment["refused"]]
    rows += [_row(vm="-", **item) for item in assignment["silent"]]
    heard = {*assignment["searched"], *(item["node"] for item in assignment["silent"])}
    rows += [_row(vm="-", node=node, result="failed", message=_DROPPED) for node in outcomes if node not in heard]
    problems = [
        {"node": row["node"], "vm": row["vm"], "place": _place(row), "message": row["message"]}
        for row in rows
        if row["result"] not in GOOD
    ]
    return {"rows": rows, "problems": problems, "notes": list(_notes(rows, problems))}


_DROPPED = "the node failed before it was asked for its virtual machines; its error is further up"


def _row(vm: str, node: str, result: str, message: str | None = None, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(_COLUMNS)
    return {
        **row,
        "vm": vm,
        "node": node,
        "node_name": node,
        "result": result,
        "message": message,
        "warnings": [],
        **more,
    }


def _together(outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    """Several calls on one node as one; a call that did not even begin gives its reason for what nobody told of."""
    calls = outcome.get("results")
    if calls is None:
        return outcome
    dead = next((call for call in calls if call.get("unreachable") or "backups" not in call), {})
    return {**dead, "backups": [backup for call in calls for backup in call.get("backups") or ()]}


def _node_rows(node: str, outcome: Mapping[str, Any], assigned: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each machine that the node was to back up, whether or not it told of it."""
    told = {backup["vm"]["uuid"]: backup for backup in outcome.get("backups") or ()}
    rows = [_backup_row(node, backup) for backup in told.values()]
    message = reason(outcome, "the node told nothing of it")
    result = "failed"
    if outcome.get("unreachable"):
        result, message = "unreachable", _LOST.format(message=message)
    rows += [_row(name, node, result, message) for uuid, name in assigned.items() if uuid not in told]
    return rows


def _backup_row(node: str, backup: Mapping[str, Any]) -> dict[str, Any]:
    error, plan = backup.get("error") or {}, backup.get("plan") or {}
    made = backup["result"] in ("created", "uploaded")
    return _row(
        backup["vm"]["name"],
        node,
        backup["result"],
        error.get("message"),
        node_name=backup.get("node") or node,
        uuid=backup["vm"]["uuid"],
        id=backup.get("id"),
        code=error.get("code"),
        type=backup.get("type"),
        consistency=backup.get("consistency"),
        bytes_read=plan.get("estimated_read_bytes") if plan else backup.get("bytes_read") if made else None,
        size_bytes=plan.get("estimated_stored_bytes") if plan else backup.get("size_bytes") or None,
        seconds=backup.get("seconds") or None,
        copies=_planned_copies(plan) if plan else list(backup.get("copies") or ()),
        path=backup.get("path"),
        s3_key=backup.get("s3_key"),
        checksum_sha256=backup.get("checksum_sha256"),
        warnings=list(backup.get("warnings") or ()),
    )


def _planned_copies(plan: Mapping[str, Any]) -> list[str]:
    return ["s3" if where.startswith("s3://") else "local" for where in plan.get("destinations") or ()]


def _notes(rows: Iterable[Mapping[str, Any]], problems: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """What the table has no room for. Warnings of backups were shown when they came."""
    yield from (f"{_place(row)}: {row['message']}" for row in rows if row["result"] == "skipped")
    yield from (f"{_place(problem)}: {problem['message']}" for problem in problems)


def _place(item: Mapping[str, Any]) -> str:
    return " on ".join(str(item[key]) for key in ("vm", "node") if item[key] != "-")
