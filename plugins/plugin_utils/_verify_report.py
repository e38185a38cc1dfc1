# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all nodes found out about their backups, and which host restores one. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason

# Results that are as they should be; a copy that was mended is told, for somebody should find out why.
GOOD = ("good", "gone", "elsewhere", "planned")


def verify_report(nodes: Mapping[str, Mapping[str, Any]], wanted: Iterable[str] = ()) -> dict[str, Any]:
    """Put together what all nodes found.

    Args:
        nodes: Node -> what its ``vmforge_backup_verify`` returned; empty for one that dropped out.
        wanted: The machines that were asked for.

    Returns:
        ``rows`` for the table and for programs, ``problems``: each with ``node``, ``place`` and ``message``, ``notes``.
    """
    rows = [_row(node, entry) for node, answer in nodes.items() for entry in answer.get("backups") or ()]
    rows.sort(key=lambda row: (row["vm_name"], row["id"]))
    problems = [
        {"node": row["node_name"], "place": f"{row['vm_name']} {row['id']}", "message": row["message"] or row["result"]}
        for row in rows
        if row["result"] not in GOOD
    ]
    silent = [(node, answer) for node, answer in nodes.items() if "backups" not in answer or answer.get("unreachable")]
    problems += [{"node": node, "place": node, "message": _silence(answer)} for node, answer in silent]
    answers = [answer for answer in nodes.values() if "backups" in answer]
    missing = [name for name in wanted if answers and all(name in answer.get("not_found", ()) for answer in answers)]
    problems += [{"node": "-", "place": name, "message": "no node has a backup of it"} for name in missing]
    return {"rows": rows, "problems": problems, "notes": [f"{item['place']}: {item['message']}" for item in problems]}


def restore_host(
    hosts: Sequence[str],
    vm: str,
    located: Mapping[str, Mapping[str, Any]],
    listed: Mapping[str, Mapping[str, Any]],
) -> str:
    """The host that restores a machine: where it runs, else where it is defined, else where its newest backup lies.

    Args:
        hosts: All that may.
        vm: A name or a UUID.
        located: Host -> what its ``vmforge_vm_info`` returned.
        listed: Host -> what its ``vmforge_backup_info`` returned.
    """
    homes = [
        (bool(machine["active"]), host)
        for host in hosts
        for machine in located.get(host, {}).get("vms") or ()
        if vm in (machine["name"], machine["uuid"])
    ]
    if homes:
        return max(homes, key=lambda home: home[0])[1]
    newest = [(entry["id"], host) for host in hosts for entry in listed.get(host, {}).get("backups") or ()]
    return max(newest, key=lambda item: str(item[0]))[1] if newest else hosts[0]


def _row(node: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    # What was only planned read nothing, which is not known to be 0.
    unknown = {"bytes_read": None, "seconds": None} if entry["result"] == "planned" else {}
    return {**entry, **unknown, "vm_name": entry["vm"].get("name") or entry["vm"]["uuid"], "node_name": node}


def _silence(answer: Mapping[str, Any]) -> str:
    nothing = "it gave no answer" if answer else "the node failed before it was asked; its error is further up"
    return reason(answer, nothing)
