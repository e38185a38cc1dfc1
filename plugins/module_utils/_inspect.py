# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at one domain before anything is done: what there is to back up, and the plan for it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from ansible_collections.vmforge.backup.plugins.module_utils._basis import (
    Basis,
    DiskNow,
    ImageFacts,
    choose_basis,
    refuse_full,
)
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt_values import BlockInfo
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._parent import find_parent
from ansible_collections.vmforge.backup.plugins.module_utils._plan import BackupPlan, PlannedDisk, choose_disks
from ansible_collections.vmforge.backup.plugins.module_utils._qemu import look_at
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain

# Of guests' disks at zstd level 1. A first backup that turns out larger is stopped by the space guard, not by luck.
_USUAL_RATIO = 0.5
# Of the allocated bytes, where no incremental backup tells how much usually changes.
_USUAL_CHANGES = 0.1


@dataclass(frozen=True)
class Inspection:
    """A domain as it is now, and the plan for its backup.

    Attributes:
        disks: That take part.
        left_out: Targets of the others.
        paths: Target -> path, of disks that have one.
        images: Target -> what its image says of itself, likewise.
        parent: What the plan builds on, if anything.
    """

    running: bool
    spec: DomainSpec
    disks: tuple[Disk, ...]
    left_out: tuple[str, ...]
    paths: dict[str, str]
    images: dict[str, ImageFacts]
    basis: Basis
    parent: StoredChain | None
    plan: BackupPlan


def inspect(
    domain: Domain,
    directory: VmDirectory,
    options: BackupOptions,
    offsite: OffsiteVm | None = None,
    *,
    damaged: Collection[str] = (),
) -> Inspection:
    """Look at a domain and plan its backup; touches nothing.

    Args:
        offsite: Where backups of it lie in S3; None where nobody looks.
        damaged: Ids of backups whose local copy was just found to be damaged.

    Raises:
        InputError: It cannot be backed up as asked.
        SourceError: An image cannot be opened.
    """
    running = domain.state().active
    if running and not os.path.isdir(options.scratch_dir):
        raise InputError(
            f"scratch_dir {options.scratch_dir} does not exist; a running domain keeps old blocks there while it is "
            "read. The role vmforge.backup.node creates what vmforge_backup_scratch_dir names.",
            code="scratch_missing",
        )
    spec = domain.spec()
    disks, excluded = choose_disks(
        spec, exclude=options.exclude, running=running, allow_plaintext=options.allow_plaintext
    )
    paths = {disk.target: domain.source_path(disk) for disk in disks if disk.type in ("file", "block", "volume")}
    images = {
        disk.target: look_at(paths[disk.target], image_format=disk.format) for disk in disks if disk.target in paths
    }
    infos = {disk.target: domain.block_info(disk) for disk in disks}
    now = [
        DiskNow(disk.target, disk.format, disk.source, infos[disk.target].capacity, images.get(disk.target))
        for disk in disks
    ]
    parent = find_parent(directory, offsite, damaged=damaged) if options.rules.type != "full" else "type is full"
    basis = choose_basis(
        now,
        parent if isinstance(parent, str) else parent.facts,
        options.rules,
        node=options.node,
        running=running,
        now=utc_now(),
    )
    refuse_full(basis, options.rules, name=domain.name)
    destinations = [] if options.delete_local else [str(directory.path)]
    if options.s3 is not None:
        destinations.append(f"s3://{options.s3.bucket}/{options.s3.key(domain.uuid)}")
    plan = BackupPlan(
        type=basis.type,
        full_reason=basis.full_reason,
        disks=tuple(_plan_disk(disk, infos[disk.target], basis) for disk in now),
        excluded=excluded,
        destinations=tuple(destinations),
        ratio=_last_ratio(directory, default=1.0 if options.compression == "none" else _USUAL_RATIO),
        parent=basis.parent.id if basis.parent is not None else None,
    )
    left_out = tuple(disk.target for disk in spec.disks if disk not in disks)
    chain = parent.chain if basis.parent is not None and not isinstance(parent, str) else None
    return Inspection(running, spec, disks, left_out, paths, images, basis, chain, plan)


def _plan_disk(disk: DiskNow, info: BlockInfo, basis: Basis) -> PlannedDisk:
    allocated = disk.image.allocated if disk.image is not None else info.allocation or info.capacity
    estimate = min(allocated, info.capacity)
    changed = basis.parent is not None and disk.target in basis.changed
    if changed and basis.parent is not None:
        before = basis.parent.disks[disk.target]
        estimate = before.data_bytes if before.type == "incremental" else int(estimate * _USUAL_CHANGES)
    return PlannedDisk(
        disk.target,
        disk.format,
        disk.source,
        info.capacity,
        estimate,
        "incremental" if changed else "full",
        basis.reasons.get(disk.target),
    )


def _last_ratio(directory: VmDirectory, *, default: float) -> float:
    """Stored bytes per byte of data in the newest full backup here; in a small one the tables weigh too much."""
    for backup_id in reversed(directory.ids()):
        path = directory.entry(backup_id) / MANIFEST
        try:
            manifest = decode_manifest(path.read_bytes(), where=str(path))
        except (FileNotFoundError, FormatError):
            # Without a sound manifest it is no backup, and no guide either.
            continue
        if manifest.data_bytes and manifest.type == "full":
            return min(1.1, manifest.size / manifest.data_bytes)
    return default
