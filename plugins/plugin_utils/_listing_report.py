# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One list of what all nodes and the bucket have. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason
from ansible_collections.vmforge.backup.plugins.plugin_utils._node_names import hosts_by_node

# UUID, id, node and whether it is a failed attempt, which leaves its id free.
Key = tuple[str, str, str, bool]
# A backup is what its best copy is: one that is ready here and half uploaded there is ready.
_STATUS_ORDER = ("ready", "deleting", "partial", "failed")
BUCKET = "S3"


def listing(
    nodes: Mapping[str, Mapping[str, Any]],
    bucket: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    latest: bool = False,
) -> dict[str, Any]:
    """Merge the lists of all nodes and that of the bucket.

    Args:
        nodes: Node -> what its ``vmforge_backup_info`` returned; empty for one that dropped out.
        bucket: The same for S3; None, empty or skipped if it was not asked.
        names: Host -> what its backups call it, where that was set.
        latest: Keep of each machine the newest that is ready, and nothing else.

    Returns:
        ``backups``, newest first: as the module returns them, and ``vm_name``, ``vm_uuid``, ``node``, ``node_name`` (as
        the inventory calls it) and ``state``, the status with what verifications and holds add to it. ``namesakes``:
        whether one name stands for several machines. ``problems``: each with ``node``, ``place`` and ``message``.
        ``notes``.
    """
    merged: dict[Key, dict[str, Any]] = {}
    problems: list[dict[str, str]] = []
    for node, answer in nodes.items():
        problems += _problems(answer, node, node)
        for entry in answer.get("backups") or ():
            _add(merged, entry, node)
    if bucket and not bucket.get("skipped"):
        problems += _problems(bucket, "-", BUCKET)
        listed = [(_add(merged, entry, "-"), entry) for entry in bucket.get("backups") or ()]
        if "backups" in bucket:
            _correct(merged, {key for key, entry in listed if "s3" in entry["copies"]})
    backups = sorted(merged.values(), key=lambda entry: (entry["id"], entry["vm"]["uuid"]), reverse=True)
    _fill_names(backups)
    backups = _latest(backups) if latest else backups
    hosts = hosts_by_node({host: (names or {}).get(host) for host in nodes})
    for entry in backups:
        entry["node_name"] = hosts.get(entry["node"], entry["node"])
    notes = [f"{problem['place']} could not be listed: {problem['message']}" for problem in problems]
    notes += [
        f"{entry['vm_name']} {entry['id']} on {entry['node_name']}: {entry['error']}"
        for entry in backups
        if entry["error"]
    ]
    for entry in backups:
        told = [("bad " + copy, why) for copy, why in _bad_copies(entry).items()]
        told += [("held", entry["hold"].get("reason"))] if entry.get("hold") else []
        entry["state"] = ", ".join([entry["status"], *(word for word, _why in told)])
        notes += [f"{entry['vm_name']} {entry['id']}: {word}: {why or 'no reason given'}" for word, why in told]
    machines = {(entry["vm_name"], entry["vm_uuid"]) for entry in backups}
    namesakes = len({name for name, _uuid in machines}) < len(machines)
    return {"backups": backups, "namesakes": namesakes, "problems": problems, "notes": notes}


def _problems(answer: Mapping[str, Any], node: str, place: str) -> list[dict[str, str]]:
    """Why a list cannot be relied on; a listing is complete or has no ``backups``."""
    if "backups" in answer and not answer.get("unreachable"):
        return []
    nothing = "it gave no answer" if answer else "the node failed before it was asked; its error is further up"
    return [{"node": node, "place": place, "message": reason(answer, nothing)}]


def _add(merged: dict[Key, dict[str, Any]], entry: Mapping[str, Any], listed_by: str) -> Key:
    """Put an entry in, and tell where; the same backup listed twice becomes one with the copies of both."""
    uuid, backup_id, failed = entry["vm"]["uuid"], entry["id"], entry["status"] == "failed"
    node = entry["vm"].get("node")
    if node is None and listed_by == "-":
        # Half an upload does not say whose it is; the node that makes it has it under the same id.
        node = next((key[2] for key in merged if (key[0], key[1], key[3]) == (uuid, backup_id, failed)), None)
    key = (uuid, backup_id, node or listed_by, failed)
    new = dict(entry, node=key[2])
    merged[key] = _merge(merged[key], new) if key in merged else new
    return key


def _merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    better, worse = sorted((one, other), key=lambda item: _STATUS_ORDER.index(item["status"]))
    if better["status"] != worse["status"]:
        return better
    copies = [*better["copies"], *(copy for copy in worse["copies"] if copy not in better["copies"])]
    more = {name: better.get(name) or worse.get(name) for name in ("path", "s3_key", "hold", "verified", "error")}
    return dict(better, copies=copies, chain_local=better["chain_local"] or worse["chain_local"], **more)


def _bad_copies(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What verifications complained of, by copy; what a later one has cleared is not on record any more."""
    results = (entry.get("verified") or {}).get("results") or ()
    bad = {result["copy"]: result.get("detail") for result in results if not result["ok"]}
    return {copy: bad[copy] for copy in entry["copies"] if copy in bad}


def _correct(merged: Mapping[Key, dict[str, Any]], stored: set[Key]) -> None:
    """A node remembers what it uploaded; the bucket was looked at just now."""
    for key, entry in merged.items():
        if entry["status"] == "ready" and "s3" in entry["copies"] and key not in stored:
            error = "Its copy in S3, which the node uploaded, is not in the bucket any more."
            entry.update(copies=[copy for copy in entry["copies"] if copy != "s3"], s3_key=None, error=error)


def _latest(newest_first: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in newest_first:
        if entry["status"] == "ready":
            found.setdefault(entry["vm_uuid"], entry)
    return list(found.values())


def _fill_names(backups: Iterable[dict[str, Any]]) -> None:
    """What has no manifest does not know the name of its machine: another backup of it does."""
    names = {entry["vm"]["uuid"]: entry["vm"]["name"] for entry in backups if entry["vm"].get("name")}
    for entry in backups:
        entry["vm_uuid"] = entry["vm"]["uuid"]
        entry["vm_name"] = entry["vm"].get("name") or names.get(entry["vm_uuid"]) or entry["vm_uuid"]
