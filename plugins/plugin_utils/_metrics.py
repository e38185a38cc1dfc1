# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus is told of a node's backups, as text for node_exporter. Pure; runs on the control node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_time

_GOOD = ("created", "uploaded", "fresh")
# Name -> type and help; in this order they are written.
_METRICS: Mapping[str, tuple[str, str]] = {
    "vm_info": ("gauge", "A virtual machine that is defined on this node; always 1."),
    "missing": ("gauge", "Whether it has no good backup at all."),
    "last_success_timestamp_seconds": ("gauge", "Of which moment its newest good backup is."),
    "last_success_size_bytes": ("gauge", "Bytes of all files of that backup."),
    "good": ("gauge", "How many good backups it has."),
    "stored_bytes": ("gauge", "Bytes of all of them."),
    "offsite_pending": ("gauge", "Backups whose copy in S3 is not complete."),
    "last_verified_timestamp_seconds": ("gauge", "When a backup of it was last verified, by level."),
    "last_verified_success": ("gauge", "Whether nothing was wrong then, by level."),
    "bad": ("gauge", "Backups of which some copy was found bad when it was last verified."),
    "last_attempt_timestamp_seconds": ("gauge", "When a backup was last tried."),
    "last_attempt_success": ("gauge", "Whether that one was made, or was not needed."),
    "last_attempt_duration_seconds": ("gauge", "How long it took."),
    "last_attempt_read_bytes": ("gauge", "Bytes that it read of the disks."),
    "last_attempt_stored_bytes": ("gauge", "Bytes that it stored."),
    "last_prune_timestamp_seconds": ("gauge", "When backups were last pruned on this node."),
    "last_prune_success": ("gauge", "Whether all that was to be deleted is gone."),
    "last_prune_deleted": ("gauge", "Backups that were deleted."),
    "updated_timestamp_seconds": ("gauge", "When this was written."),
}
_PREFIX = "vmforge_backup_"
_SAMPLE = re.compile(r"vmforge_backup_([a-z_]+)(?:\{(.*)\})? (\S+)\Z")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_ATTEMPT = ("timestamp_seconds", "success", "duration_seconds", "read_bytes", "stored_bytes")
_PRUNE = ("timestamp_seconds", "success", "deleted")

# Each proves all that the ones before it prove.
_LEVELS = ("manifest", "data", "boot")

# Metric -> labels -> value; the labels are "uuid" and "name", with "level" where it has one, or none.
Samples = dict[str, dict[tuple[str, ...], float]]
_NODE = ("", "")


def render(
    located: Iterable[Mapping[str, Any]],
    backups: Sequence[Mapping[str, Any]],
    *,
    now: float,
    attempts: Iterable[Mapping[str, Any]] = (),
    assigned: Iterable[str] = (),
    prune: Mapping[str, Any] | None = None,
    before: str = "",
) -> str:
    """Write all metrics of a node.

    Args:
        located: The node's virtual machines, each with ``uuid`` and ``name``, whether or not they have a backup.
        backups: All that the node has, as ``vmforge_backup_info`` returns them.
        now: The time, in seconds since 1970.
        attempts: What ``vmforge_backup`` returned for each machine in this run.
        assigned: UUIDs of what this run was to back up. What ``attempts`` do not tell of, failed.
        prune: ``success`` and ``deleted`` of a prune in this run.
        before: The file as it was: what this run does not tell anew of a machine that is still here, stays.
    """
    names = {vm["uuid"]: str(vm["name"]) for vm in located}
    samples: Samples = {name: {} for name in _METRICS}
    _keep(samples, _parse(before), names)
    for uuid, name in names.items():
        _describe(samples, (uuid, name), [entry for entry in backups if entry["vm"]["uuid"] == uuid])
    told = {attempt["vm"]["uuid"]: attempt for attempt in attempts}
    silent = [{"vm": {"uuid": uuid}, "result": "failed"} for uuid in assigned if uuid not in told]
    for attempt in [*told.values(), *silent]:
        if attempt["vm"]["uuid"] in names:
            _attempt(samples, (attempt["vm"]["uuid"], names[attempt["vm"]["uuid"]]), attempt, now)
    if prune is not None:
        for name, value in zip(_PRUNE, (now, bool(prune["success"]), prune["deleted"])):
            samples[f"last_prune_{name}"][_NODE] = float(value)
    samples["updated_timestamp_seconds"][_NODE] = now
    return "".join(_lines(samples))


def _describe(samples: Samples, label: tuple[str, str], entries: list[Mapping[str, Any]]) -> None:
    """What there is of one machine."""
    good = [entry for entry in entries if entry["status"] == "ready" and not entry.get("error")]
    newest = max(good, key=lambda entry: str(entry["id"]), default=None)
    samples["vm_info"][label] = 1
    samples["missing"][label] = newest is None
    if newest is not None:
        samples["last_success_timestamp_seconds"][label] = _seconds(newest["instant"])
        samples["last_success_size_bytes"][label] = newest["size_bytes"] or 0
    samples["good"][label] = len(good)
    samples["stored_bytes"][label] = sum(entry["size_bytes"] or 0 for entry in good)
    samples["offsite_pending"][label] = sum(bool(entry.get("offsite_pending")) for entry in entries)
    _verifications(samples, label, [_results(entry) for entry in good])


def _verifications(samples: Samples, label: tuple[str, str], backups: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """What was found out about its backups, each with its results."""
    # One that does not boot is as it was made all the same.
    wrong = [any(not result["ok"] and result["level"] != "boot" for result in results) for results in backups]
    samples["bad"][label] = sum(wrong)
    for rank, level in enumerate(_LEVELS):
        # What is good at a level is so at those below it.
        found = [
            (str(result["at"]), bool(result["ok"]))
            for results in backups
            for result in results
            if result["level"] == level or (result["ok"] and result["level"] in _LEVELS[rank:])
        ]
        if found:
            newest = max(at for at, _ok in found)
            samples["last_verified_timestamp_seconds"][(*label, level)] = _seconds(newest)
            samples["last_verified_success"][(*label, level)] = all(ok for at, ok in found if at == newest)


def _results(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of a file that somebody else may have written."""
    results = (entry.get("verified") or {}).get("results")
    return [
        result
        for result in (results if isinstance(results, list) else ())
        if isinstance(result, Mapping)
        and result.get("level") in _LEVELS
        and "ok" in result
        and _is_time(result.get("at"))
    ]


def _is_time(text: Any) -> bool:
    try:
        _seconds(text)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


def _attempt(samples: Samples, label: tuple[str, str], attempt: Mapping[str, Any], now: float) -> None:
    made = attempt["result"] in ("created", "uploaded")
    values = {
        "timestamp_seconds": now,
        "success": attempt["result"] in _GOOD,
        "duration_seconds": attempt.get("seconds") or 0,
        "read_bytes": attempt.get("bytes_read") or 0,
        "stored_bytes": attempt.get("size_bytes") or 0 if made else 0,
    }
    for name, value in values.items():
        samples[f"last_attempt_{name}"][label] = float(value)


def _keep(samples: Samples, old: Samples, names: Mapping[str, str]) -> None:
    for name in [f"last_attempt_{part}" for part in _ATTEMPT]:
        for (uuid, *_name), value in old.get(name, {}).items():
            if uuid in names:
                samples[name][uuid, names[uuid]] = value
    for name in [f"last_prune_{part}" for part in _PRUNE]:
        samples[name].update(old.get(name, {}))


def _parse(text: str) -> Samples:
    """The samples of a file that was written here; a line that is none of ours is no sample."""
    samples: Samples = {}
    for line in text.split("\n"):
        found = _SAMPLE.match(line)
        if found and found[1] in _METRICS:
            labels = dict(_LABEL.findall(found[2] or ""))
            try:
                samples.setdefault(found[1], {})[labels.get("uuid", ""), ""] = float(found[3])
            except ValueError:
                continue
    return samples


def _lines(samples: Samples) -> Iterable[str]:
    for name, (kind, text) in _METRICS.items():
        if samples[name]:
            yield f"# HELP {_PREFIX}{name} {text}\n# TYPE {_PREFIX}{name} {kind}\n"
            for label, value in sorted(samples[name].items()):
                pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in zip(("uuid", "name", "level"), label))
                labels = f"{{{pairs}}}" if label[0] else ""
                yield f"{_PREFIX}{name}{labels} {_number(value)}\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.3f}"


def _seconds(moment: str) -> float:
    return parse_time(moment).timestamp()
