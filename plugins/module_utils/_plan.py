# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of one VM's backup: what check mode prints and a run executes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._parts import choose_part_size

_EXCLUDED_BY_OPTION = "option exclude"


@dataclass(frozen=True)
class PlannedDisk:
    """One disk to read: bytes are estimates from what is allocated, or from what changed last time."""

    target: str
    format: str
    source: str
    virtual_size: int
    estimated_bytes: int
    type: str = "full"
    full_reason: str | None = None


@dataclass(frozen=True)
class BackupPlan:
    """What a backup of one VM will read and where it will lie.

    Attributes:
        parent: Id of the backup that it builds on.
        ratio: Stored bytes per byte read, from the last backup, or a usual one.
        destinations: Directory and S3 prefix.
    """

    type: str
    full_reason: str | None
    disks: tuple[PlannedDisk, ...]
    excluded: tuple[tuple[str, str], ...]
    destinations: tuple[str, ...]
    ratio: float
    parent: str | None = None

    @property
    def estimated_read_bytes(self) -> int:
        """Bytes that will be read of the guest's disks, about."""
        return sum(disk.estimated_bytes for disk in self.disks)

    @property
    def estimated_stored_bytes(self) -> int:
        """Bytes that the backup will take, about."""
        return int(self.estimated_read_bytes * self.ratio)

    def as_result(self) -> dict[str, Any]:
        """As the module returns it."""
        return {
            "parent": self.parent,
            "disks": [asdict(disk) for disk in self.disks],
            "estimated_read_bytes": self.estimated_read_bytes,
            "estimated_stored_bytes": self.estimated_stored_bytes,
            "destinations": list(self.destinations),
        }


def choose_disks(
    spec: DomainSpec, *, exclude: Sequence[str], running: bool, allow_plaintext: bool
) -> tuple[tuple[Disk, ...], tuple[tuple[str, str], ...]]:
    """Decide which disks of a domain are backed up.

    Returns:
        The disks that take part, and target and reason of the others.

    Raises:
        InputError: A disk cannot be backed up and was not excluded by name, or none is left.
    """
    taken: list[Disk] = []
    excluded: list[tuple[str, str]] = []
    for disk in spec.disks:
        reason = _EXCLUDED_BY_OPTION if disk.target in exclude else disk.excluded
        if reason is not None:
            excluded.append((disk.target, reason))
            continue
        _refuse_unreadable(spec, disk, running=running, allow_plaintext=allow_plaintext)
        taken.append(disk)
    if not taken:
        others = ", ".join(f"{target} ({reason})" for target, reason in excluded) or "it has none at all"
        raise InputError(f"Domain {spec.name!r} has no disk that could be backed up: {others}.", code="no_disks")
    return tuple(taken), tuple(excluded)


def _refuse_unreadable(spec: DomainSpec, disk: Disk, *, running: bool, allow_plaintext: bool) -> None:
    obstacle = disk.obstacle(running=running)
    if obstacle is not None:
        raise InputError(
            f"Disk {disk.target} of domain {spec.name!r} cannot be backed up: {obstacle}. "
            f"To back up the others without it, set exclude: [{disk.target}].",
            code="disk_unsupported",
        )
    if disk.encrypted and (not allow_plaintext or not running):
        word = "set allow_plaintext: true (with the playbooks: vmforge_backup_allow_plaintext)"
        how = f"{word} to accept that" if running else f"start the domain and {word}"
        raise InputError(
            f"Disk {disk.target} of domain {spec.name!r} is encrypted by libvirt, and its backup would hold the plain "
            f"text: {how}, or set exclude: [{disk.target}].",
            code="disk_encrypted",
        )


def check_space(*, needed: int, free: int, reserve: int, path: str) -> None:
    """Raise ``StorageError`` when a backup would not fit.

    Args:
        needed: Bytes that the backup will take, about.
        free: Bytes that can be written there.
        reserve: Bytes that stay free.
    """
    if needed + reserve > free:
        raise StorageError(
            f"Not enough space in {path}: about {format_bytes(needed)} are needed and {format_bytes(reserve)} are kept "
            f"in reserve, but only {format_bytes(free)} are free. Prune old backups or use a larger file system.",
            code="no_space",
        )


def part_size_for(*, virtual_size: int, read_bytes: int) -> int:
    """The part size of an image, from an upper bound of its size: nothing compresses, gaps and all tables included."""
    return choose_part_size(read_bytes + read_bytes // 10 + virtual_size // 8192 + (4 << 20))
