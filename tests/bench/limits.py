# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a backup, each measured alone: no program that does all of them can be faster than the slowest."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import zstandard
from botocore.config import Config

from tests.bed.s3 import S3Server

_CLUSTER = 1 << 16
_PART = 16 << 20
_SAMPLE = 384 << 20
_SENDERS = 4


@contextlib.contextmanager
def _export(image: Path, socket: Path) -> Iterator[str]:
    """A read-only export of an image of a stopped domain."""
    argv = ["qemu-nbd", "-r", "-t", "-e", "8", "-f", "qcow2", "-k", str(socket), str(image)]
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        while not socket.exists():
            if server.poll() is not None:
                raise RuntimeError("qemu-nbd did not start")
            time.sleep(0.01)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        server.terminate()
        server.wait()
        socket.unlink(missing_ok=True)


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def read_seconds(image: Path, directory: Path) -> float:
    """Reading what is allocated, from QEMU over NBD, with libnbd's own copying program and nowhere to put it."""
    with _export(image, directory / "read.sock") as uri:
        return _timed(lambda: subprocess.run(["nbdcopy", "--allocated", uri, "null:"], check=True))


def sample(raw: Path) -> bytes:
    """Data of the disk, from all over it."""
    found = bytearray()
    with raw.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = [at for at in range(0, size, 1 << 20) if _has_data(file.fileno(), at)]
        for at in data[:: max(1, len(data) * (1 << 20) // _SAMPLE)]:
            file.seek(at)
            found += file.read(1 << 20)
    return bytes(found)


def _has_data(descriptor: int, at: int) -> bool:
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA) == at
    except OSError:
        return False


_shared = b""


def _clusters(bounds: tuple[int, int]) -> list[memoryview]:
    data = memoryview(_shared)
    return [data[at : at + _CLUSTER] for at in range(*bounds, _CLUSTER)]


def _compress(bounds: tuple[int, int]) -> float:
    compress = zstandard.ZstdCompressor(level=1).compress
    return _timed(lambda: [len(compress(cluster)) for cluster in _clusters(bounds)])


def _unpack(bounds: tuple[int, int]) -> float:
    compress, unpack = zstandard.ZstdCompressor(level=1).compress, zstandard.ZstdDecompressor().decompress
    frames = [compress(cluster) for cluster in _clusters(bounds)]
    return _timed(lambda: [len(unpack(frame)) for frame in frames])


def compress_seconds(data: bytes, total: int) -> float:
    """Compressing so many bytes like these, a process per core; the data are in memory."""
    return _on_all_cores(_compress, data, total)


def unpack_seconds(data: bytes, total: int) -> float:
    """Unpacking so many bytes like these, a process per core; what is unpacked is in memory."""
    return _on_all_cores(_unpack, data, total)


def _on_all_cores(seconds: Callable[[tuple[int, int]], float], data: bytes, total: int) -> float:
    global _shared
    _shared = data
    cores = os.cpu_count() or 1
    step = -(-len(data) // (cores * 4 * _CLUSTER)) * _CLUSTER
    slices = [(at, min(at + step, len(data))) for at in range(0, len(data), step)]
    with ProcessPoolExecutor(cores) as pool:
        return sum(pool.map(seconds, slices)) / cores * total / len(data)


def hash_seconds(data: bytes, total: int) -> float:
    """SHA-256 of so many bytes, once, on one core."""
    return _timed(lambda: hashlib.sha256(data).digest()) * total / len(data)


def write_seconds(directory: Path, total: int) -> float:
    """Writing a file of so many bytes past the page cache, and fsync."""
    block = mmap.mmap(-1, _PART)
    block.write(os.urandom(_PART))
    path = directory / "written"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
    try:

        def write() -> None:
            with ThreadPoolExecutor(_SENDERS) as pool:
                list(pool.map(lambda at: os.pwrite(descriptor, block, at), range(0, total, _PART)))
            os.fsync(descriptor)

        return _timed(write)
    finally:
        os.close(descriptor)
        path.unlink()


def send_seconds(s3: S3Server, total: int) -> float:
    """Sending so many bytes in parts, four at a time, each signed with the SHA-256 that is known already."""
    client = client_of(s3)
    target = {"Bucket": s3.bucket, "Key": "limit"}
    data = os.urandom(_PART)
    upload = client.create_multipart_upload(**target)["UploadId"]

    def send(number: int) -> None:
        client.upload_part(**target, UploadId=upload, PartNumber=number, Body=data)

    def send_all() -> None:
        with ThreadPoolExecutor(_SENDERS) as pool:
            list(pool.map(send, range(1, -(-total // _PART) + 1)))

    try:
        return _timed(send_all)
    finally:
        client.abort_multipart_upload(**target, UploadId=upload)


def client_of(s3: S3Server) -> Any:
    """A plain client that neither signs nor hashes the data themselves."""
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        config=Config(s3={"addressing_style": "path", "payload_signing_enabled": False}, max_pool_connections=_SENDERS),
    )


@dataclass(frozen=True)
class Limit:
    """Seconds of each part."""

    read: float
    compress: float
    hash: float
    write: float
    send: float

    def local(self) -> float:
        """Of a backup to a local disk."""
        return max(self.read, self.compress, self.hash, self.write)

    def s3(self) -> float:
        """Of a backup to S3."""
        return max(self.read, self.compress, self.hash, self.send)
