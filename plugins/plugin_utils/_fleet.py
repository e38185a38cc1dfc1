# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which node backs up which virtual machine, from what all nodes said of theirs. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid
from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason

UNREACHABLE = "unreachable"
FAILED = "failed"


@dataclass(frozen=True)
class Found:
    """One domain on one node."""

    node: str
    name: str
    uuid: str
    active: bool


@dataclass
class Assignment:
    """The decision.

    Attributes:
        here: Node -> UUIDs of what it backs up, in the order asked for.
        names: UUID -> name.
        searched: Nodes that answered.
        silent: Nodes that did not: ``node``, ``result`` (``unreachable`` or ``failed``) and ``message``.
        refused: Virtual machines that no node backs up: ``vm``, ``node``, ``result`` and ``message``.
        skipped: Stopped definitions of a machine that runs on another node: the same keys.
    """

    here: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    searched: list[str] = field(default_factory=list)
    silent: list[dict[str, str]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def as_values(self) -> dict[str, Any]:
        """As plain values, for a playbook."""
        return asdict(self)


def assign(located: Mapping[str, Mapping[str, Any]], wanted: Iterable[str]) -> Assignment:
    """Decide what each node backs up.

    A machine that several nodes define under one UUID (moved without removing the old definition) is backed up where
    it runs: read as a stopped one elsewhere, its disks would change under the reader.

    Args:
        located: Node -> what its ``vmforge_vm_info`` returned; empty for a node that has not been asked.
        wanted: Names or UUIDs; none means all.
    """
    assignment = Assignment()
    found: list[Found] = []
    for node, answer in located.items():
        if "vms" in answer:
            assignment.searched.append(node)
            found += [Found(node, vm["name"], vm["uuid"], bool(vm["active"])) for vm in answer["vms"]]
        elif answer:
            assignment.silent.append(_silence(node, answer))
    assignment.names = {item.uuid: item.name for item in found}
    places: dict[str, list[Found]] = {}
    for item in found:
        places.setdefault(item.uuid, []).append(item)
    for uuid in _resolve(assignment, found, list(wanted)):
        _place(assignment, places[uuid])
    return assignment


def _silence(node: str, answer: Mapping[str, Any]) -> dict[str, str]:
    result = UNREACHABLE if answer.get("unreachable") else FAILED
    return {"node": node, "result": result, "message": reason(answer, "it gave no answer")}


def _resolve(assignment: Assignment, found: list[Found], wanted: list[str]) -> list[str]:
    """UUIDs of what was asked for, each once; what is on no node, or means several machines, is refused."""
    if not wanted:
        return list(dict.fromkeys(item.uuid for item in found))
    uuids: dict[str, None] = {}
    for text in wanted:
        matches = [item for item in found if item.name == text or item.uuid == canonical_uuid(text)]
        different = dict.fromkeys(item.uuid for item in matches)
        if not matches:
            assignment.refused.append(_refusal(text, "not found", _not_found(assignment, text)))
        elif len(different) > 1:
            assignment.refused.append(_refusal(text, "ambiguous", _ambiguous(text, matches)))
        else:
            uuids.update(different)
    return list(uuids)


def _place(assignment: Assignment, places: list[Found]) -> None:
    running = [item for item in places if item.active]
    for item in running or places:
        assignment.here.setdefault(item.node, []).append(item.uuid)
    if not running:
        return
    where = ", ".join(item.node for item in running)
    for item in places:
        if not item.active:
            message = f"{item.name} is defined on {item.node} as well, but runs on {where} and is backed up there"
            assignment.skipped.append(dict(_refusal(item.name, "skipped", message), node=item.node))


def _refusal(vm: str, result: str, message: str) -> dict[str, str]:
    return {"vm": vm, "node": "-", "result": result, "message": message}


def _not_found(assignment: Assignment, text: str) -> str:
    if not assignment.searched:
        return f"{text} could not be looked for: no node answered"
    message = f"{text} is on none of the nodes searched ({', '.join(assignment.searched)})"
    if assignment.silent:
        silent = ", ".join(item["node"] for item in assignment.silent)
        message += f"; it may be on one that did not answer ({silent})"
    return message


def _ambiguous(text: str, matches: list[Found]) -> str:
    places = ", ".join(f"{item.uuid} on {item.node}" for item in matches)
    return f"{text} means different virtual machines ({places}); ask for one by its UUID"
