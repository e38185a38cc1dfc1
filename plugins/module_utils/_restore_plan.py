# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore will do: which backup, which images go where, and the machine that will be defined. Pure.

Whatever is known of this host comes in as :class:`Host`.
"""

from __future__ import annotations

import posixpath
import uuid as uuids
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import DomainSpec, parse_domain
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, NotFoundError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord, FileRecord, Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_xml import (
    Identity,
    NewDisk,
    in_place_xml,
    new_xml,
)
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup

NEW, IN_PLACE = "new", "in_place"
_EXTENSIONS = {"qcow2": ".qcow2", "raw": ".img"}
_NAMESPACE = uuids.UUID("5f0f7f2e-6a76-5b5c-9d0a-0b8f2a3c9d11")


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
    """

    current: str | None
    running: bool
    volumes: Mapping[str, str]
    exists: Callable[[Path], bool]
    is_device: Callable[[Path], bool]
    now: str


@dataclass(frozen=True)
class Image:
    """One disk, and where it goes.

    Attributes:
        record: The image in the backup.
        path: Of the file or device that the machine will use.
        kept: What becomes of the file that is there; None where none is.
    """

    disk: DiskRecord
    record: FileRecord
    path: Path
    format: str
    is_device: bool
    kept: Path | None
    id: str

    @property
    def fetched(self) -> Path:
        """Where its parts are put together, if they come from S3."""
        return self.path.with_name(f".{self.path.name}.{self.id}.fetched")

    @property
    def staged(self) -> Path:
        """Where the new file is made."""
        return self.path.with_name(f".{self.path.name}.{self.id}.restored")


@dataclass(frozen=True)
class RestorePlan:
    """What will be done; check mode prints it, a run carries it out.

    Attributes:
        mode: ``new`` or ``in_place``.
        name: Of the machine that is restored to.
        before: The definition that there is, or that the new one is made from.
        after: The one that will be.
        nvram: Where its firmware variables go; None without any.
        tpm: Whether its TPM is restored.
        now: A word for this moment, in the names of what is put aside.
    """

    mode: str
    manifest: Manifest
    name: str
    uuid: str
    images: tuple[Image, ...]
    before: str
    after: str
    nvram: Path | None
    tpm: bool
    now: str
    warnings: tuple[str, ...] = field(default=())

    def as_result(self) -> dict[str, Any]:
        """For a module's result."""
        return {
            "mode": self.mode,
            "vm": {"uuid": self.uuid, "name": self.name},
            "source": {"uuid": self.manifest.vm.uuid, "name": self.manifest.vm.name, "node": self.manifest.vm.node},
            "id": self.manifest.id,
            "instant": self.manifest.instant,
            "disks": [
                {
                    "target": image.disk.target,
                    "path": str(image.path),
                    "format": image.format,
                    "virtual_size": image.disk.virtual_size,
                    "kept": str(image.kept) if image.kept is not None else None,
                }
                for image in self.images
            ],
        }


def choose_backup(backups: Iterable[StoredBackup], options: RestoreOptions) -> StoredBackup:
    """The backup that is asked for.

    Raises:
        NotFoundError: There is none; says which there are.
        InputError: Several machines have that name.
    """
    uuid, backups = canonical_uuid(options.vm), list(backups)
    mine = [one for one in backups if one.manifest.vm.uuid == uuid or one.manifest.vm.name == options.vm]
    found = sorted({one.manifest.vm.uuid for one in mine})
    if len(found) > 1:
        raise InputError(
            f"There are backups of several machines called {options.vm!r}: {', '.join(found)}. "
            "Ask for one by its UUID.",
            code="ambiguous",
        )
    ordered = sorted(mine, key=lambda one: one.manifest.id)
    fitting = [
        one
        for one in ordered
        if options.id in (None, one.manifest.id)
        and (options.before is None or parse_time(one.manifest.instant) <= options.before)
    ]
    if not fitting:
        raise NotFoundError(
            _nothing_fits(options, [one.manifest for one in ordered or backups]), code="backup_not_found"
        )
    return fitting[-1]


def _nothing_fits(options: RestoreOptions, there: Sequence[Manifest]) -> str:
    wanted = f"backup {options.id} of {options.vm!r}" if options.id else f"backup of {options.vm!r}"
    when = f" from before {options.before.isoformat()}" if options.before is not None else ""
    where = f"{options.backup_dir}" + (f" and {options.s3.where}" if options.s3 is not None else "")
    text = f"There is no {wanted}{when} in {where}."
    if not any((canonical_uuid(options.vm) or options.vm) in (m.vm.name, m.vm.uuid) for m in there):
        names = sorted({manifest.vm.name for manifest in there})
        return f"{text} There are backups of: {', '.join(names[:10]) or 'none'}."
    return f"{text} There are, newest first: {', '.join(manifest.id for manifest in reversed(there[-10:]))}."


def new_uuid(manifest: Manifest, node: str, name: str) -> str:
    """The UUID of a new machine: the same each time, so that a restore that was interrupted goes on."""
    return str(uuids.uuid5(_NAMESPACE, f"{manifest.vm.uuid}/{manifest.id}/{node}/{name}"))


def plan_restore(manifest: Manifest, definition: str, options: RestoreOptions, host: Host) -> RestorePlan:
    """Plan it.

    Args:
        definition: The backup's ``domain.xml``.
        host: With ``current`` of the machine that is restored to.

    Raises:
        InputError: It cannot be done as asked.
    """
    _refuse_incremental(manifest)
    spec = parse_domain(definition)
    chosen = _chosen_disks(manifest, options)
    if options.to is not None:
        return _plan_new(manifest, definition, spec, chosen, options, host)
    return _plan_in_place(manifest, definition, spec, chosen, options, host)


def _refuse_incremental(manifest: Manifest) -> None:
    if manifest.type != "full" or any(disk.type != "full" or disk.backing for disk in manifest.disks):
        raise InputError(
            f"Backup {manifest.id} of {manifest.vm.name!r} is incremental; this version of vmforge.backup restores "
            "full backups only. Upgrade it.",
            code="incremental",
        )


def _chosen_disks(manifest: Manifest, options: RestoreOptions) -> list[DiskRecord]:
    known = {disk.target: disk for disk in manifest.disks}
    unknown = [target for target in (*options.disks, *options.paths) if target not in known]
    if unknown:
        raise InputError(
            f"Backup {manifest.id} of {manifest.vm.name!r} has no disk {', '.join(unknown)}. It has: "
            + (", ".join(known) or "none")
            + "."
        )
    chosen = [known[target] for target in options.disks] if options.disks else list(manifest.disks)
    if not chosen:
        raise InputError(f"Backup {manifest.id} of {manifest.vm.name!r} holds no disk.")
    return chosen


def _plan_new(
    manifest: Manifest,
    definition: str,
    spec: DomainSpec,
    chosen: Sequence[DiskRecord],
    options: RestoreOptions,
    host: Host,
) -> RestorePlan:
    name = str(options.to)
    images = []
    for disk in chosen:
        path = _new_path(disk, name, spec, options)
        images.append(_image(manifest, disk, spec, path, options, host, may_replace=False))
    nvram = _beside(spec.nvram, f"{name}_VARS.fd") if _has(manifest, "nvram.fd") else None
    identity = Identity(name, new_uuid(manifest, options.node, name), str(nvram) if nvram is not None else None)
    done = new_xml(
        definition, identity, disks=_new_disks(images), networks=options.networks, network_map=options.network_map
    )
    return RestorePlan(
        mode=NEW,
        manifest=manifest,
        name=name,
        uuid=identity.uuid,
        images=tuple(images),
        before=definition,
        after=done.xml,
        nvram=nvram,
        tpm=_has(manifest, "tpm.tar"),
        now=host.now,
        warnings=tuple(done.warnings),
    )


def _plan_in_place(
    manifest: Manifest,
    definition: str,
    spec: DomainSpec,
    chosen: Sequence[DiskRecord],
    options: RestoreOptions,
    host: Host,
) -> RestorePlan:
    if options.networks != "keep":
        raise InputError("networks changes the definition of a new machine; it needs to.")
    single = bool(options.disks)
    if single and host.current is None:
        raise InputError(
            f"{manifest.vm.name!r} is not defined here, so that single disks cannot be put back into it. "
            "Restore all of it, or name a new machine with to."
        )
    images = []
    for disk in chosen:
        now = host.volumes.get(disk.target)
        path = _path_in_place(disk, now, spec, options)
        images.append(_image(manifest, disk, spec, path, options, host, may_replace=str(path) == now))
    # Single disks go into the machine as it is now; all of them bring their definition along.
    base = host.current if single and host.current is not None else definition
    name = parse_domain(host.current).name if host.current is not None else manifest.vm.name
    done = in_place_xml(base, name=name, disks=_new_disks(images))
    return RestorePlan(
        mode=IN_PLACE,
        manifest=manifest,
        name=name,
        uuid=manifest.vm.uuid,
        images=tuple(images),
        before=host.current or "",
        after=done.xml,
        nvram=Path(spec.nvram) if spec.nvram and _has(manifest, "nvram.fd") and not single else None,
        tpm=_has(manifest, "tpm.tar") and not single,
        now=host.now,
        warnings=tuple(done.warnings),
    )


def _new_path(disk: DiskRecord, name: str, spec: DomainSpec, options: RestoreOptions) -> Path:
    given = options.paths.get(disk.target)
    if given is not None:
        return Path(given)
    return _storage(disk, spec, options) / f"{name}-{disk.target}{_EXTENSIONS[_format(disk, spec, options)]}"


def _path_in_place(disk: DiskRecord, now: str | None, spec: DomainSpec, options: RestoreOptions) -> Path:
    given = options.paths.get(disk.target)
    if given is not None:
        return Path(given)
    was = now or _path_in_backup(disk, spec)
    if options.storage is not None:
        name = (
            posixpath.basename(was) if was else f"{spec.name}-{disk.target}{_EXTENSIONS[_format(disk, spec, options)]}"
        )
        return options.storage / name
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


def _format(disk: DiskRecord, spec: DomainSpec, options: RestoreOptions) -> str:
    """As the definition in the backup has it: the image there is always qcow2."""
    was = next((other.format for other in spec.disks if other.target == disk.target), "qcow2")
    if options.format != "original":
        return options.format
    return was if was in _EXTENSIONS else "qcow2"


def _image(
    manifest: Manifest,
    disk: DiskRecord,
    spec: DomainSpec,
    path: Path,
    options: RestoreOptions,
    host: Host,
    *,
    may_replace: bool,
) -> Image:
    record = next(record for record in manifest.files if record.name == disk.file)
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
    image_format = "raw" if is_device else _format(disk, spec, options)
    return Image(disk, record, path, image_format, is_device, kept, manifest.id)


def aside(path: Path, now: str, exists: Callable[[Path], bool]) -> Path:
    """What a file that must go away is called from now on: a name that nothing has."""
    name, number = path.with_name(f"{path.name}.before-{now}"), 1
    while exists(name):
        number += 1
        name = path.with_name(f"{path.name}.before-{now}-{number}")
    return name


def _new_disks(images: Iterable[Image]) -> dict[str, NewDisk]:
    return {image.disk.target: NewDisk(str(image.path), image.format, image.is_device) for image in images}


def _has(manifest: Manifest, name: str) -> bool:
    return any(record.name == name for record in manifest.files)


def _beside(path: str | None, name: str) -> Path:
    return (Path(path).parent if path else Path("/var/lib/libvirt/qemu/nvram")) / name
