# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against a restore, found before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._copies import LocalCopy
from ansible_collections.vmforge.backup.plugins.module_utils._define import find_domain
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import parse_domain
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    HypervisorError,
    InputError,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._guard import free_bytes, reserve_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_plan import NEW, RestorePlan
from ansible_collections.vmforge.backup.plugins.module_utils._tpm_state import SWTPM_DIRECTORY

# Of qcow2's own tables, and of what qemu-img rounds up.
_OVERHEAD = 16 << 20


def refuse(plan: RestorePlan, options: RestoreOptions, hypervisor: Hypervisor) -> None:
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
    _refuse_full(plan.images)


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
        for path in _paths_of(domain):
            if os.path.realpath(path) in wanted:
                raise InputError(
                    f"{path} is a disk of {domain.name!r}. Name another place with storage or paths.",
                    code="target_exists",
                )


def _paths_of(domain: Domain) -> Iterator[str]:
    try:
        disks = parse_domain(domain.xml(inactive=False)).disks
    except VMForgeError:
        # Undefined just now, or beyond us: not one that we have backed up.
        return
    for disk in disks:
        try:
            path = domain.source_path(disk)
        except HypervisorError:
            # A volume that is not there, or in a pool that is off.
            continue
        if path.startswith("/"):
            yield path


def _refuse_full(images: Sequence[Image]) -> None:
    needed: dict[int, tuple[Path, int]] = {}
    for directory, bytes_ in _needs(images):
        device = directory.stat().st_dev
        _path, before = needed.get(device, (directory, 0))
        needed[device] = (directory, before + bytes_)
    for directory, total in needed.values():
        free = free_bytes(str(directory)) - reserve_bytes(str(directory))
        if total > free:
            raise StorageError(
                f"The restore needs about {format_bytes(total)} in {directory}, and only {format_bytes(max(0, free))} "
                "can be used there. Free space, or name another place with storage.",
                code="target_full",
            )


def _needs(images: Sequence[Image]) -> Iterator[tuple[Path, int]]:
    """Bytes that are needed at most, and in which directory."""
    for image in images:
        if not image.is_device:
            yield image.path.parent, max(0, image.data_bytes + _OVERHEAD - _allocated(image.staged))
    # What is fetched for a file goes before that for the next one comes; what is for devices stays to the end.
    fetched = [(image, _to_fetch(image)) for image in images]
    yield from ((_existing(image.workplace), bytes_) for image, bytes_ in fetched if image.is_device and bytes_)
    files = [(bytes_, image.workplace.parent) for image, bytes_ in fetched if not image.is_device and bytes_]
    for directory in {directory for _bytes, directory in files}:
        yield directory, max(bytes_ for bytes_, other in files if other == directory)


def _to_fetch(image: Image) -> int:
    """Bytes of the layers that are not here; what stands there already was fetched by an earlier run."""
    away = [layer for layer in image.layers if not any(isinstance(copy, LocalCopy) for copy in layer.backup.copies)]
    return sum(max(0, layer.record.size - _allocated(image.fetched(layer))) for layer in away)


def _existing(path: Path) -> Path:
    """The directory that a file will lie in, or the nearest one above that is there already."""
    return next(parent for parent in path.parents if parent.is_dir())


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
