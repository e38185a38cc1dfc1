# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore will do: which images go where, and the machine that will be defined. Pure."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import DomainSpec, parse_domain
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord, Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import (
    Host,
    Image,
    new_path,
    path_in_place,
    plan_image,
)
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_xml import (
    Identity,
    NewDisk,
    in_place_xml,
    new_xml,
)
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain

NEW, IN_PLACE = "new", "in_place"
_NAMESPACE = uuids.UUID("5f0f7f2e-6a76-5b5c-9d0a-0b8f2a3c9d11")


@dataclass(frozen=True)
class RestorePlan:
    """What will be done; check mode prints it, a run carries it out.

    Attributes:
        mode: ``new`` or ``in_place``.
        chain: The backup, with all that it builds on.
        name: Of the machine that is restored to.
        before: The definition that there is, or that the new one is made from.
        after: The one that will be.
        nvram: Where its firmware variables go; None without any.
        tpm: Whether its TPM is restored.
        now: A word for this moment, in the names of what is put aside.
    """

    mode: str
    chain: StoredChain
    name: str
    uuid: str
    images: tuple[Image, ...]
    before: str
    after: str
    nvram: Path | None
    tpm: bool
    now: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def manifest(self) -> Manifest:
        """Of the backup."""
        return self.chain.head.manifest

    def as_result(self) -> dict[str, Any]:
        """For a module's result."""
        return {
            "mode": self.mode,
            "vm": {"uuid": self.uuid, "name": self.name},
            "source": {"uuid": self.manifest.vm.uuid, "name": self.manifest.vm.name, "node": self.manifest.vm.node},
            "id": self.manifest.id,
            "instant": self.manifest.instant,
            "chain": [member.manifest.id for member in self.chain.members],
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


def new_uuid(manifest: Manifest, node: str, name: str) -> str:
    """The UUID of a new machine: the same each time, so that a restore that was interrupted goes on."""
    return str(uuids.uuid5(_NAMESPACE, f"{manifest.vm.uuid}/{manifest.id}/{node}/{name}"))


def plan_restore(chain: StoredChain, definition: str, options: RestoreOptions, host: Host) -> RestorePlan:
    """Plan it.

    Args:
        chain: The backup, with all that it builds on.
        definition: The backup's ``domain.xml``.
        host: With ``current`` of the machine that is restored to.

    Raises:
        InputError: It cannot be done as asked.
    """
    spec = parse_domain(definition)
    chosen = _chosen_disks(chain.head.manifest, options)
    if options.to is not None:
        return _plan_new(chain, definition, spec, chosen, options, host)
    return _plan_in_place(chain, definition, spec, chosen, options, host)


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
    chain: StoredChain,
    definition: str,
    spec: DomainSpec,
    chosen: Sequence[DiskRecord],
    options: RestoreOptions,
    host: Host,
) -> RestorePlan:
    manifest, name = chain.head.manifest, str(options.to)
    images = []
    for disk in chosen:
        path = new_path(disk, name, spec, options)
        images.append(plan_image(chain.layers(disk.target), path, spec, options, host, may_replace=False))
    nvram = _beside(spec.nvram, f"{name}_VARS.fd") if _has(manifest, "nvram.fd") else None
    identity = Identity(name, new_uuid(manifest, options.node, name), str(nvram) if nvram is not None else None)
    done = new_xml(
        definition, identity, disks=_new_disks(images), networks=options.networks, network_map=options.network_map
    )
    return RestorePlan(
        mode=NEW,
        chain=chain,
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
    chain: StoredChain,
    definition: str,
    spec: DomainSpec,
    chosen: Sequence[DiskRecord],
    options: RestoreOptions,
    host: Host,
) -> RestorePlan:
    manifest = chain.head.manifest
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
        path = path_in_place(disk, now, spec, options)
        images.append(plan_image(chain.layers(disk.target), path, spec, options, host, may_replace=str(path) == now))
    # Single disks go into the machine as it is now; all of them bring their definition along.
    base = host.current if single and host.current is not None else definition
    name = parse_domain(host.current).name if host.current is not None else manifest.vm.name
    done = in_place_xml(base, name=name, disks=_new_disks(images))
    return RestorePlan(
        mode=IN_PLACE,
        chain=chain,
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


def _new_disks(images: Iterable[Image]) -> dict[str, NewDisk]:
    return {image.disk.target: NewDisk(str(image.path), image.format, image.is_device) for image in images}


def _has(manifest: Manifest, name: str) -> bool:
    return any(record.name == name for record in manifest.files)


def _beside(path: str | None, name: str) -> Path:
    return (Path(path).parent if path else Path("/var/lib/libvirt/qemu/nvram")) / name
