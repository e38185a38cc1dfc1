# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a backup can build on: for each disk whether its changes are enough, and why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord
from ansible_collections.vmforge.backup.plugins.module_utils._model import MAX_CLOCK_AHEAD, format_time

_WEEK = timedelta(days=7)
# Of an image with clusters of the usual size that only QEMU can open.
_USUAL_GRANULARITY = 65536
# In ``ImageFacts.file``, between the image and each one below it.
BELOW = "+"
TYPES = ("auto", "full", "incremental")


@dataclass(frozen=True)
class Bitmap:
    """A dirty bitmap as it stands in an image.

    Attributes:
        granularity: In bytes.
        sound: It was saved when the image was last closed, and records from the moment it is opened. Of an image that
            is open nobody can tell.
    """

    name: str
    granularity: int
    sound: bool


@dataclass(frozen=True)
class ImageFacts:
    """What a disk's image says of itself.

    Attributes:
        allocated: Bytes, about, with those of its backing files.
        keeps_bitmaps: Its format can.
        granularity: In bytes, of a bitmap that is made now.
        buried: Names of the bitmaps in its backing files.
        file: What tells its file or device, and those of the images below it, from any other on this host; None where
            nothing does.
    """

    allocated: int
    keeps_bitmaps: bool
    granularity: int
    bitmaps: tuple[Bitmap, ...] = ()
    buried: tuple[str, ...] = ()
    file: str | None = None


@dataclass(frozen=True)
class DiskNow:
    """A disk that is to be backed up; ``image`` is None where only QEMU can open it, and ``size`` is in bytes."""

    target: str
    format: str
    source: str
    size: int
    image: ImageFacts | None


@dataclass(frozen=True)
class Parent:
    """The backup whose checkpoint is the newest.

    Attributes:
        disks: By target.
        full_instant: Of the full backup at the end of its chain.
        incrementals: How many its chain has, itself included.
        files: Target -> ``ImageFacts.file`` of its image then; of those that were noted.
    """

    id: str
    sha256: str
    node: str
    checkpoint: str
    disks: Mapping[str, DiskRecord]
    full_instant: datetime
    incrementals: int
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What was asked for: a type of ``TYPES``, and when a chain ends."""

    type: str
    max_incrementals: int
    full_every: timedelta


@dataclass(frozen=True)
class Basis:
    """The decision.

    Attributes:
        targets: Of all disks.
        parent: None where nothing can build on it.
        reasons: Target -> why the disk is stored in full; the others' changes are enough.
        tracked: Targets in which a new bitmap can be made, each with its granularity in bytes.
    """

    targets: tuple[str, ...]
    parent: Parent | None
    reasons: Mapping[str, str]
    tracked: Mapping[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> tuple[str, ...]:
        """Targets of the disks of which only changes are stored."""
        return tuple(target for target in self.targets if target not in self.reasons)

    @property
    def type(self) -> str:
        """Of the backup."""
        return "incremental" if self.changed else "full"

    @property
    def full_reason(self) -> str | None:
        """Why the backup, or a disk of it, is a full one; None if nothing is."""
        several = set(self.reasons.values())
        if not self.changed and len(several) == 1:
            return several.pop()
        return "; ".join(f"{target}: {reason}" for target, reason in self.reasons.items()) or None

    def without(self, reasons: Mapping[str, str]) -> Basis:
        """The same with more disks in full."""
        every = {**reasons, **self.reasons}
        ordered = {target: every[target] for target in self.targets if target in every}
        return replace(self, reasons=ordered, parent=self.parent if len(ordered) < len(self.targets) else None)


def choose_basis(
    disks: Sequence[DiskNow], parent: Parent | str, rules: Rules, *, node: str, running: bool, now: datetime
) -> Basis:
    """Decide what an incremental backup can be made of.

    Args:
        parent: The backup that owns the newest checkpoint, or why there is none that could be used.
        node: Of this host.
    """
    targets = tuple(disk.target for disk in disks)
    sizes = {disk.target: _granularity(disk) for disk in disks} if running else {}
    tracked = {target: size for target, size in sizes.items() if size is not None}
    reason = "type is full" if rules.type == "full" else _unusable(parent, rules, node=node, now=now)
    if reason is not None or isinstance(parent, str):
        return Basis(targets, None, dict.fromkeys(targets, reason or str(parent)), tracked)
    found = {disk.target: _reason(disk, parent, running=running) for disk in disks}
    return Basis(targets, parent, {}, tracked).without({target: why for target, why in found.items() if why})


def refuse_full(basis: Basis, rules: Rules, *, name: str) -> None:
    """Raise ``InputError`` when an incremental backup was asked for and none can be made."""
    if rules.type == "incremental" and basis.type == "full":
        raise InputError(
            f"No incremental backup of {name!r} can be made: {basis.full_reason}. With type: auto a full one is made.",
            code="no_incremental",
        )


def _granularity(disk: DiskNow) -> int | None:
    """Of a bitmap that is made in it now; None where there can be none."""
    if disk.format != "qcow2":
        return None
    if disk.image is None:
        return _USUAL_GRANULARITY
    return disk.image.granularity if disk.image.keeps_bitmaps else None


def _unusable(parent: Parent | str, rules: Rules, *, node: str, now: datetime) -> str | None:
    """Why nothing can build on the parent."""
    if isinstance(parent, str):
        return parent
    if parent.node != node:
        return f"the last checkpoint was made on node {parent.node}"
    if parent.incrementals >= rules.max_incrementals:
        return f"{parent.incrementals} incremental backups follow the last full one (max_incrementals)"
    made, age = format_time(parent.full_instant), now - parent.full_instant
    if age < -MAX_CLOCK_AHEAD:
        return f"the last full backup is of {made}, which is in the future"
    if rules.full_every == _WEEK:
        # The first of an ISO week, so that all nights of a week lie in one chain.
        due = parent.full_instant.isocalendar()[:2] != now.isocalendar()[:2]
    else:
        due = age >= rules.full_every
    return f"the last full backup is of {made} (full_every)" if due else None


def _reason(disk: DiskNow, parent: Parent, *, running: bool) -> str | None:
    """Why the changes of a disk are not enough, as far as can be told without asking QEMU."""
    before = parent.disks.get(disk.target)
    if disk.format != "qcow2" or (disk.image is not None and not disk.image.keeps_bitmaps):
        return f"an image of format {disk.format}{' version 2' if disk.format == 'qcow2' else ''} keeps no bitmap"
    if before is None:
        return f"backup {parent.id} does not hold it"
    if before.source != disk.source:
        return f"its image is another than that of backup {parent.id}: {before.source}"
    if before.virtual_size != disk.size:
        return f"it had {before.virtual_size} bytes in backup {parent.id}, and has {disk.size} now"
    if before.bitmap_granularity is None:
        return f"backup {parent.id} made no bitmap in it"
    if disk.image is None:
        return None
    exchanged = _file_reason(disk.image.file, parent.files.get(disk.target), parent)
    return exchanged or _bitmap_reason(disk.image, before, parent, running=running)


def _file_reason(now: str | None, then: str | None, parent: Parent) -> str | None:
    """All disks of a machine bear bitmaps of one name: where files were exchanged, nothing else would tell."""
    if now == then:
        return None
    if then is None:
        return f"nothing tells whether its image is still that of backup {parent.id}"
    if now is not None and now.partition(BELOW)[0] == then.partition(BELOW)[0]:
        return f"an image on which its image lies is another than at backup {parent.id}, or was written to"
    return f"another file lies in the place of the one that was its image at backup {parent.id}"


def _bitmap_reason(image: ImageFacts, before: DiskRecord, parent: Parent, *, running: bool) -> str | None:
    if parent.checkpoint in image.buried:
        # After an external snapshot each layer tells only of its own time.
        return f"the bitmap of backup {parent.id} is spread over several images"
    bitmap = next((bitmap for bitmap in image.bitmaps if bitmap.name == parent.checkpoint), None)
    if bitmap is None:
        # A bitmap is written to the image when that is closed.
        return None if running else f"it has lost the bitmap of backup {parent.id}"
    if bitmap.granularity != before.bitmap_granularity:
        return f"the bitmap of backup {parent.id} was replaced by one of another granularity"
    if not running and not bitmap.sound:
        return f"the bitmap of backup {parent.id} was not saved, or does not record"
    return None
