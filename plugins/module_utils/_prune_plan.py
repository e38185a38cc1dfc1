# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pruning does with each VM, from the listings of all nodes and of the bucket. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import Backup
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, PolicyError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, parse_id, parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._retention import PrunePlan, plan_deletion, plan_prune
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import is_over

Entry = Mapping[str, Any]
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=timezone.utc), datetime(9998, 1, 1, tzinfo=timezone.utc)


@dataclass
class VmListing:
    """Everything that was listed of one VM.

    Attributes:
        name: As its newest backup calls it.
        names: As any backup of it does.
        listed_by: Nodes that have anything of it.
        ready: Complete backups by (id, node); one that several listings show is one.
        unfinished: What is partial or being deleted, with the name of the node that listed it; None for the bucket.
        in_bucket: Ids of all that the bucket has anything of; None where it was not listed.
    """

    uuid: str
    name: str = ""
    names: set[str] = field(default_factory=set)
    listed_by: set[str] = field(default_factory=set)
    ready: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    unfinished: list[tuple[str | None, Entry]] = field(default_factory=list)
    in_bucket: set[str] | None = None

    def backups(self, *, now: datetime) -> list[Backup]:
        """As retention sees them."""
        sums: dict[str, set[str]] = {}
        for (backup_id, _node), entry in self.ready.items():
            sums.setdefault(backup_id, set()).update(entry["sums"])
        return [_backup(entry, now, sums) for entry in self.ready.values()]


@dataclass(frozen=True)
class Case:
    """What is decided for one VM.

    Attributes:
        plan: None where nothing may be pruned; then ``code`` and ``message`` say why.
        policy: None where there is no sound one.
    """

    listing: VmListing
    policy: Policy | None = None
    plan: PrunePlan | None = None
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Fleet:
    """What is known of all nodes.

    Attributes:
        vms: By UUID.
        nodes: Those that were listed.
        missing: Those that could not be.
        ignored: Those that are gone for good.
    """

    vms: Mapping[str, VmListing]
    nodes: frozenset[str]
    missing: frozenset[str]
    ignored: frozenset[str]

    def strangers(self, listing: VmListing) -> list[str]:
        """Nodes that made backups of a VM and were not listed, so what else they have of it is not known."""
        return sorted({node for _id, node in listing.ready} - self.nodes - self.ignored)

    def decide(self, listing: VmListing, policy: Policy | VMForgeError, *, known: bool, now: datetime) -> Case:
        """Decide for one VM.

        Args:
            policy: Or why there is none.
            known: Whether libvirt or the panel has this VM.
        """
        if isinstance(policy, VMForgeError):
            return Case(listing, code=policy.code, message=policy.message)
        lacking = sorted(self.missing - self.ignored)
        if lacking:
            return Case(
                listing,
                policy,
                code="missing_node",
                message=f"Nothing was pruned, for {', '.join(lacking)} could not be listed and may have backups of it.",
            )
        strange = self.strangers(listing)
        if strange:
            return Case(
                listing,
                policy,
                code="missing_node",
                message=f"Nothing was pruned, for it has backups of {', '.join(strange)}, which was not listed. If "
                "that node is gone for good, name it in ignore_nodes (with the playbook: vmforge_backup_ignore_nodes).",
            )
        if not known:
            return Case(
                listing,
                policy,
                code="unknown_vm",
                message="All its backups are kept, for neither libvirt on any node nor the panel has this VM any more. "
                "Delete them one by one if they are not needed.",
            )
        try:
            return Case(listing, policy, plan_prune(listing.backups(now=now), policy, now=now))
        except PolicyError as error:
            return Case(listing, code=error.code, message=error.message)


def decide_named(listing: VmListing, ids: Collection[str], *, now: datetime) -> Case:
    """Delete what a person named: no policy, no listing of all nodes and nobody who knows the VM is needed for that."""
    try:
        return Case(listing, plan=plan_deletion(listing.backups(now=now), ids))
    except InputError as error:
        return Case(listing, code=error.code, message=error.message)


def gather(
    listings: Iterable[Mapping[str, Any]],
    bucket: Sequence[Entry] | None,
    *,
    missing: Iterable[str],
    ignored: Iterable[str],
    place: S3Config | None = None,
) -> Fleet:
    """Put all listings together.

    Args:
        listings: Each with ``node`` and ``backups``.
        bucket: What the bucket has; None where it was not listed.
        place: Which bucket that is; None where it does not matter, for no copy in S3 is deleted.

    Raises:
        InputError: A listing is malformed: nothing may be decided from it.
    """
    vms: dict[str, VmListing] = {}
    nodes: list[str] = []
    try:
        for listing in listings:
            nodes.append(listing["node"])
            for entry in listing["backups"]:
                _add(vms, entry, listing["node"], bucket is not None, place)
        for entry in bucket or ():
            _add(vms, entry, None, True, place)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"listings or bucket hold what is no listing: {type(error).__name__} {error}.") from error
    twice = sorted({node for node in nodes if nodes.count(node) > 1})
    if twice:
        raise InputError(f"listings hold {', '.join(twice)} twice. Two nodes of one name cannot be told apart.")
    for vm in vms.values():
        _settle(vm)
    return Fleet(vms, frozenset(nodes), frozenset(missing), frozenset(ignored))


def _add(vms: dict[str, VmListing], entry: Entry, node: str | None, has_bucket: bool, place: S3Config | None) -> None:
    uuid, backup_id, status = entry["vm"]["uuid"], entry["id"], entry["status"]
    parse_id(backup_id)
    if canonical_uuid(uuid) != uuid:
        raise ValueError(f"the UUID {uuid!r}")
    if uuid not in vms:
        vms[uuid] = VmListing(uuid, in_bucket=set() if has_bucket else None)
    vm = vms[uuid]
    vm.names.update([entry["vm"]["name"]] if entry["vm"].get("name") else [])
    if node is not None:
        vm.listed_by.add(node)
    elif vm.in_bucket is not None:
        vm.in_bucket.add(backup_id)
    if status in ("partial", "deleting"):
        vm.unfinished.append((node, entry))
    elif status == "ready":
        key = (backup_id, str(entry["vm"]["node"]))
        known = vm.ready.setdefault(key, {**entry, "copies": [], "holds": [], "checks": [], "sums": set()})
        # A node tells what it uploaded; what the bucket has is known from the bucket, where that was listed.
        seen = [copy for copy in entry["copies"] if node is None or copy != "s3" or not has_bucket]
        known["copies"] += [copy for copy in seen if copy not in known["copies"]]
        known["elsewhere"] = known.get("elsewhere") or (_elsewhere(entry, place) if has_bucket else None)
        known["holds"] += [entry["hold"]] if entry.get("hold") else []
        known["checks"] += [entry["verified"]] if entry.get("verified") else []
        known["local"] = known.get("local", False) or node == entry["vm"]["node"]
        known["sums"].add(entry["checksum_sha256"])
        known["s3_key"] = entry.get("s3_key") or known.get("s3_key")
        known["error"] = entry.get("error") or known.get("error")
    elif status != "failed":
        raise ValueError(f"the status {status!r}")


def _elsewhere(entry: Entry, place: S3Config | None) -> str | None:
    """Where its copy in S3 lies, if that is not the bucket that was listed: nobody knows whether it is still there."""
    noted = entry.get("offsite_place")
    if place is None or not noted or "s3" not in entry["copies"]:
        return None
    if place.is_place_of(noted, entry["vm"]["uuid"], entry["id"]):
        return None
    return f"{noted.get('prefix')!r} in bucket {noted.get('bucket')!r} at {noted.get('endpoint') or 'AWS'}"


def _settle(vm: VmListing) -> None:
    # A deletion that was begun will be finished, so what the bucket still has of it is no backup to count on.
    begun = {str(entry["id"]) for node, entry in vm.unfinished if node is not None and entry["status"] == "deleting"}
    vm.ready = {key: entry for key, entry in vm.ready.items() if key[0] not in begun}
    newest = max(vm.ready.values(), key=lambda entry: str(entry["id"]), default=None)
    names = [entry["vm"]["name"] for _node, entry in vm.unfinished if entry["vm"].get("name")]
    vm.name = str(newest["vm"]["name"] if newest is not None else names[-1] if names else vm.uuid)


def _backup(entry: Entry, now: datetime, sums: Mapping[str, Collection[str]]) -> Backup:
    instant, flaw = _instant(entry)
    parent = entry.get("parent")
    hold = _hold(entry["holds"], now)
    if entry["elsewhere"] and not entry["copies"]:
        # Not to be counted on, and not to be deleted either.
        flaw = hold = f"its only copy lies where nobody looked, at {entry['elsewhere']}"
    wanted = parent.get("manifest_sha256") if parent else None
    if parent and wanted and wanted not in sums.get(parent["id"], (wanted,)):
        flaw = flaw or f"its parent {parent['id']} is not the one that it was made on"
    return Backup(
        id=entry["id"],
        node=str(entry["vm"]["node"]),
        instant=instant,
        size=int(entry.get("size_bytes") or 0),
        flaw=flaw or _flaw(entry),
        hold=hold,
        parent=parent["id"] if parent else None,
    )


def _instant(entry: Entry) -> tuple[datetime, str | None]:
    """The moment of its contents; that of its id where it has none that can be."""
    try:
        moment = parse_time(entry["instant"])
        if _EARLIEST < moment < _LATEST:
            return moment, None
    except (ValueError, TypeError, AttributeError):
        pass
    return parse_id(entry["id"]), f"its instant {entry['instant']!r} is no time"


def _flaw(entry: Entry) -> str | None:
    if len(entry["sums"]) > 1:
        return "its copies have different manifests"
    if not entry["copies"]:
        return str(entry.get("error") or "no copy of its disks is left")
    if not entry["checks"]:
        return None
    bad = {copy: why for copy, why in _failed_checks(entry).items() if why}
    if all(copy in bad for copy in entry["copies"]):
        return f"verified as bad: {next(iter(bad.values()))}"
    return None


def _failed_checks(entry: Entry) -> dict[str, str | None]:
    """For each copy what its last verification complained of; None when it was good."""
    found: dict[str, tuple[str, str | None]] = {}
    for check in entry["checks"]:
        if check.get("manifest_sha256") not in entry["sums"]:
            # Of other content.
            continue
        for result in check.get("results") or ():
            if result.get("level") == "boot":
                # It is as it was made. That it did not boot may be the fault of this host, or of this day.
                continue
            at, why = str(result.get("at")), None if result.get("ok") else str(result.get("detail") or "unknown")
            if at >= found.get(result.get("copy"), ("", None))[0]:
                found[result.get("copy")] = (at, why)
    return {copy: why for copy, (_at, why) in found.items()}


def _hold(holds: Iterable[Mapping[str, Any]], now: datetime) -> str | None:
    for hold in holds:
        if not is_over(hold, now):
            until = hold.get("until")
            return f"{hold.get('reason') or 'no reason given'}" + (f", until {until}" if until else "")
    return None
