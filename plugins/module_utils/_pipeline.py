# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data path: reader -> compressor -> parts -> hasher -> sink. Threads; knows neither libvirt nor S3.

Readers read and compress side by side and hand clusters to one image writer under a lock: their order in the file is
free, for qcow2 does not mind. Full parts go through a bounded set of buffers to part workers, which hash each part
and give it to the sink; when that is slower than the guest's disk, the readers wait.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Callable, Protocol

from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import aligned_buffer
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent
from ansible_collections.vmforge.backup.plugins.module_utils._packer import ClusterPacker
from ansible_collections.vmforge.backup.plugins.module_utils._parts import MIN_PART_SIZE, PartBuffer, PartCutter
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE, ImageWriter

_WAIT_SECONDS = 0.2
# After a failure: an upload may be waiting for an answer that never comes. Such a thread ends with the process.
_GIVE_UP_SECONDS = 15.0


class Reader(Protocol):
    """One connection to a disk."""

    def read(self, ranges: Iterator[Extent]) -> Iterator[tuple[int, bytearray]]:
        """Yield offset and data of each range."""

    def close(self) -> None:
        """End the connection."""


class Sink(Protocol):
    """Where the parts of one file go."""

    def write_part(self, number: int, offset: int, data: memoryview, digest: bytes) -> None:
        """Take one part: number from 1, offset in the file, raw SHA-256. Called from several threads, in any order."""


@dataclass(frozen=True)
class StreamSettings:
    """How one image is made.

    Attributes:
        compression: ``zstd``, ``zlib`` or ``none``.
        level: Of the compressor.
        readers: Connections, each with a thread that reads and compresses.
        part_size: In bytes.
        backing: File name and format of the parent image, or None.
    """

    compression: str = "zstd"
    level: int = 1
    readers: int = 2
    part_size: int = MIN_PART_SIZE
    backing: tuple[str, str] | None = None


@dataclass(frozen=True)
class Streamed:
    """What one image became: bytes of the file, raw SHA-256 of each part, bytes of data it holds."""

    size: int
    parts: tuple[bytes, ...]
    data_bytes: int


class Stop:
    """A flag that all threads of a run watch, with the first failure that raised it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def __call__(self) -> bool:
        return self._event.is_set()

    def fail(self, error: BaseException) -> None:
        """Ask every thread to end, because of this. The first reason stays."""
        with self._lock:
            if self.error is None:
                self.error = error
        self._event.set()

    def check(self) -> None:
        """Raise the reason, if the run was stopped."""
        if self._event.is_set():
            raise self.error or CancelledError("The run was stopped.")


class RateLimit:
    """At most so many bytes a second over all threads; None is no limit."""

    def __init__(self, bytes_per_second: int | None) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, count: int, stop: Stop) -> None:
        """Return when ``count`` more bytes may be read, or at once when the run was stopped."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + count / self._rate
        while (left := start - time.monotonic()) > 0 and not stop():
            time.sleep(min(left, _WAIT_SECONDS))


def split_ranges(extents: Iterable[Extent], *, size: int, limit: int) -> Iterator[Extent]:
    """Widen extents to whole clusters, merge what touches, and cut the result into requests.

    Args:
        extents: Ascending.
        size: Of the disk; the last cluster may be partial.
        limit: Longest request in bytes, a multiple of the cluster size.
    """
    done = 0
    for extent in extents:
        start = max(done, extent.offset - extent.offset % CLUSTER_SIZE)
        end = min(size, -(-(extent.offset + extent.length) // CLUSTER_SIZE) * CLUSTER_SIZE)
        while start < end:
            length = min(limit, end - start)
            yield Extent(start, length)
            start += length
        done = max(done, end)


class _Shared(Iterator[Extent]):
    """Hands the ranges of one disk to several readers."""

    def __init__(self, ranges: Iterator[Extent], limit: RateLimit, stop: Stop) -> None:
        self._ranges, self._limit, self._stop = ranges, limit, stop
        self._lock = threading.Lock()

    def __next__(self) -> Extent:
        self._stop.check()
        with self._lock:
            extent = next(self._ranges)
        self._limit.wait(extent.length, self._stop)
        return extent


class ImageStream:
    """Streams one disk into one qcow2 file.

    Args:
        connect: Opens a reader; called once in each reader thread.
        size: Of the disk in bytes.
        ranges: What to read, cut into requests, in whole clusters but for the disk's end.
        zeros: What reads zero and is said so, whatever the parent holds; likewise in whole clusters.
        sink: Takes the parts.
        settings: See :class:`StreamSettings`.
        stop: Shared by the whole run.
        limit: Shared by the whole run.
        advance: Told of bytes read, and of bytes stored.
    """

    def __init__(
        self,
        connect: Callable[[], Reader],
        *,
        size: int,
        ranges: Iterable[Extent],
        zeros: Iterable[Extent] = (),
        sink: Sink,
        settings: StreamSettings,
        stop: Stop,
        limit: RateLimit,
        advance: Callable[[int, int], None],
    ) -> None:
        self._connect, self._sink, self._settings, self._stop = connect, sink, settings, stop
        self._advance = advance
        self._ranges = _Shared(iter(ranges), limit, stop)
        # Small parts: enough that a slow upload does not stall the readers. Large parts: three, as little as works.
        self._part_workers = 4 if settings.part_size <= MIN_PART_SIZE else 2
        count = self._part_workers + 2 if settings.part_size <= MIN_PART_SIZE else 3
        self._buffers: Queue[PartBuffer] = Queue()
        # Made when first needed: a small disk needs one.
        self._unmade = count
        self._parts: dict[int, bytes] = {}
        self._queue: Queue[tuple[int, PartBuffer, int] | None] = Queue()
        self._lock = threading.Lock()
        self._cutter = PartCutter(part_size=settings.part_size, hole=CLUSTER_SIZE, take=self._take, emit=self._emit)
        self._writer = ImageWriter(
            size, compression=settings.compression, append=self._cutter.append, backing=settings.backing
        )
        for extent in zeros:
            self._writer.add_zeros(extent.offset // CLUSTER_SIZE, -(-extent.length // CLUSTER_SIZE))
        self._data_bytes = 0

    def run(self) -> Streamed:
        """Stream until everything has reached the sink.

        Raises:
            VMForgeError: The first failure of any thread, or the reason for which the run was stopped.
        """
        pool = ThreadPoolExecutor(self._settings.readers + self._part_workers)
        readers = [self._start(pool, self._read) for _number in range(self._settings.readers)]
        workers = [self._start(pool, self._work) for _number in range(self._part_workers)]
        try:
            _join(readers)
            self._stop.check()
            self._cutter.finish(self._writer.finish())
            for _worker in workers:
                self._queue.put(None)
            _join(workers)
        except BaseException as error:
            self._stop.fail(error)
            for _worker in workers:
                self._queue.put(None)
            _join(readers + workers, seconds=_GIVE_UP_SECONDS)
            raise
        finally:
            pool.shutdown(wait=False)
        self._stop.check()
        parts = tuple(self._parts[number] for number in sorted(self._parts))
        return Streamed(size=self._cutter.size, parts=parts, data_bytes=self._data_bytes)

    def _start(self, pool: Executor, work: Callable[[], None]) -> Future[None]:
        """Run something in a thread; a failure of any kind in it stops the run and is raised by ``run``."""

        def note(future: Future[None]) -> None:
            error = future.exception()
            if error is not None:
                self._stop.fail(error)

        future = pool.submit(work)
        future.add_done_callback(note)
        return future

    def _read(self) -> None:
        reader = self._connect()
        try:
            pack = ClusterPacker(
                self._settings.compression, self._settings.level, tell_zeros=self._settings.backing is not None
            )
            for offset, data in reader.read(self._ranges):
                clusters = pack(offset, data)
                with self._lock:
                    before = self._cutter.size
                    for index, packed, plain in clusters:
                        if packed is not None:
                            self._writer.add_compressed(index, packed)
                        elif plain is not None:
                            self._writer.add_plain(index, plain)
                        else:
                            self._writer.add_zero(index)
                            self._data_bytes -= CLUSTER_SIZE
                    stored = self._cutter.size - before
                    self._data_bytes += len(clusters) * CLUSTER_SIZE
                self._advance(len(data), stored)
        finally:
            reader.close()

    def _take(self) -> PartBuffer:
        """A free buffer, for the cutter, which is used by one thread at a time."""
        if self._buffers.empty() and self._unmade:
            self._unmade -= 1
            return aligned_buffer(self._settings.part_size)
        while True:
            try:
                return self._buffers.get(timeout=_WAIT_SECONDS)
            except Empty:
                self._stop.check()

    def _emit(self, number: int, buffer: PartBuffer, length: int) -> None:
        self._queue.put((number, buffer, length))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            number, buffer, length = item
            if self._stop():
                continue
            with memoryview(buffer)[:length] as view:
                digest = hashlib.sha256(view).digest()
                self._sink.write_part(number, (number - 1) * self._settings.part_size, view, digest)
            self._parts[number] = digest
            self._buffers.put(buffer)


def _join(futures: Sequence[Future[None]], *, seconds: float = math.inf) -> None:
    """Wait in short steps, so that a signal handler of the main thread gets its turn."""
    deadline = time.monotonic() + seconds
    while wait(futures, timeout=_WAIT_SECONDS).not_done and time.monotonic() < deadline:
        continue
