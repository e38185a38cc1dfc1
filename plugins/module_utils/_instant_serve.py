# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The overlays of a machine that runs at once, and what serves the backup under them."""

from __future__ import annotations

from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._domain_sockets import make_overlay
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._instant_domain import backing_of
from ansible_collections.vmforge.backup.plugins.module_utils._instant_record import InstantDisk, InstantRecord
from ansible_collections.vmforge.backup.plugins.module_utils._restore_data import DiskMaker
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._restore_plan import RestorePlan
from ansible_collections.vmforge.backup.plugins.module_utils._services import Services
from ansible_collections.vmforge.backup.plugins.module_utils._stored_export import (
    Helper,
    readable_copy,
    wait_until_served,
)


class IncompleteError(VMForgeError):
    """A machine runs, or ran, on disks that are not whole yet. Nothing of it was taken back."""

    code = "incomplete"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name!r} is not whole yet: {reason}. What it has written is on its disks, and the rest is still in the "
            "backup. The same call, with instant: true, goes on; a restore without it, with force: true, begins anew.",
        )


class OverlayMaker(DiskMaker):
    """Makes overlays instead of disks, and starts what serves what is under them."""

    def __init__(self, record: InstantRecord, services: Services, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self._record, self._services = record, services

    def prepare(self, image: Image) -> None:
        """Serve a disk, and make an overlay beside its place."""
        disk = self._record.disks[image.disk.target]
        for number in range(len(disk.services)):
            serve(self._services, disk, number)
        image.staged.unlink(missing_ok=True)
        make_overlay(image.staged, disk.socket, disk.size)
        used = [readable_copy(layer).name for layer in image.layers]
        self.sources[image.disk.target] = "+".join(dict.fromkeys(used))


def serve(services: Services, disk: InstantDisk, number: int) -> None:
    """Start one of the programs that serve a disk, and wait until it does."""
    service = disk.services[number]
    services.start(service)
    logs = [other.log for other in disk.services[: number + 1]]
    wait_until_served(Helper(service.argv, service.socket), ended=lambda: not services.running(service), logs=logs)


def is_open(disk: InstantDisk) -> bool:
    """Whether an image still needs what is under it."""
    return backing_of(disk.path) is not None


def refuse_devices(plan: RestorePlan) -> None:
    """Raise ``InputError`` where a disk would be a block device."""
    for image in plan.images:
        if image.is_device:
            raise InputError(
                f"Disk {image.disk.target} would go to the block device {image.path}; instant needs a file, for it "
                "works on an overlay.",
                code="device",
            )
