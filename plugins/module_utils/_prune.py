# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_prune``: decide for every VM from all listings, then delete what is this node's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._deps import need
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    InputError,
    PolicyError,
    S3Error,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._find_backups import open_store
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._prune_bucket import BucketPrune, Reaper
from ansible_collections.vmforge.backup.plugins.module_utils._prune_node import NodePrune
from ansible_collections.vmforge.backup.plugins.module_utils._prune_options import PruneOptions
from ansible_collections.vmforge.backup.plugins.module_utils._prune_plan import (
    Case,
    Fleet,
    VmListing,
    decide_named,
    gather,
)
from ansible_collections.vmforge.backup.plugins.module_utils._prune_result import PruneResult
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store


def prune_backups(request: Request) -> Outcome:
    """Prune every VM that this node has backups of, or in the bucket every VM.

    Raises:
        VMForgeError: The request itself cannot be carried out; nothing was touched.
    """
    options = PruneOptions.from_params(request.params)
    fleet = gather(options.listings, options.bucket, missing=options.missing, ignored=options.ignored, place=options.s3)
    wanted, not_found = _wanted(fleet, options.vms)
    now = options.at
    if options.scope != "s3":
        BackupDirectory(options.backup_dir).check()
    with open_store(options.s3) as store:
        here = {options.node} | (options.ignored if options.takes_over else frozenset())
        mine = [vm for vm in wanted if options.scope == "s3" or here & _nodes_of(vm)]
        cases = _decide(options, fleet, mine, now=now)
        results, gone = _run(options, cases, store, now=now, check_mode=request.check_mode)
        reaped, problem = _reap(options, fleet, wanted, store, now=now, check_mode=request.check_mode)
    return _outcome(results, gone, reaped, not_found, problem)


def _wanted(fleet: Fleet, names: Sequence[str]) -> tuple[list[VmListing], list[str]]:
    """The VMs that were asked for, by UUID or by a name that a backup of theirs has; and those that nobody has."""
    if not names:
        return [fleet.vms[uuid] for uuid in sorted(fleet.vms)], []
    found: dict[str, VmListing] = {}
    not_found = []
    for name in names:
        uuid = canonical_uuid(name)
        matches = [vm for vm in fleet.vms.values() if vm.uuid == uuid or name in vm.names]
        if len(matches) > 1:
            which = ", ".join(sorted(vm.uuid for vm in matches))
            raise InputError(f"There are backups of several VMs called {name!r}: {which}. Ask for one by its UUID.")
        found.update((vm.uuid, vm) for vm in matches)
        not_found += [] if matches else [name]
    return list(found.values()), not_found


def _decide(options: PruneOptions, fleet: Fleet, vms: Sequence[VmListing], *, now: datetime) -> list[Case]:
    if options.ids:
        return [decide_named(vm, options.ids, now=now) for vm in vms]
    known = _known(options, vms)
    policies = {vm.uuid: _read_policy(options.policies, options.problems, vm.uuid) for vm in vms}
    return [fleet.decide(vm, policies[vm.uuid], known=vm.uuid in known, now=now) for vm in vms]


def _read_policy(policies: Mapping[str, Any], problems: Mapping[str, Any], uuid: str) -> Policy | VMForgeError:
    """The policy of a VM, or why there is none."""
    if uuid in problems:
        return PolicyError(str(problems[uuid]))
    try:
        return Policy.from_values(policies[uuid])
    except KeyError:
        return InputError(f"policies has nothing for {uuid}; take what vmforge_backup_policy_info returns.")
    except PolicyError as error:
        return error


def _nodes_of(vm: VmListing) -> set[str]:
    return vm.listed_by | {node for _id, node in vm.ready}


def _known(options: PruneOptions, vms: Sequence[VmListing]) -> set[str]:
    """UUIDs of VMs that somebody has. libvirt is asked only where that matters, and must answer then."""
    known = {canonical_uuid(uuid) or uuid for uuid in options.known}
    if options.scope == "s3" or all(vm.uuid in known for vm in vms):
        return known
    need("libvirt")
    hypervisor = Hypervisor(options.uri)
    try:
        return known | {domain.uuid for domain in hypervisor.domains()}
    finally:
        hypervisor.close()


def _run(
    options: PruneOptions, cases: Sequence[Case], store: S3Store | None, *, now: datetime, check_mode: bool
) -> tuple[list[PruneResult], list[dict[str, str]]]:
    results: list[PruneResult] = []
    gone: list[dict[str, str]] = []
    for case in cases:
        offsite = OffsiteVm(store, case.listing.uuid) if store is not None else None
        if options.scope == "s3" and offsite is not None:
            in_bucket = BucketPrune(options, case, offsite, now=now)
            results.append(in_bucket.run(check_mode=check_mode))
            gone += in_bucket.gone
        else:
            results.append(NodePrune(options, case, offsite, now=now).run(check_mode=check_mode))
    return results, gone


def _reap(
    options: PruneOptions,
    fleet: Fleet,
    wanted: Sequence[VmListing],
    store: S3Store | None,
    *,
    now: datetime,
    check_mode: bool,
) -> tuple[list[str], str | None]:
    """Reap in the bucket, where every node and the bucket were listed: what one of them knows of is not reaped."""
    if store is None or not options.reap or options.ids or options.bucket is None or fleet.missing - fleet.ignored:
        return [], None
    if any(fleet.strangers(vm) for vm in fleet.vms.values()):
        # A node that was not listed may be uploading now.
        return [], None
    reaper = Reaper(store, fleet.vms.values(), now=now)
    done: list[str] = []
    try:
        for vm in wanted:
            done += [f"{vm.name}: {text}" for text in reaper.reap(vm, check_mode=check_mode)]
    except S3Error as error:
        return done, f"What was abandoned in S3 could not be removed: {error.message}"
    return done, None


def _outcome(
    results: Sequence[PruneResult],
    gone: Sequence[dict[str, str]],
    reaped: Sequence[str],
    not_found: Sequence[str],
    problem: str | None,
) -> Outcome:
    values: dict[str, Any] = {
        "vms": [result.as_dict() for result in results],
        "gone": list(gone),
        "reaped": list(reaped),
        "not_found": list(not_found),
    }
    failures = [result.failure for result in results if result.failure is not None]
    failures += [problem] if problem is not None else []
    sides = [result.diff() for result in results]
    return Outcome(
        changed=any(result.changed for result in results) or bool(reaped),
        values=values,
        diff={"before": "".join(before for before, _after in sides), "after": "".join(after for _b, after in sides)},
        warnings=tuple(f"{result.case.listing.name}: {text}" for result in results for text in result.warnings),
        failure="; ".join(failures) or None,
    )
