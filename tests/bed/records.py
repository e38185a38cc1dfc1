# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves on the host that images of a guest's disks are of one instant: the same rules as ``scan`` in ``init.sh``.

Record n goes to disk (n-1) % D, slot ((n-1) // D * 7919) % S, and fills it with the number 10^14+n. The writer starts
n+1 only when n is on the disk, so images of one instant hold for some M exactly what records 1..M left behind, and
perhaps a part of M+1, which was in flight.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bed.guest import MIB, Guest, run

BLOCK = 4096
_SCATTER = 7919


class BrokenError(AssertionError):
    """The images are not of one instant, or not of this guest."""


@dataclass(frozen=True)
class Geometry:
    """How a guest was told to write: the fields of :class:`tests.bed.guest.Guest` of the same names."""

    kib: int = 4
    slots: int = 256
    base: int = 1
    stride: int = 0
    mix: bool = False

    @classmethod
    def of(cls, guest: Guest) -> Geometry:
        """Take the geometry of a guest."""
        return cls(kib=guest.kib, slots=guest.slots, base=guest.base, stride=guest.stride, mix=guest.mix)

    @property
    def step(self) -> int:
        """Bytes from slot to slot."""
        return (self.stride or self.kib) * 1024

    def places(self, virtual_size: int) -> int:
        """Return the number of slots on a disk of so many bytes."""
        fit = min((virtual_size // 1024 - self.base * 1024) // (self.step // 1024), self.slots)
        return fit - 1 if fit % _SCATTER == 0 else fit

    def kind(self, number: int) -> str:
        """Say what record ``number`` does to its slot: ``write``, ``zero`` or ``trim``."""
        return {5: "zero", 7: "trim"}.get(number % 8, "write") if self.mix else "write"


def content(number: int, size: int = BLOCK) -> bytes:
    """Return what record ``number`` fills its slot with."""
    return b"%d\n" % (10**14 + number) * (size // 16)


def verify(images: Sequence[Path | str], geometry: Geometry | None = None, *, formats: Sequence[str] = ()) -> int:
    """Prove images of all the record disks of a guest, in the guest's order.

    Args:
        images: Files of any format, or NBD URIs; a backing chain is followed.
        geometry: As the guest was told.
        formats: One per image; ``qcow2`` where not given.

    Returns:
        M, the newest whole record.

    Raises:
        BrokenError: Names the first slot that does not fit.
    """
    geometry = geometry or Geometry()
    with tempfile.TemporaryDirectory(prefix="vmforge-bed-", dir="/var/tmp") as scratch:
        disks = []
        for index, image in enumerate(images):
            raw = Path(scratch) / str(index)
            image_format = formats[index] if formats else "qcow2"
            run(["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", str(image), str(raw)])
            disks.append(_blocks(raw, geometry))
        return check(disks, geometry)


def _blocks(raw: Path, geometry: Geometry) -> list[list[int]]:
    """Read the record number in every block of every slot; 0 where it is all zeroes."""
    slots = []
    with raw.open("rb") as file:
        for slot in range(geometry.places(raw.stat().st_size)):
            at = geometry.base * MIB + slot * geometry.step
            file.seek(at)
            data = file.read(geometry.kib * 1024)
            slots.append([_number(data[p : p + BLOCK], f"{raw.name} at {at + p}") for p in range(0, len(data), BLOCK)])
    return slots


def _number(block: bytes, where: str) -> int:
    if not any(block):
        return 0
    head = block[:16]
    number = int(head) - 10**14 if head[:15].isdigit() else -1
    if number < 1 or block != content(number):
        raise BrokenError(f"disk {where}: not a record, and not zeroes: {head!r}…")
    return number


def check(disks: Sequence[Sequence[Sequence[int]]], geometry: Geometry) -> int:
    """Prove what :func:`verify` has read: for each disk, for each slot, the record number in each of its blocks."""
    count = len(disks)
    top = max((number for disk in disks for slot in disk for number in slot), default=0)
    places = [len(disk) for disk in disks]

    def slot_of(number: int) -> tuple[int, int]:
        disk = (number - 1) % count
        return disk, (number - 1) // count * _SCATTER % places[disk]

    torn = 0
    if top:
        disk, slot = slot_of(top)
        torn = top if any(number != top for number in disks[disk][slot]) else 0
    newest = torn - 1 if torn else top
    loose = set()
    ahead = newest + 1
    while geometry.kind(ahead) != "write":
        loose.add(slot_of(ahead))
        ahead += 1

    def fits(have: int, last: int, period: int) -> bool:
        # A discarded block reads as zeroes or, where the format kept it, as before.
        while last > 0 and geometry.kind(last) == "trim":
            if have == 0:
                return True
            last -= period
        return have == (0 if last <= 0 or geometry.kind(last) == "zero" else last)

    for disk, slots in enumerate(disks):
        period = count * places[disk]
        for turn in range(places[disk]):
            here = disk, turn * _SCATTER % places[disk]
            first = disk + 1 + turn * count
            last = first + (newest - first) // period * period if first <= newest else 0
            in_flight = {0} if here in loose else {torn} if torn and here == slot_of(torn) else set()
            for have in slots[here[1]]:
                if have not in in_flight and not fits(have, last, period):
                    where = f"disk {disk} slot {here[1]}"
                    raise BrokenError(f"{where}: holds record {have} where {last} belongs, newest {newest}")
    return newest
