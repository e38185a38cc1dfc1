# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at one domain before anything is done: what there is to back up, and the plan for it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._plan import BackupPlan, PlannedDisk, choose_disks
from ansible_collections.vmforge.backup.plugins.module_utils._qemu import allocated_estimate

# Of guests' disks at zstd level 1. A first backup that turns out larger is stopped by the space guard, not by luck.
_USUAL_RATIO = 0.5
_FULL_REASON = "every backup is a full one"


@dataclass(frozen=True)
class Inspection:
    """A domain as it is now, and the plan for its backup.

    Attributes:
        disks: That take part.
        left_out: Targets of the others.
        paths: Target -> path, of disks that have one.
    """

    running: bool
    spec: DomainSpec
    disks: tuple[Disk, ...]
    left_out: tuple[str, ...]
    paths: dict[str, str]
    plan: BackupPlan


def inspect(domain: Domain, directory: VmDirectory, options: BackupOptions) -> Inspection:
    """Look at a domain and plan its backup; touches nothing.

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
    destinations = [] if options.delete_local else [str(directory.path)]
    if options.s3 is not None:
        destinations.append(f"s3://{options.s3.bucket}/{options.s3.key(domain.uuid)}")
    plan = BackupPlan(
        type="full",
        full_reason=_FULL_REASON,
        disks=tuple(_plan_disk(domain, disk, paths.get(disk.target)) for disk in disks),
        excluded=excluded,
        destinations=tuple(destinations),
        ratio=_last_ratio(directory, default=1.0 if options.compression == "none" else _USUAL_RATIO),
    )
    left_out = tuple(disk.target for disk in spec.disks if disk not in disks)
    return Inspection(running, spec, disks, left_out, paths, plan)


def _plan_disk(domain: Domain, disk: Disk, path: str | None) -> PlannedDisk:
    info = domain.block_info(disk)
    estimate = info.allocation or info.capacity
    if path is not None:
        estimate = allocated_estimate(path, image_format=disk.format)
    return PlannedDisk(disk.target, disk.format, disk.source, info.capacity, min(estimate, info.capacity))


def _last_ratio(directory: VmDirectory, *, default: float) -> float:
    """Stored bytes per byte of data in the newest backup here."""
    for backup_id in reversed(directory.ids()):
        path = directory.entry(backup_id) / MANIFEST
        try:
            manifest = decode_manifest(path.read_bytes(), where=str(path))
        except (FileNotFoundError, FormatError):
            # Without a sound manifest it is no backup, and no guide either.
            continue
        if manifest.data_bytes:
            return min(1.1, manifest.size / manifest.data_bytes)
    return default
