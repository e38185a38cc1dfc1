# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against a restore, found before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._copies import LocalCopy
from ansible_collections.vmforge.backup.plugins.module_utils._define import find_domain
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import parse_domain
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    InputError,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._guard import free_bytes, reserve_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_plan import NEW, Image, RestorePlan
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup

SWTPM_DIRECTORY = Path("/var/lib/libvirt/swtpm")
# Of qcow2's own tables, and of what qemu-img rounds up.
_OVERHEAD = 16 << 20


def refuse(plan: RestorePlan, backup: StoredBackup, options: RestoreOptions, hypervisor: Hypervisor) -> None:
    """Raise if the restore cannot be done; nothing is touched here.

    Raises:
        InputError: It would overwrite, or take away from somebody, what is there.
        BusyError: The machine runs.
        StorageError: A directory is missing, or there is too little space.
    """
    _refuse_names(plan, hypervisor)
    domain = find_domain(hypervisor, plan.uuid)
    if domain is not None:
        refuse_running(domain, options)
    _refuse_shared(plan, hypervisor)
    if plan.mode == NEW:
        for path in [plan.nvram, SWTPM_DIRECTORY / plan.uuid if plan.tpm else None]:
            if path is not None and os.path.lexists(path):
                raise InputError(f"{path} exists already. Remove it, or choose another name.", code="target_exists")
    for image in plan.images:
        directory = image.path.parent
        if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
            raise StorageError(
                f"The directory {directory} for disk {image.disk.target} does not exist or cannot be written. "
                "Is its file system mounted?",
                code="storage_missing",
            )
    _refuse_full(plan.images, is_local=any(isinstance(copy, LocalCopy) for copy in backup.copies))


def refuse_running(domain: Domain, options: RestoreOptions) -> None:
    """Raise ``BusyError`` unless a machine is off, or may be stopped."""
    if options.force:
        return
    if domain.state().active:
        raise BusyError(
            f"{domain.name!r} runs. Stop it first, or set force: true (with the playbook: "
            "vmforge_backup_restore_force) to pull its plug.",
            code="domain_running",
        )
    if domain.has_saved_state():
        raise BusyError(
            f"The memory of {domain.name!r} is saved (managed save), and does not belong to other disks. Start and "
            "stop it first, or set force: true (with the playbook: vmforge_backup_restore_force) to discard that "
            "memory.",
            code="saved_state",
        )


def _refuse_names(plan: RestorePlan, hypervisor: Hypervisor) -> None:
    for domain in hypervisor.domains():
        if domain.name == plan.name and domain.uuid != plan.uuid:
            raise InputError(
                f"There is another machine called {plan.name!r} here, with the UUID {domain.uuid}. Choose another name "
                "with to.",
                code="target_exists",
            )


def _refuse_shared(plan: RestorePlan, hypervisor: Hypervisor) -> None:
    """A path that another machine uses, running or not."""
    wanted = {os.path.realpath(image.path): image for image in plan.images}
    for domain in hypervisor.domains():
        if domain.uuid == plan.uuid:
            continue
        try:
            disks = parse_domain(domain.xml(inactive=False)).disks
        except VMForgeError:
            # Undefined just now, or beyond us: not one that we have backed up.
            continue
        for disk in disks:
            if disk.source.startswith("/") and os.path.realpath(disk.source) in wanted:
                raise InputError(
                    f"{disk.source} is a disk of {domain.name!r}. Name another place with storage or paths.",
                    code="target_exists",
                )


def _refuse_full(images: Iterable[Image], *, is_local: bool) -> None:
    needed: dict[int, tuple[Path, int]] = {}
    for image in images:
        directory = image.path.parent
        # What stands there already was made by an earlier run, for the most part.
        there = sum(_allocated(path) for path in (image.staged, image.fetched))
        bytes_ = 0 if image.is_device else image.disk.data_bytes + _OVERHEAD
        bytes_ += 0 if is_local else image.record.size
        device = directory.stat().st_dev
        _path, before = needed.get(device, (directory, 0))
        needed[device] = (directory, before + max(0, bytes_ - there))
    for directory, total in needed.values():
        free = free_bytes(str(directory)) - reserve_bytes(str(directory))
        if total > free:
            raise StorageError(
                f"The restore needs about {format_bytes(total)} in {directory}, and only {format_bytes(max(0, free))} "
                "can be used there. Free space, or name another place with storage.",
                code="target_full",
            )


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
