# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each disk of a restore goes, and what it is made of. Pure: this host comes in as :class:`Host`."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer

_EXTENSIONS = {"qcow2": ".qcow2", "raw": ".img"}


@dataclass(frozen=True)
class Host:
    """What is known of this host.

    Attributes:
        current: The definition of the machine as it is now, without secrets; None where it is not defined here.
        running: Whether it runs.
        volumes: Target -> path of each of its disks that lies in a file, a device or a volume.
        exists: Whether anything has a path.
        is_device: Whether a path is a block device.
        now: A word for this moment, that may be part of a file's name.
        state: The directory for notes of this restore.
    """

    current: str | None
    running: bool
    volumes: Mapping[str, str]
    exists: Callable[[Path], bool]
    is_device: Callable[[Path], bool]
    now: str
    state: Path


@dataclass(frozen=True)
class Image:
    """One disk, and where it goes.

    Attributes:
        layers: What it is made of, the topmost first.
        path: Of the file or device that the machine will use.
        kept: What becomes of the file that is there; None where none is.
        workplace: Where its parts are put together, if they come from S3: the beginning of the files' paths.
    """

    layers: tuple[Layer, ...]
    path: Path
    format: str
    is_device: bool
    kept: Path | None
    workplace: Path

    @property
    def disk(self) -> DiskRecord:
        """As the backup has it."""
        return self.layers[0].disk

    @property
    def data_bytes(self) -> int:
        """At most so many bytes of data are in it."""
        return min(self.disk.virtual_size, sum(layer.disk.data_bytes for layer in self.layers))

    @property
    def staged(self) -> Path:
        """Where the new file is made."""
        return self.path.with_name(f".{self.path.name}.{self.layers[0].id}.restored")

    def fetched(self, layer: Layer) -> Path:
        """Where the parts of a layer are put together, if they come from S3."""
        return self.workplace.with_name(f"{self.workplace.name}.{layer.id}.fetched")


def plan_image(
    layers: tuple[Layer, ...], path: Path, spec: DomainSpec, options: RestoreOptions, host: Host, *, may_replace: bool
) -> Image:
    """Decide how one disk is made.

    Args:
        layers: What it is made of, the topmost first.
        path: Where it goes.
        spec: The definition in the backup.
        may_replace: Whether what is there is a disk of this machine.

    Raises:
        InputError: It must not go there.
    """
    disk = layers[0].disk
    is_device = host.is_device(path)
    there = host.exists(path)
    if is_device and not options.overwrite_devices:
        raise InputError(
            f"Disk {disk.target} would go to the block device {path}, whose content cannot be kept aside. "
            "If it may be overwritten, set overwrite_devices: true (with the playbook: "
            "vmforge_backup_restore_overwrite_devices); else name another place with paths "
            "(vmforge_backup_restore_paths).",
            code="device",
        )
    if there and not is_device and not may_replace:
        raise InputError(
            f"{path} exists already, and is not a disk of this machine. Remove it, or name another place with storage "
            "or paths.",
            code="target_exists",
        )
    kept = aside(path, host.now, host.exists) if there and not is_device else None
    return Image(
        layers=layers,
        path=path,
        format="raw" if is_device else image_format(disk, spec, options),
        is_device=is_device,
        kept=kept,
        # Nothing can be put beside a device.
        workplace=host.state / disk.target if is_device else path.with_name(f".{path.name}"),
    )


def new_path(disk: DiskRecord, name: str, spec: DomainSpec, options: RestoreOptions) -> Path:
    """Where a disk of a new machine goes. Raises ``InputError`` if nobody knows."""
    given = options.paths.get(disk.target)
    if given is not None:
        return Path(given)
    return _storage(disk, spec, options) / f"{name}-{disk.target}{_EXTENSIONS[image_format(disk, spec, options)]}"


def path_in_place(disk: DiskRecord, now: str | None, spec: DomainSpec, options: RestoreOptions) -> Path:
    """Where a disk goes that is put back, or that is now at ``now``. Raises ``InputError`` if nobody knows."""
    given = options.paths.get(disk.target)
    if given is not None:
        return Path(given)
    was = now or _path_in_backup(disk, spec)
    if options.storage is not None:
        own = f"{spec.name}-{disk.target}{_EXTENSIONS[image_format(disk, spec, options)]}"
        return options.storage / (posixpath.basename(was) if was else own)
    if was is None:
        raise InputError(_NO_PLACE.format(target=disk.target))
    return Path(was)


_NO_PLACE = "Disk {target} did not lie in a file or a device that this host knows. Say where it goes: storage or paths."


def _storage(disk: DiskRecord, spec: DomainSpec, options: RestoreOptions) -> Path:
    if options.storage is not None:
        return options.storage
    was = _path_in_backup(disk, spec)
    if was is None or was.startswith("/dev/"):
        raise InputError(_NO_PLACE.format(target=disk.target))
    return Path(was).parent


def _path_in_backup(disk: DiskRecord, spec: DomainSpec) -> str | None:
    for other in spec.disks:
        if other.target == disk.target and other.type in ("file", "block") and other.source.startswith("/"):
            return other.source
    return None


def image_format(disk: DiskRecord, spec: DomainSpec, options: RestoreOptions) -> str:
    """What is wanted: as the definition in the backup has it: the image there is always qcow2."""
    was = next((other.format for other in spec.disks if other.target == disk.target), "qcow2")
    if options.format != "original":
        return options.format
    return was if was in _EXTENSIONS else "qcow2"


def aside(path: Path, now: str, exists: Callable[[Path], bool]) -> Path:
    """What a file that must go away is called from now on: a name that nothing has."""
    name, number = path.with_name(f"{path.name}.before-{now}"), 1
    while exists(name):
        number += 1
        name = path.with_name(f"{path.name}.before-{now}-{number}")
    return name
