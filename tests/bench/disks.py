# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks with real files, and the guests that have them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bed.guest import Disk, Guest, run

GIB = 1 << 30
_SOURCE = Path("/usr")


def _files() -> Iterator[Path]:
    for directory, names, files in os.walk(_SOURCE):
        names.sort()
        for name in sorted(files):
            path = Path(directory) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _gather(target: Path, wanted: int) -> int:
    """Link files of this system below a directory until there are so many bytes; the bytes there are."""
    gathered = turn = 0
    while gathered < wanted:
        turn, before = turn + 1, gathered
        for path in _files():
            place = target / str(turn) / path.relative_to(_SOURCE)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place)
            except OSError:
                # Another file system, or too many links.
                shutil.copyfile(path, place)
            gathered += path.stat().st_size
            if gathered >= wanted:
                break
        if gathered == before:
            raise RuntimeError(f"{_SOURCE} has no files to fill a disk with")
    return gathered


def make_disk(path: Path, *, data: int, size: int) -> None:
    """Make a qcow2 image of a disk of ``size`` bytes whose ext4 holds about ``data`` bytes of files."""
    staging, raw = path.with_suffix(".files"), path.with_suffix(".raw")
    staging.mkdir()
    try:
        _gather(staging, data)
        with raw.open("wb") as file:
            file.truncate(size)
        # No journal and inode tables written at once: what is on the disk is the files.
        run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", str(staging), str(raw)])
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-W", "-m", "16", str(raw), str(path)])
    finally:
        shutil.rmtree(staging)
        raw.unlink(missing_ok=True)


def make_guest(name: str, directory: Path, image: Path) -> Guest:
    """A guest that boots and does nothing."""
    return Guest(f"bench-{name}", directory, [Disk(image)], mode="idle", records_on=["vda"])


def start(guest: Guest) -> None:
    """Start it, and wait until it is at rest."""
    guest.start()
    guest.wait("bed: ready")


def warm(path: Path) -> None:
    """Have a file in the page cache, and nothing left to be written."""
    subprocess.run(["sync"], check=True)
    block = bytearray(4 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            continue
