# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``make bench``: our backups against the others' ways, and against what the machine can do at all.

Environment: ``SIZE`` GiB of files (4), ``ROUNDS`` (5). All contestants take turns, with the disk in the page cache;
medians count. Prints a table, writes ``build/bench.json``. Wants a machine with nothing else to do.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bed.guest import Guest, scratch_directory
from tests.bed.hypervisor import system_libvirt
from tests.bed.s3 import S3Server, weed
from tests.bench import catalog, incremental, pages, playbooks, restore, retention
from tests.bench.disks import GIB, make_disk, make_guest, start, warm
from tests.bench.limits import (
    Limit,
    client_of,
    compress_seconds,
    hash_seconds,
    read_seconds,
    sample,
    send_seconds,
    write_seconds,
)

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {
    "local / virtnbdbackup": 0.45,
    "local / qemu-img convert -c": 0.80,
    "local / PHP pack": 0.35,
    "1 TiB / 10 GiB": 1.2,
}
LIMIT_SHARE, MEMORY_MIB = 0.75, 512
_PREFIX = "bench"
_BIG, _SMALL = 1024 * GIB, 10 * GIB


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


class Bench:
    """What is measured, and where.

    Args:
        size: Bytes of files on the disk.
    """

    def __init__(self, directory: Path, s3: S3Server, *, size: int, rounds: int) -> None:
        self.directory, self.s3, self.rounds = directory, s3, rounds
        self.backup_dir, self.scratch_dir = directory / "backups", directory / "scratch"
        self.out = directory / "out"
        for path, mode in ((self.backup_dir, 0o700), (self.scratch_dir, 0o711), (self.out, 0o755)):
            path.mkdir(mode=mode)
        self.image = directory / "vda.qcow2"
        say(f"bench: a disk with {size / GIB:g} GiB of files …")
        make_disk(self.image, data=size, size=max(16 * GIB, 2 * size))
        self.guest = make_guest("main", directory, self.image)
        self.seconds: dict[str, list[float]] = {}
        self.memory: dict[str, float] = {}
        self.stored: dict[str, int] = {}
        self.read_bytes = 0
        self.load = 0.0

    # The contestants

    def contestants(self) -> dict[str, tuple[bool, Callable[[], int]]]:
        """Name -> whether the guest runs meanwhile, and what returns the bytes that were stored."""
        return {
            "local": (True, lambda: self.ours(self.guest)),
            "s3": (True, lambda: self.ours(self.guest, s3=True)),
            "virtnbdbackup": (True, self.virtnbdbackup),
            "qemu-img convert -c": (False, self.convert_compressed),
            "PHP pack": (False, self.pack),
        }

    def ours(self, guest: Guest, *, s3: bool = False) -> int:
        """A full backup with the defaults, but for niceness: the others run without."""
        params: dict[str, Any] = {
            "vm": [guest.uuid],
            "backup_dir": str(self.backup_dir),
            "scratch_dir": str(self.scratch_dir),
            "nice": 0,
            "ionice": "none",
            "type": "full",
        }
        if s3:
            place = {"offsite": "s3", "s3_prefix": _PREFIX, "delete_local_after_upload": True}
            params.update(place, **self.s3.params())
        argv = [sys.executable, "-m", "tests.bench.ours"]
        done = subprocess.run(argv, input=json.dumps(params), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"our backup failed: {done.stdout}{done.stderr}")
        (backup,) = json.loads(done.stdout)["backups"]
        (disk,) = backup["disks"]
        (self.out / "data_bytes").write_text(str(disk["bytes"]))
        return int(backup["size_bytes"])

    def virtnbdbackup(self) -> int:
        """With its own compression (lz4); no checkpoint."""
        target = self.out / "virtnbdbackup"
        argv = ["virtnbdbackup", "-d", self.guest.name, "-l", "copy", "-z", "-n", "-S", str(self.directory)]
        _run([*argv, "-o", str(target)])
        return _size(target)

    def convert_compressed(self) -> int:
        """Of the stopped disk: no checksum, no sync."""
        target = self.out / "compressed.qcow2"
        options = ["-c", "-o", "compression_type=zstd", "-W", "-m", "16"]
        _run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", *options, str(self.image), str(target)])
        return _size(target)

    def pack(self) -> int:
        """Convert, the checksum for the catalogue, the checksum for the signature, one PUT."""
        target = self.out / "pack.qcow2"
        _run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", str(self.image), str(target)])
        _run(["sha256sum", str(target)])
        _run(["sha256sum", str(target)])
        place = {"Bucket": self.s3.bucket, "Key": "pack.qcow2"}
        url = client_of(self.s3).generate_presigned_url("put_object", Params=place)
        _run(["curl", "-sS", "--fail", "-o", "/dev/null", "-T", str(target), url])
        return _size(target)

    # Measuring

    def run(self) -> None:
        """All rounds, in alternating order."""
        for number in range(1, self.rounds + 1):
            chosen = list(self.contestants().items())
            for name, (running, work) in chosen if number % 2 else reversed(chosen):
                self._have_guest(running)
                self.measure(name, work)
            words = "  ".join(f"{name} {values[-1]:.1f}" for name, values in self.seconds.items())
            say(f"bench: round {number}: {words}")
        self._have_guest(False)

    def measure(self, name: str, work: Callable[[], int], image: Path | None = None) -> None:
        """One turn: seconds, bytes stored, and the memory of the largest process."""
        warm(image or self.image)
        began = time.monotonic()
        stored, memory = _with_memory(work)
        self.seconds.setdefault(name, []).append(time.monotonic() - began)
        self.memory[name] = max(memory, self.memory.get(name, 0))
        self.stored[name] = stored
        if name == "local":
            self.read_bytes = int((self.out / "data_bytes").read_text())
        self._clear()

    def _clear(self) -> None:
        for directory in (self.out, self.backup_dir):
            shutil.rmtree(directory)
            directory.mkdir(mode=0o700 if directory is self.backup_dir else 0o755)
        with_keys = client_of(self.s3)
        for page in with_keys.get_paginator("list_objects_v2").paginate(Bucket=self.s3.bucket):
            for item in page.get("Contents", []):
                with_keys.delete_object(Bucket=self.s3.bucket, Key=item["Key"])

    def _have_guest(self, running: bool) -> None:
        state = self.guest.state()
        if running and state != "running":
            start(self.guest)
        elif not running and state != "shut off":
            self.guest.destroy()

    def limit(self) -> Limit:
        """The parts alone. The guest is off."""
        say("bench: each part alone …")
        raw = self.directory / "sample.raw"
        _run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-W", "-m", "16", str(self.image), str(raw)])
        data = sample(raw)
        raw.unlink()
        warm(self.image)
        stored = self.stored["local"]
        return Limit(
            read=_median(lambda: read_seconds(self.image, self.directory)),
            compress=_median(lambda: compress_seconds(data, self.read_bytes)),
            hash=_median(lambda: hash_seconds(data, stored)),
            write=_median(lambda: write_seconds(self.out, stored)),
            send=_median(lambda: send_seconds(self.s3, stored)),
        )

    def sparse(self) -> None:
        """The same data on a disk of 10 GiB and on one of 1 TiB."""
        say("bench: 1 GiB of files on 10 GiB and on 1 TiB …")
        small, big = self.directory / "small.qcow2", self.directory / "big.qcow2"
        make_disk(small, data=GIB, size=_SMALL)
        shutil.copyfile(small, big)
        _run(["qemu-img", "resize", "-q", "-f", "qcow2", str(big), str(_BIG)])
        images = {"10 GiB": small, "1 TiB": big}
        guests = {name: make_guest(name.replace(" ", ""), self.directory, image) for name, image in images.items()}
        try:
            for guest in guests.values():
                guest.define()
                start(guest)
            for _round in range(min(self.rounds, 3)):
                for name, guest in guests.items():
                    self.measure(name, functools.partial(self.ours, guest), images[name])
        finally:
            for guest in guests.values():
                guest.undefine()

    def report(self, limit: Limit) -> dict[str, Any]:
        """Everything that was measured, as plain values."""
        median = {name: statistics.median(values) for name, values in self.seconds.items()}
        pairs = [name.split(" / ") for name in TARGETS]
        ratios = {f"{ours} / {other}": median[ours] / median[other] for ours, other in pairs}
        return {
            "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
            "load_before": self.load,
            "rounds": self.rounds,
            "read_bytes": self.read_bytes,
            "stored_bytes": self.stored,
            "seconds": {name: [round(value, 2) for value in values] for name, values in self.seconds.items()},
            "median_seconds": {name: round(value, 2) for name, value in median.items()},
            "memory_mib": {name: round(value) for name, value in self.memory.items()},
            "ratios": {name: round(value, 3) for name, value in ratios.items()},
            "limit_seconds": {name: round(value, 2) for name, value in vars(limit).items()},
            "limit_share": {
                "local": round(limit.local() / median["local"], 3),
                "s3": round(limit.s3() / median["s3"], 3),
            },
        }


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed ({done.returncode}): {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    return sum(file.stat().st_size for file in files)


def _median(work: Callable[[], float]) -> float:
    return statistics.median(work() for _turn in range(3))


def _with_memory(work: Callable[[], int]) -> tuple[int, float]:
    """What ``work`` returns, and the peak in MiB of its largest process: it runs in a child, which reports both."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writer, str(work()).encode())
            status = 0
        except RuntimeError as error:
            sys.stderr.write(f"{error}\n")
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    _pid, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError("a contestant failed")
    return int(answer), usage.ru_maxrss / 1024


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{'':22}{'median':>9}{'memory':>11}{'stored':>12}"]
    for name, seconds in report["median_seconds"].items():
        stored = report["stored_bytes"][name] / GIB
        lines.append(f"{name:22}{seconds:7.2f} s{report['memory_mib'][name]:7} MiB{stored:8.2f} GiB")
    lines.append("")
    for name, ratio in report["ratios"].items():
        lines.append(f"{name:32}{ratio:6.2f}   to reach: {TARGETS[name]:.2f}  {_verdict(ratio <= TARGETS[name])}")
    for name, share in report["limit_share"].items():
        words = f"share of the limit, {name}"
        lines.append(f"{words:32}{share:6.2f}   to reach: {LIMIT_SHARE:.2f}  {_verdict(share >= LIMIT_SHARE)}")
    memory = max(report["memory_mib"][name] for name in ("local", "s3"))
    lines.append(f"{'memory, MiB':32}{memory:6}   to reach: {MEMORY_MIB}   {_verdict(memory <= MEMORY_MIB)}")
    alone = "  ".join(f"{name} {seconds:.2f}" for name, seconds in report["limit_seconds"].items())
    lines.append(f"each part alone, s: {alone}")
    return "\n".join(lines)


def _verdict(reached: bool) -> str:
    return "yes" if reached else "NO"


def main() -> None:
    """Measure."""
    size, rounds = float(os.environ.get("SIZE") or 4), int(os.environ.get("ROUNDS") or 5)
    if shutil.which("virtnbdbackup") is None:
        raise SystemExit("bench: virtnbdbackup is missing: apt-get install virtnbdbackup")
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"bench: the load of this machine is {load:.1f}: something else is running, and will show in the numbers")
    with system_libvirt(), scratch_directory("bench") as directory, weed(directory / "s3") as s3:
        bench = Bench(directory, s3, size=int(size * GIB), rounds=rounds)
        bench.load = load
        bench.guest.define()
        try:
            bench.run()
        finally:
            bench.guest.undefine()
        # Before the parts alone: a process begins with its parent's memory on its account.
        bench.sparse()
        say("bench: incremental backups …")
        incrementals = incremental.Incrementals(directory, size=int(size * GIB)).measure()
        say("bench: restores …")
        restores = restore.Restores(directory, s3, size=int(size * GIB), rounds=min(rounds, 3)).measure()
        limit = bench.limit()
        report = bench.report(limit)
        report["incremental"] = incrementals
        report["restore"] = restores
    # Apart from the rounds: it needs a database, and neither a guest nor a disk.
    say("bench: the catalogue …")
    report["catalog"] = catalog.measure()
    say("bench: retention …")
    report["retention"] = retention.measure()
    say("bench: playbooks …")
    report["playbooks"] = playbooks.measure()
    say("bench: pages …")
    report["pages"] = pages.measure()
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    say(table(report))
    say("\n".join(incremental.lines(report["incremental"])))
    say("\n".join(restore.lines(report["restore"])))
    say("\n".join(catalog.lines(report["catalog"])))
    say("\n".join(retention.lines(report["retention"])))
    say("\n".join(playbooks.lines(report["playbooks"])))
    say("\n".join(pages.lines(report["pages"])))


if __name__ == "__main__":
    main()
