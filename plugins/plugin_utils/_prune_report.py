# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a pruning: a row for each virtual machine and one for each backup. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason
from ansible_collections.vmforge.backup.plugins.plugin_utils._node_names import hosts_by_node
from ansible_collections.vmforge.backup.plugins.plugin_utils._prune_request import BUCKET

_GOOD = ("pruned", "planned", "unchanged", "unknown")
_GONE = ("deleted", "planned")
# What several hosts say of one thing becomes the first of these that one of them says.
_VM_ORDER = ("failed", "confirm", "skipped", "unknown", "pruned", "planned", "unchanged")
_BACKUP_ORDER = (
    "failed",
    "locked",
    "held",
    "refused",
    "waiting",
    "planned",
    "deleted",
    "kept",
    "elsewhere",
)


def prune_report(
    request: Mapping[str, Any],
    done: Mapping[str, Mapping[str, Any]],
    bucket: Mapping[str, Any] | None = None,
    policies: Mapping[str, Any] | None = None,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Put together what all nodes did.

    Args:
        request: Of :func:`prune_request`.
        done: Host -> what its ``vmforge_backup_prune`` returned; empty or skipped for one that had nothing to do.
        bucket: The same for the bucket, where that is pruned by itself.
        policies: What ``vmforge_backup_policy_info`` returned.
        check_mode: What would be deleted counts as deleted, and to need a person's word is no problem yet.

    Returns:
        ``vms`` and ``backups``: rows, of what was named alone where that is to be deleted; ``problems``, each with
        ``node``, ``place`` and ``message``; ``notes``.
    """
    problems = [dict(problem) for problem in request["problems"]]
    if policies and "policies" not in policies and not policies.get("skipped"):
        message = f"the policies are not known: {reason(policies, 'no answer')}"
        problems.append({"node": "-", "vm": "-", "place": "policies", "message": message})
    told: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    notes: list[str] = list(request["notes"])
    for place, answer in [*done.items(), (BUCKET, bucket or {})]:
        if "vms" in answer:
            notes += [f"{place}: removed from S3: {text}" for text in answer.get("reaped") or ()]
        elif answer and not answer.get("skipped"):
            node = "-" if place == BUCKET else place
            problems.append({"node": node, "vm": "-", "place": place, "message": reason(answer, "no answer")})
        for vm in answer.get("vms") or ():
            told.setdefault(vm["vm"]["uuid"], []).append((place, vm))
    names = {vm["uuid"]: vm["name"] for vm in request["vms"]}
    missing = [problem for problem in request["problems"] if problem["place"] in request["missing"]]
    good = (*_GOOD, "confirm") if check_mode else _GOOD
    named, hosts = request["ids"], hosts_by_node(request["hosts"])
    rows, backups = [], []
    for uuid in sorted(told, key=lambda uuid: (names.get(uuid, uuid), uuid)):
        row, of_vm = _vm_rows(uuid, told[uuid])
        rows.append(row)
        of_vm = [
            dict(item, node=hosts.get(item["node"], item["node"])) for item in of_vm if not named or item["id"] in named
        ]
        backups += of_vm
        problems += [_stranded(item) for item in of_vm if named and item["result"] == "elsewhere"]
        problems += _vm_problems(told[uuid], good, several=bool(missing))
        notes += [f"{row['vm']}: {row['message']}"] if row["result"] in good and row["message"] else []
        notes += [
            f"{item['vm']} {item['id']}: {item['message']}"
            for item in of_vm
            if item["result"] in ("locked", "held", "waiting") and item["message"]
        ]
        notes += [] if named else _rule_notes(row)
    told_of = {item["id"] for item in backups}
    problems += [_stranded({"vm": "-", "id": i}) for i in named if not problems and i not in told_of]
    notes += [_sentence(problem) for problem in problems]
    return {"vms": rows, "backups": backups, "problems": problems, "notes": notes}


def _vm_rows(uuid: str, told: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    answers = list(told)
    worst = min((vm for _place, vm in answers), key=lambda vm: _VM_ORDER.index(vm["result"]))
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for _place, vm in answers:
        for backup in vm["backups"]:
            key = (backup["id"], backup["node"])
            row = dict(backup, vm=vm["vm"]["name"], uuid=uuid)
            merged[key] = min(merged.get(key, row), row, key=lambda row: _BACKUP_ORDER.index(row["result"]))
    backups = sorted(merged.values(), key=lambda row: (row["id"], row["node"]), reverse=True)
    gone = [row for row in backups if row["result"] in _GONE]
    stays = [row for row in backups if row["result"] not in _GONE]
    return {
        "vm": worst["vm"]["name"],
        "uuid": uuid,
        "nodes": sorted({place for place, _vm in answers}),
        "result": worst["result"],
        "message": worst["message"],
        "kept": len(stays),
        "kept_bytes": sum(row["size_bytes"] for row in stays),
        "deleted": len(gone),
        "deleted_bytes": sum(row["size_bytes"] for row in gone),
        "cleared": [text for _place, vm in answers for text in vm["cleared"]],
        "rules": worst["rules"],
    }, backups


def _vm_problems(
    told: Iterable[tuple[str, Mapping[str, Any]]], good: Iterable[str], *, several: bool
) -> list[dict[str, str]]:
    """One for each place where a machine failed; a missing listing, which stops all of them, is told once."""
    return [
        {
            "node": "-" if place == BUCKET else place,
            "vm": vm["vm"]["name"],
            "place": f"{vm['vm']['name']} on {place}",
            "message": str(vm["message"]),
        }
        for place, vm in told
        if vm["result"] not in good and not (vm["code"] == "missing_node" and several)
    ]


def _stranded(row: Mapping[str, Any]) -> dict[str, str]:
    """What was named, and is of a node that was not in the run, is nobody's to delete."""
    message = (
        f"it is of {row.get('node', 'a node')}, which is not in this run. If that node is gone for good, name it in "
        "vmforge_backup_ignore_nodes"
    )
    return {"node": "-", "vm": row["vm"], "place": f"{row['vm']} {row['id']}", "message": message}


def _rule_notes(row: Mapping[str, Any]) -> list[str]:
    if not row["rules"]:
        return []
    totals = (f"{rule} {total['count']} ({_gib(total['bytes'])})" for rule, total in row["rules"].items())
    return [f"{row['vm']} keeps by rule: {', '.join(totals)}"]


def _gib(count: float) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def _sentence(problem: Mapping[str, str]) -> str:
    text = problem["message"]
    joint = " " if text.startswith(("could not", "has no", "there is", "several")) else ": "
    return f"{problem['place']}{joint}{text}"
