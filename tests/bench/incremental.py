# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Incremental backups: after 1 % has changed, after nothing has, on a disk of 1 TiB; and against virtnbdbackup's."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bed.guest import MIB, Guest, run, scratch_directory
from tests.bed.hypervisor import system_libvirt
from tests.bench.disks import GIB, make_disk, make_guest, start, warm

_CLUSTER = 65536
_SHARE = 0.01
_ROUNDS = 3
_BIG, _SMALL = 1024 * GIB, 10 * GIB
_DIRTY = 64 * MIB
TARGETS = {"read / dirty": 1.1, "1 TiB / 10 GiB": 1.2, "empty, s": 2.0}


class Incrementals:
    """Makes and times them.

    Args:
        directory: QEMU's user may enter it.
        size: Bytes of files on the disk.
    """

    def __init__(self, directory: Path, *, size: int) -> None:
        self._directory = directory / "incremental"
        self._directory.mkdir()
        self._directory.chmod(0o755)
        self._size = size
        self._random = random.Random(1)
        self._noise = self._directory / "noise"
        self._noise.write_bytes(os.urandom(_CLUSTER))
        for name, mode in (("backups", 0o700), ("scratch", 0o711)):
            (self._directory / name).mkdir(mode=mode)

    def measure(self) -> dict[str, Any]:
        """All of it."""
        return {**self._against_others(), **self.sizes()}

    def sizes(self) -> dict[str, Any]:
        """The same changes of a small disk and of a large one, by turns."""
        images = {"10 GiB": self._directory / "small.qcow2", "1 TiB": self._directory / "big.qcow2"}
        make_disk(images["10 GiB"], data=GIB, size=_SMALL)
        shutil.copyfile(images["10 GiB"], images["1 TiB"])
        run(["qemu-img", "resize", "-q", "-f", "qcow2", str(images["1 TiB"]), str(_BIG)])
        guests = {
            name: make_guest("inc" + name.replace(" ", ""), self._directory, image) for name, image in images.items()
        }
        try:
            for guest in guests.values():
                start(guest.define())
                self._ours(guest, "full")
            return self._turns(guests, _DIRTY, size=_SMALL)
        finally:
            for name, guest in guests.items():
                guest.undefine()
                images[name].unlink()

    def _against_others(self) -> dict[str, Any]:
        image = self._directory / "vda.qcow2"
        virtual = max(16 * GIB, 2 * self._size)
        make_disk(image, data=self._size, size=virtual)
        guest = make_guest("inc", self._directory, image).define()
        dirty = int(self._size * _SHARE)
        try:
            start(guest)
            warm(image)
            full, _entry = self._ours(guest, "full")
            found = {"full": {"seconds": full}, **self._turns({"changed": guest}, dirty, size=self._size)}
            empty = [self._ours(guest, "incremental")[0] for _turn in range(_ROUNDS)]
            found["empty"] = {"seconds": statistics.median(empty)}
            found["virtnbdbackup"] = self._virtnbdbackup(guest, dirty)
        finally:
            guest.undefine()
        image.unlink()
        return found

    def _turns(self, guests: dict[str, Guest], dirty: int, *, size: int) -> dict[str, Any]:
        seconds: dict[str, list[float]] = {name: [] for name in guests}
        found: dict[str, Any] = {}
        for _turn in range(_ROUNDS):
            for name, guest in guests.items():
                written = self._change(guest, dirty, size=size)
                taken, entry = self._ours(guest, "incremental")
                seconds[name].append(taken)
                found[name] = {
                    "seconds": statistics.median(seconds[name]),
                    "dirty_bytes": written,
                    "read_bytes": entry["bytes_read"],
                    "data_bytes": entry["disks"][0]["bytes"],
                    "stored_bytes": entry["size_bytes"],
                }
        return found

    def _change(self, guest: Guest, count: int, *, size: int) -> int:
        """Write random clusters while the guest is off, which its bitmap records; bytes."""
        image = guest.disks[0].path
        if image is None:
            raise ValueError(f"{guest.name} has no image")
        guest.destroy()
        places = self._random.sample(range(size // _CLUSTER), count // _CLUSTER)
        orders = "".join(f"write -q -s {self._noise} {place * _CLUSTER} {_CLUSTER}\n" for place in places)
        subprocess.run(["qemu-io", "-f", "qcow2", str(image)], input=orders, text=True, check=True, capture_output=True)
        start(guest)
        warm(image)
        return len(places) * _CLUSTER

    def _ours(self, guest: Guest, kind: str) -> tuple[float, dict[str, Any]]:
        """In a fresh process; seconds and its result."""
        params = {
            "vm": [guest.uuid],
            "type": kind,
            "full_every": "300d",
            "backup_dir": str(self._directory / "backups"),
            "scratch_dir": str(self._directory / "scratch"),
            "nice": 0,
            "ionice": "none",
        }
        argv = [sys.executable, "-m", "tests.bench.ours"]
        began = time.monotonic()
        done = subprocess.run(argv, input=json.dumps(params), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"our backup failed: {done.stdout}{done.stderr}")
        (entry,) = json.loads(done.stdout)["backups"]
        return time.monotonic() - began, entry

    def _virtnbdbackup(self, guest: Guest, dirty: int) -> dict[str, Any]:
        """With its own checkpoints, which stay in libvirt, so that the domain must go on running meanwhile."""
        target = self._directory / "virtnbdbackup"
        argv = ["virtnbdbackup", "-d", guest.name, "-z", "-n", "-S", str(self._directory), "-o", str(target)]
        run([*argv, "-l", "full"])
        seconds: list[float] = []
        before = 0
        for _turn in range(_ROUNDS):
            self._change(guest, dirty, size=self._size)
            before = _size(target)
            began = time.monotonic()
            run([*argv, "-l", "inc"])
            seconds.append(time.monotonic() - began)
        return {"seconds": statistics.median(seconds), "stored_bytes": _size(target) - before}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    changed, other = report["changed"], report["virtnbdbackup"]
    ratios = {
        "read / dirty": changed["read_bytes"] / changed["dirty_bytes"],
        "1 TiB / 10 GiB": report["1 TiB"]["seconds"] / report["10 GiB"]["seconds"],
        "empty, s": report["empty"]["seconds"],
    }
    found = [
        (
            f"incremental after 1 %: {changed['seconds']:.2f} s, {changed['stored_bytes'] / MIB:.1f} MiB; "
            f"full {report['full']['seconds']:.2f} s; virtnbdbackup's {other['seconds']:.2f} s, "
            f"{other['stored_bytes'] / MIB:.1f} MiB"
        ),
        f"incremental, read / dirty without what is compared: {changed['data_bytes'] / changed['dirty_bytes']:.3f}",
    ]
    for name, value in ratios.items():
        verdict = "yes" if value <= TARGETS[name] else "NO"
        found.append(f"incremental, {name:19}{value:6.2f}   to reach: {TARGETS[name]:.2f}  {verdict}")
    return found


def main() -> None:
    """Measure these alone, with ``SIZE`` GiB of files."""
    size = float(os.environ.get("SIZE") or 4)
    with system_libvirt(), scratch_directory("bench") as directory:
        report = Incrementals(directory, size=int(size * GIB)).measure()
    print(json.dumps(report, indent=1))
    print("\n".join(lines(report)))


if __name__ == "__main__":
    main()
