# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the pack's rows on all nodes together. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason

# What counts of several nodes' words on one row. A node that does not have an image says so of all rows.
_ORDER = ("adopted", "present", "planned", "failed", "refused", "missing")
_DONE = ("adopted", "present")

Answer = Mapping[str, Any]


def undecided(rows: Iterable[Mapping[str, Any]], answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """The rows of which no node has found anything yet."""
    decided = {item["row"] for answer in answers for item in answer.get("rows") or () if item["result"] != "missing"}
    return [dict(row) for row in rows if row["row"] not in decided]


def report(rows: Iterable[Mapping[str, Any]], nodes: Mapping[str, Iterable[Answer]]) -> dict[str, Any]:
    """Put together what all nodes said.

    Args:
        rows: As ``vmforge_backup_adopt_info`` returned them.
        nodes: Node -> what each of its ``vmforge_backup_adopt`` returned; empty for one that dropped out.

    Returns:
        ``rows`` for a table, ``adopted`` for ``vmforge_backup_adopt_record``, ``problems`` with ``node``, ``place`` and
        ``message``, and ``notes``.
    """
    silent = _silent(nodes)
    problems = [{"node": node, "place": node, "message": message} for node, message in silent.items()]
    notes = [f"{node} was not searched: {message}" for node, message in silent.items()]
    table: list[dict[str, Any]] = []
    adopted: list[dict[str, Any]] = []
    for row in rows:
        host, found = _best(row["row"], nodes)
        told = list(found.get("notes") or ())
        if found["result"] == "missing":
            told.append(_missing(nodes, silent))
        table.append(
            {
                "vm": row["vm_name"],
                "row": row["row"],
                "created_at": row["created_at"],
                "node": host,
                "result": found["result"],
                "id": found.get("id"),
                "copies": found.get("copies"),
            }
        )
        place = f"{row['vm_name']} row {row['row']}"
        notes += [f"{place}: {text}" for text in told]
        if found["result"] in _DONE:
            adopted.append(found)
        elif found["result"] != "planned":
            problems.append({"node": host, "place": place, "message": "; ".join(told)})
    return {"rows": table, "adopted": adopted, "problems": problems, "notes": notes}


def _best(row: int, nodes: Mapping[str, Iterable[Answer]]) -> tuple[str, dict[str, Any]]:
    """The host, as the inventory calls it, and what it said."""
    found = [
        (host, item)
        for host, answers in nodes.items()
        for answer in answers
        for item in answer.get("rows") or ()
        if item["row"] == row
    ]
    host, best = min(found, key=lambda told: _ORDER.index(told[1]["result"]), default=("-", {"result": "missing"}))
    return "-" if best["result"] == "missing" else host, dict(best)


def _silent(nodes: Mapping[str, Iterable[Answer]]) -> dict[str, str]:
    """Nodes of which something is not known, and why."""
    found: dict[str, str] = {}
    for node, answers in nodes.items():
        listed = [answer for answer in answers if not answer.get("skipped")]
        for answer in listed:
            if "rows" not in answer or answer.get("unreachable"):
                found.setdefault(node, reason(answer, "the node failed before it was asked; its error is further up"))
    return found


def _missing(nodes: Mapping[str, Iterable[Answer]], silent: Mapping[str, str]) -> str:
    searched = ", ".join(node for node in nodes if node not in silent) or "none"
    message = f"its image is on none of the nodes searched ({searched}), and not in the bucket if one was searched"
    return f"{message}; it may be on one that was not ({', '.join(silent)})" if silent else message
