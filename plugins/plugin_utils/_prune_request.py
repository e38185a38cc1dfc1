# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be pruned, from what all nodes and the bucket have. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_time
from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason, some

# What pruning needs of an entry of a listing: all of it is sent to every node that has the machine.
_NEEDED = (
    "vm",
    "id",
    "status",
    "instant",
    "size_bytes",
    "parent",
    "copies",
    "hold",
    "verified",
    "checksum_sha256",
    "s3_key",
    "offsite_place",
    "error",
)
BUCKET = "S3"
_LEFT_OUT = "it is not in this run; leave out --limit, or name it in vmforge_backup_ignore_nodes"
# As much as the nodes themselves let pass.
_CLOCKS_APART = timedelta(minutes=5)


def prune_request(
    listed: Mapping[str, Mapping[str, Any]],
    domains: Mapping[str, Mapping[str, Any]] | None = None,
    names: Mapping[str, str] | None = None,
    bucket: Mapping[str, Any] | None = None,
    wanted: Iterable[str] = (),
    ids: Iterable[str] = (),
    ignored: Iterable[str] = (),
    began: Mapping[str, str] | None = None,
    at: str = "",
) -> dict[str, Any]:
    """Put the listings together and find the virtual machines.

    Args:
        listed: Host -> what its ``vmforge_backup_info`` returned; empty for a host that is not in the play.
        domains: Host -> what its ``vmforge_vm_info`` returned.
        names: Host -> the name of its node, where that is another.
        bucket: The listing of the bucket; None or skipped if it was not asked.
        wanted: Names or UUIDs; empty means all.
        ids: Backups of the one wanted machine that are to be deleted.
        ignored: Hosts that are gone for good.
        began: Host -> the moment before it was listed, by the clock of the control node; and
        at: the moment when all were. Without them clocks are not compared.

    Returns:
        ``hosts`` (host -> node) that were listed, ``listings``, ``bucket``, ``missing``, ``vms``, ``known``, ``ids``,
        ``clocks`` (the places whose clocks are off), ``notes`` and ``problems``, each with ``node``, ``place`` and
        ``message``.
    """
    hosts = {host: (names or {}).get(host, host) for host, answer in listed.items() if _is_listed(answer)}
    wanted, ids = list(wanted), list(ids)
    asked = bool(bucket) and not (bucket or {}).get("skipped")
    silent = [host for host in listed if host not in {*hosts, *ignored}]
    problems = [_problem(host, host, listed[host]) for host in silent]
    if asked and not _is_listed(bucket):
        problems.append(_problem("-", BUCKET, bucket))
    missing = [problem["place"] for problem in problems]
    asked_all = {**{host: listed[host] for host in hosts}, **({BUCKET: bucket or {}} if asked else {})}
    off = _clocks(asked_all, began or {}, at)
    problems += off
    listings = [{"node": hosts[host], "backups": _slim(listed[host])} for host in hosts]
    in_bucket = _slim(bucket or {}) if asked else None
    machines = [vm for answer in (domains or {}).values() for vm in answer.get("vms") or ()]
    called = _names(listings, in_bucket or [], machines)
    chosen, refused = _choose(called, wanted, missing)
    problems += refused
    if ids and not refused:
        problems += _absent(
            chosen, ids, [*(entry for item in listings for entry in item["backups"]), *(in_bucket or [])]
        )
    return {
        "hosts": hosts,
        "listings": listings,
        "bucket": in_bucket,
        "missing": missing,
        "vms": [{"uuid": uuid, "name": min(called[uuid], default=uuid)} for uuid in chosen],
        "clocks": [problem["place"] for problem in off],
        "known": sorted({vm["uuid"] for vm in machines}),
        "notes": _notes(domains or {}, hosts),
        "ids": list(ids),
        "problems": problems,
    }


def prune_share(request: Mapping[str, Any], host: str, everything: bool = False) -> dict[str, Any]:
    """What one node has to know: all listings of the machines that it has something of, or of all machines.

    Returns:
        ``vm`` (UUIDs), ``listings`` and ``bucket``.
    """
    node = request["hosts"].get(host)
    chosen = {vm["uuid"] for vm in request["vms"]}
    lists = [*request["listings"], {"node": None, "backups": request["bucket"] or []}]
    if not everything:
        chosen &= {
            entry["vm"]["uuid"]
            for item in lists
            for entry in item["backups"]
            if node is not None and node in (item["node"], entry["vm"].get("node"))
        }
    listings = [dict(item, backups=_of(item["backups"], chosen)) for item in request["listings"]]
    bucket = None if request["bucket"] is None else _of(request["bucket"], chosen)
    return {"vm": sorted(chosen), "listings": listings, "bucket": bucket}


def _of(entries: Iterable[Mapping[str, Any]], uuids: Iterable[str]) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if entry["vm"]["uuid"] in uuids]


def _is_listed(answer: Mapping[str, Any] | None) -> bool:
    """A listing is complete or has no ``backups``; that of a node that went away afterwards is still one."""
    return bool(answer) and "backups" in (answer or {}) and not (answer or {}).get("unreachable")


def _problem(node: str, place: str, answer: Mapping[str, Any] | None) -> dict[str, str]:
    nothing = "it gave no answer" if answer else _LEFT_OUT
    return {"node": node, "vm": "-", "place": place, "message": f"could not be listed: {reason(answer or {}, nothing)}"}


def _clocks(answers: Mapping[str, Mapping[str, Any]], began: Mapping[str, str], at: str) -> list[dict[str, str]]:
    """Whose clock says what cannot have been while it was listed. What they would keep is not what others would."""
    problems = []
    for place, answer in answers.items():
        # The bucket is listed last.
        first = min(began.values(), default="") if place == BUCKET else began.get(place)
        if not (first and at and answer.get("time")):
            continue
        if not parse_time(first) - _CLOCKS_APART <= parse_time(answer["time"]) <= parse_time(at) + _CLOCKS_APART:
            message = (
                f"its clock said {answer['time']} when it was listed, which was between {first} and {at} by the "
                "clock of the control node. Set the clocks, with NTP for instance. Nothing was deleted anywhere."
            )
            node = "-" if place == BUCKET else place
            problems.append({"node": node, "vm": "-", "place": place, "message": message})
    return problems


def _slim(listing: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{name: entry.get(name) for name in _NEEDED} for entry in listing.get("backups") or ()]


def _names(
    listings: Iterable[Mapping[str, Any]], bucket: Iterable[Mapping[str, Any]], machines: Iterable[Mapping[str, Any]]
) -> dict[str, set[str]]:
    """The names of every machine that has a backup: those that backups record, and libvirt's own."""
    names: dict[str, set[str]] = {}
    for entry in [*(entry for listing in listings for entry in listing["backups"]), *bucket]:
        known = names.setdefault(entry["vm"]["uuid"], set())
        known.update([entry["vm"]["name"]] if entry["vm"].get("name") else [])
    for vm in machines:
        if vm["uuid"] in names:
            names[vm["uuid"]].add(vm["name"])
    return names


def _choose(
    names: Mapping[str, set[str]], wanted: Sequence[str], missing: Sequence[str]
) -> tuple[list[str], list[dict[str, str]]]:
    chosen: list[str] = []
    problems = []
    for text in wanted:
        found = sorted(uuid for uuid in names if text.lower() == uuid or text in names[uuid])
        if len(found) > 1:
            message = f"several virtual machines are called so: {', '.join(found)}; ask for one by its UUID"
            problems.append({"node": "-", "vm": text, "place": text, "message": message})
        elif not found:
            message = "has no backup" + (f" on what was listed, which {', '.join(missing)} was not" if missing else "")
            message += f". There are backups of {some(min(called, default=uuid) for uuid, called in names.items())}"
            problems.append({"node": "-", "vm": text, "place": text, "message": message})
        else:
            chosen += found
    return (sorted(names) if not wanted else list(dict.fromkeys(chosen))), problems


def _absent(chosen: Sequence[str], ids: Iterable[str], entries: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    if len(chosen) != 1:
        message = "a backup is named by one virtual machine and its id: set vm and id"
        return [{"node": "-", "vm": "-", "place": "vm", "message": message}]
    there = {entry["id"] for entry in entries if entry["vm"]["uuid"] == chosen[0] and entry["status"] != "failed"}
    message = f"there is no such backup. There are {some(sorted(there, reverse=True))}"
    return [
        {"node": "-", "vm": chosen[0], "place": backup_id, "message": message}
        for backup_id in ids
        if backup_id not in there
    ]


def _notes(domains: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> list[str]:
    """A libvirt that does not answer only lets more be kept."""
    return [
        f"libvirt on {host} did not answer, and what only it has is kept: {reason(domains[host], 'it said nothing')}"
        for host in hosts
        if domains.get(host) and "vms" not in domains[host]
    ]
