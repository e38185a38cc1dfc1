# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a disk into a new file, stretch by stretch, or has ``qemu-img`` write all of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import aligned_buffer, set_direct, write_at
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors, sync_directory
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE, Buffer, ImageWriter
from ansible_collections.vmforge.backup.plugins.module_utils._restore_convert import convert
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._stored_image import (
    CLUSTERS_AT_ONCE,
    SourceError,
    StoredImages,
)
from ansible_collections.vmforge.backup.plugins.module_utils._stored_map import (
    Place,
    Stretch,
    find_clusters,
    plan_stretches,
    runs,
)

POLL_SECONDS = 0.02


class _Buffer(threading.local):
    """Each thread's."""

    def __init__(self) -> None:
        self.view = memoryview(aligned_buffer(CLUSTERS_AT_ONCE * CLUSTER_SIZE))


class DiskFile:
    """The new file, or the block device, that takes a disk. A context, in which it is open; what a file held is lost.

    A qcow2 file gets its data in the order of the disk, then the tables; and its header when all of that is on the
    disk, so that half an image is none.

    Args:
        image: The disk.
        path: Of the file or device.
        log: Takes what ``qemu-img`` says.
        tell: Called again and again while something is written.
        parallel: Stretches at once.
    """

    def __init__(self, image: Image, path: Path, *, log: Path, tell: Callable[[], None], parallel: int) -> None:
        self._image, self._path, self._log, self._parallel = image, path, log, parallel
        self.tell = tell
        self._size = image.disk.virtual_size
        self._stretches: list[Stretch] = []
        self._written: set[int] = set()
        self._layout: ImageWriter | None = None
        self._buffer = _Buffer()
        self._stopped = threading.Event()

    def __enter__(self) -> DiskFile:
        new = 0 if self._image.is_device else os.O_CREAT | os.O_EXCL
        with storage_errors(f"opening {self._path}"):
            if new:
                self._path.unlink(missing_ok=True)
            # Made here also for qemu-img, with nobody's rights but ours. And open before it: qemu-img does not tell of
            # a write that failed behind its back; the kernel tells such an error only to those who had the file open.
            self._descriptor = os.open(self._path, os.O_RDWR | new | os.O_CLOEXEC, 0o600)
        self._direct = set_direct(self._descriptor, True)
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)

    def plan(self, sources: StoredImages) -> list[Stretch] | None:
        """How the disk can be written piece by piece.

        Args:
            sources: What it is made of, with good tables.

        Returns:
            The stretches, each to be written on its own; None if the disk can be written only as a whole.
        """
        if self._image.is_device or not sources.tables:
            return None
        is_qcow2 = self._image.format == "qcow2"
        layout = ImageWriter(self._size, compression="none", append=self._append_table)
        stretches = plan_stretches(sources.tables, layout.reserve_plain if is_qcow2 else _reserve_nothing)
        if stretches is None:
            return None
        self._stretches, self._layout = stretches, layout
        self._end = layout.size if is_qcow2 else self._size
        with storage_errors(f"writing {self._path}"):
            # What makes a file longer makes others wait.
            os.ftruncate(self._descriptor, self._end)
        return stretches

    def write(self, sources: StoredImages, stretch: Stretch) -> None:
        """Write one; from any thread.

        Raises:
            SourceError: It cannot be read.
            StorageError: It cannot be written.
            CancelledError: Nobody wants it any more.
        """
        self._go_on()
        places = find_clusters(sources.tables, stretch.number)
        if len(places) != stretch.clusters:
            target = self._image.disk.target
            raise SourceError(f"The stored images of disk {target} changed while they were read.", code="read_failed")
        for begin in range(0, len(places), CLUSTERS_AT_ONCE):
            self._go_on()
            some = places[begin : begin + CLUSTERS_AT_ONCE]
            data = self._buffer.view[: len(some) * CLUSTER_SIZE]
            sources.read(some, data)
            with storage_errors(f"writing {self._path}"):
                self._put(some, stretch.rank + begin, data)
        self._written.add(stretch.number)

    def write_rest(self, paths: Sequence[Path]) -> None:
        """Write all that was not written yet, and have it on the disk.

        Args:
            paths: Of the images' files, all good, the topmost first.

        Raises:
            StorageError: It cannot be written.
        """
        with StoredImages(self._image.layers, paths) as sources:
            if self._layout is None:
                self.plan(sources)
            if self._layout is not None:
                self._write_all(sources, iter([one for one in self._stretches if one.number not in self._written]))
        if self._layout is None:
            convert(self._image, paths, self._path, direct=self._direct, log=self._log, tell=self.tell)
        with storage_errors(f"writing {self._path}"):
            if self._layout is not None:
                self._finish(self._layout)
            os.fsync(self._descriptor)
            sync_directory(self._path.parent)

    def stop(self) -> None:
        """Have those who write stop."""
        self._stopped.set()

    def begin_anew(self) -> None:
        """Forget all that was written."""
        self._stopped.clear()
        self._written.clear()

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise CancelledError("What was being written is not needed any more.")

    def _write_all(self, sources: StoredImages, stretches: Iterator[Stretch]) -> None:
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    stretch = next(stretches, None)
                if stretch is None:
                    return
                self.write(sources, stretch)

        with ThreadPoolExecutor(max_workers=self._parallel) as pool:
            try:
                running = {pool.submit(work) for _thread in range(self._parallel)}
                while running:
                    done, running = wait(running, POLL_SECONDS, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    self.tell()
            except BaseException:
                self.stop()
                raise

    def _append_table(self, data: Buffer) -> None:
        view = memoryview(data)
        write_at(self._descriptor, view, self._end)
        self._end += len(view)

    def _put(self, places: Sequence[Place], rank: int, data: memoryview) -> None:
        if self._image.format == "qcow2":
            write_at(self._descriptor, data, (1 + rank) * CLUSTER_SIZE)
            return
        at = 0
        for first, count in runs(place.cluster for place in places):
            offset, length = first * CLUSTER_SIZE, count * CLUSTER_SIZE
            write_at(self._descriptor, data[at : at + min(length, self._size - offset)], offset)
            at += length

    def _finish(self, layout: ImageWriter) -> None:
        if self._image.format != "qcow2":
            return
        set_direct(self._descriptor, False)
        header = layout.finish()
        os.fsync(self._descriptor)
        write_at(self._descriptor, memoryview(header), 0)


def _reserve_nothing(_first: int, _count: int) -> None:
    """In a raw file a cluster goes where it is on the disk."""
