# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The campaign's guest: records among data that never change."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.bed.guest import MIB, Disk, Guest, run
from tests.soak.invariants import Filler


def make_guest(directory: Path, source: random.Random) -> tuple[Guest, dict[str, Filler]]:
    """A guest with records on a qcow2 and a raw disk among data that never change, and ext4 with an agent."""
    fillers = {}
    disks = []
    slots = 128
    for target, image_format, size in (("vda", "qcow2", 28 * MIB), ("vdb", "raw", 8 * MIB)):
        raw, path = directory / f"{target}.filled", directory / f"{target}.{image_format}"
        records_end = MIB + slots * 4096
        ranges = ((0, MIB), (records_end, size))
        with raw.open("wb") as file:
            file.truncate(size)
            for start, end in ranges:
                _fill(file, start, end, source)
        fillers[target] = Filler.of(raw, ranges)
        run(["qemu-img", "convert", "-f", "raw", "-O", image_format, str(raw), str(path)])
        raw.unlink()
        disks.append(Disk(path, format=image_format, target=target))
    disks.append(Disk(directory / "vdc.qcow2", target="vdc", size=16 * MIB, fs_mib=14))
    guest = Guest(
        "soak",
        directory,
        disks,
        agent=True,
        fs="vdc",
        records_on=["vda", "vdb"],
        slots=slots,
        mix=True,
        pause=10000,
        # Room for disks that are plugged in.
        extra="".join(f"<controller type='pci' model='pcie-root-port' index='{number}'/>" for number in range(1, 9)),
    )
    return guest, fillers


def _fill(file: Any, start: int, end: int, source: random.Random) -> None:
    """Runs of noise, of text and of nothing."""
    at = start
    while at < end:
        length = min(source.choice([4096, 65536, 200_000, 1_000_000]), end - at)
        kind = source.choice(["noise", "noise", "text", "nothing"])
        file.seek(at)
        if kind == "noise":
            file.write(source.randbytes(length))
        elif kind == "text":
            file.write((b"%d some text " % at * length)[:length])
        at += length
