# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Getting backups back: restores from here and from S3, verification, and a machine that runs at once out of S3."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._backup import manage_backups
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._options import BACKUP_ARGUMENTS
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2_header import HEADER_SIZE, read_header
from ansible_collections.vmforge.backup.plugins.module_utils._restore import restore_backup
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS
from ansible_collections.vmforge.backup.plugins.module_utils._verify import verify_backups
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VERIFY_ARGUMENTS
from tests.bed.guest import Guest, run
from tests.bed.s3 import S3Server
from tests.bench.disks import GIB, make_disk, make_guest, start, warm
from tests.bench.limits import client_of, hash_seconds, sample, unpack_seconds, write_seconds

TARGETS = {"restore, local": 0.75, "restore, s3": 0.75, "verify, local": 0.75}
INSTANT_SECONDS = 5.0
_PART = 16 << 20
_THREADS = 4
_NEW = "vmforge-bench-restored"


class Restores:
    """Makes one backup in both places, and times what gets it back.

    Args:
        directory: QEMU's user may enter it.
        size: Bytes of files on the disk.
    """

    def __init__(self, directory: Path, s3: S3Server, *, size: int, rounds: int = 3) -> None:
        self._directory, self._s3, self._size, self._rounds = directory / "restore", s3, size, rounds
        self._directory.mkdir(mode=0o755)
        for name, mode in (("backups", 0o700), ("empty", 0o700), ("scratch", 0o711), ("images", 0o755)):
            (self._directory / name).mkdir(mode=mode)

    def measure(self) -> dict[str, Any]:
        """All of it."""
        image = self._directory / "vda.qcow2"
        make_disk(image, data=self._size, size=max(16 * GIB, 2 * self._size))
        guest = make_guest("restore", self._directory, image).define()
        try:
            start(guest)
            stored = self._back_up(guest)
            guest.destroy()
            alone = self._measure_alone(image)
            works: dict[str, Callable[[], float | None]] = {
                "restore, local": lambda: self._restore(guest, "backups"),
                "restore, s3": lambda: self._restore(guest, "empty", **self._place()),
                "verify, local": lambda: self._verify(guest),
                "qemu-img convert": lambda: self._convert(stored, "writeback"),
                "convert": lambda: self._convert(stored, "none"),
                "convert, io_uring": lambda: self._convert(stored, "none", aio="io_uring"),
                "read": lambda: _timed(lambda: _read_all(stored)),
                "download": lambda: self._download(stored),
                "instant, s3, runs": lambda: self._instant(guest),
            }
            seconds: dict[str, list[float]] = {name: [] for name in works}
            for _turn in range(self._rounds):
                for name, work in works.items():
                    warm(stored)
                    began = time.monotonic()
                    told = work()
                    seconds[name].append(told if told is not None else time.monotonic() - began)
        finally:
            guest.undefine()
        return self._report(seconds, stored, alone)

    def _report(self, seconds: dict[str, list[float]], stored: Path, alone: dict[str, float]) -> dict[str, Any]:
        median = {name: statistics.median(values) for name, values in seconds.items()}
        size = stored.stat().st_size
        with stored.open("rb") as stream:
            median["hash"] = hash_seconds(stream.read(min(size, 256 << 20)), size) / (os.cpu_count() or 1)
        median.update(alone)
        # Unpacking and writing together is what qemu-img does; at its fastest, for we use all that makes it faster.
        convert = min(median[name] for name in ("qemu-img convert", "convert", "convert, io_uring"))
        limits = {
            "restore, local": max(median["read"], median["hash"], convert),
            "restore, s3": max(median["download"], median["hash"], convert),
            "verify, local": max(median["read"], median["hash"]),
        }
        part = max(median["hash"], median["unpack"], median["write"])
        slowest = {"restore, local": max(part, median["read"]), "restore, s3": max(part, median["download"])}
        return {
            "stored_bytes": size,
            "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
            "median_seconds": {name: round(value, 2) for name, value in median.items()},
            "limit_share": {name: round(limit / median[name], 3) for name, limit in limits.items()},
            # Of the slowest of all parts, each by itself: what could be had with cores and disks to spare.
            "part_share": {name: round(limit / median[name], 3) for name, limit in slowest.items()},
            "over_convert": {
                name: round(median[name] / median["qemu-img convert"], 2) for name in ("restore, local", "restore, s3")
            },
        }

    def _measure_alone(self, image: Path) -> dict[str, float]:
        """What a restore does beside reading and hashing, each by itself."""
        raw = self._directory / "raw"
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)])
        data, total = sample(raw), raw.stat().st_blocks * 512
        raw.unlink()
        return {"unpack": unpack_seconds(data, total), "write": write_seconds(self._directory, total)}

    def _place(self) -> dict[str, Any]:
        return {"offsite": "s3", **self._s3.params(s3_prefix="restore")}

    def _back_up(self, guest: Guest) -> Path:
        params = {name: spec.get("default") for name, spec in BACKUP_ARGUMENTS.items()}
        params.update(vm=[guest.uuid], backup_dir=str(self._directory / "backups"), nice=0, ionice="none")
        params.update(scratch_dir=str(self._directory / "scratch"), **self._place())
        outcome = manage_backups(Request(params))
        if outcome.failure:
            raise RuntimeError(outcome.failure)
        (stored,) = (self._directory / "backups").glob("*/*/vda.qcow2")
        return stored

    def _restore(self, guest: Guest, backups: str, **more: Any) -> float | None:
        params = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
        params.update(vm=guest.uuid, to=_NEW, storage=str(self._directory / "images"))
        params.update(backup_dir=str(self._directory / backups), state_dir=str(self._directory / "state"), **more)
        began = time.monotonic()
        try:
            outcome = restore_backup(Request(params))
            seconds = time.monotonic() - began
        finally:
            self._remove()
        told: float | None = outcome.values["running_after"]
        return seconds if told is None else told

    def _remove(self) -> None:
        for action in ("destroy", "undefine"):
            subprocess.run(["virsh", "-q", action, _NEW], capture_output=True, check=False)
        for path in (self._directory / "images").iterdir():
            path.unlink()

    def _instant(self, guest: Guest) -> float | None:
        """Until the machine runs; the module ends when its disks are whole."""
        return self._restore(guest, "empty", instant=True, **self._place())

    def _verify(self, guest: Guest) -> None:
        params = {name: spec.get("default") for name, spec in VERIFY_ARGUMENTS.items()}
        params.update(vm=[guest.uuid], backup_dir=str(self._directory / "backups"))
        outcome = verify_backups(Request(params))
        if outcome.failure:
            raise RuntimeError(outcome.failure)

    def _convert(self, stored: Path, cache: str, *, aio: str = "threads") -> None:
        """Believes what is there, and syncs as we do; we write past the page cache as well."""
        target = self._directory / "images" / "converted.qcow2"
        with stored.open("rb") as stream:
            size = read_header(stream.read(HEADER_SIZE)).virtual_size
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(target), str(size)])
        node = {"driver": "qcow2", "file": {"driver": "file", "filename": str(target), "aio": aio}}
        options = ["-n", "--target-is-zero", "-t", cache, "-W", "-m", "8", "-f", "qcow2", "-O", "qcow2"]
        run(["qemu-img", "convert", *options, str(stored), "json:" + json.dumps(node)])
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
        target.unlink()

    def _download(self, stored: Path) -> float:
        """Getting the object in ranges, four at a time, and throwing it away."""
        client, size = client_of(self._s3), stored.stat().st_size
        key = f"restore/{stored.parent.parent.name}/{stored.parent.name}/{stored.name}"

        def fetch(at: int) -> None:
            last = min(at + _PART, size) - 1
            answer = client.get_object(Bucket=self._s3.bucket, Key=key, Range=f"bytes={at}-{last}")
            with contextlib.closing(answer["Body"]) as body:
                body.read()

        return _timed(lambda: _in_threads(fetch, size))


def _read_all(path: Path) -> None:
    """Past the page cache."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:

        def read(at: int) -> None:
            with mmap.mmap(-1, _PART) as block:
                os.preadv(descriptor, [block], at)

        _in_threads(read, path.stat().st_size)
    finally:
        os.close(descriptor)


def _in_threads(work: Callable[[int], None], size: int) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, range(0, size, _PART)))


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    alone = "  ".join(f"{name} {seconds:.2f}" for name, seconds in report["median_seconds"].items())
    found = [f"restore and verify, s: {alone}"]
    for name, share in report["limit_share"].items():
        words = f"share of the limit, {name}"
        verdict = "yes" if share >= TARGETS[name] else "NO"
        found.append(f"{words:36}{share:6.2f}   to reach: {TARGETS[name]:.2f}  {verdict}")
    for name, share in report["part_share"].items():
        found.append(f"{f'of the slowest part alone, {name}':44}{share:6.2f}")
    for name, ratio in report["over_convert"].items():
        found.append(f"{name + ' / qemu-img convert':36}{ratio:6.2f}")
    runs = report["median_seconds"]["instant, s3, runs"]
    verdict = "yes" if runs <= INSTANT_SECONDS else "NO"
    found.append(f"{'instant from S3, s until it runs':36}{runs:6.2f}   to reach: {INSTANT_SECONDS:.2f}  {verdict}")
    return found
