# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what can be written of a disk while other parts of it are still fetched and proved."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import Told
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._restore_write import POLL_SECONDS, DiskFile
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer
from ansible_collections.vmforge.backup.plugins.module_utils._stored_image import SourceError, StoredImages
from ansible_collections.vmforge.backup.plugins.module_utils._stored_map import Stretch, Waiting, table_parts

# What is proved and not yet written stays in memory, so that it is read once; up to so many bytes.
_MEMORY = 192 << 20
_SUBMITTED = 16


@dataclass(frozen=True, eq=False)
class Begun:
    """An image of which parts are being proved.

    Attributes:
        path: Of the file that has them.
        good: The numbers of those that are, in the order in which they came; more may come.
        kept: Some of those, in memory.
    """

    path: Path
    good: list[int] = field(default_factory=list)
    kept: dict[int, memoryview] = field(default_factory=dict)


class Proved:
    """Which parts of a disk's images are proved so far, and in which file each image is. From any thread.

    Attributes:
        in_use: Whether something is being written of what is kept, so that there will be room again.
    """

    def __init__(self) -> None:
        self._begun: dict[str, Begun] = {}
        self._stopped = False
        self._room = threading.Condition()
        self._free = _MEMORY
        self.in_use = False

    def begin(self, layer: Layer, path: Path) -> Told:
        """From now on the layer is this file, of which nothing is proved.

        Returns:
            To be told of each part that is good, and to be given it. Waits while there is no room for it and some is
            being made. Raises ``CancelledError`` once nobody wants to know any more.
        """
        begun = self._begun[layer.id] = Begun(path)

        def add(number: int, part: memoryview | None) -> None:
            if part is not None and self._has_room(len(part)):
                begun.kept[number] = part
            if self._stopped:
                raise CancelledError("What was being read is not needed any more.")
            begun.good.append(number)

        return add

    def drop(self, begun: Begun, number: int) -> None:
        """A part is not needed any more."""
        part = begun.kept.pop(number, None)
        if part is not None:
            with self._room:
                self._free += len(part)
                self._room.notify_all()

    def stop(self) -> None:
        """Have the next one who tells something stop."""
        self._stopped = True

    def look(self, layers: Sequence[Layer]) -> list[Begun]:
        """Each layer's file; none while not all have been begun."""
        found = [self._begun[layer.id] for layer in layers if layer.id in self._begun]
        return found if len(found) == len(layers) else []

    def _has_room(self, length: int) -> bool:
        with self._room:
            while self._free < length:
                if self._stopped or not self.in_use:
                    # It is in the file as well.
                    return False
                self._room.wait(POLL_SECONDS)
            self._free -= length
            return True


def prove_and_write(
    image: Image, file: DiskFile, prove: Callable[[Proved], list[Path]], *, parallel: int
) -> list[Path]:
    """Prove all that a disk is made of, and write what can be written meanwhile.

    Args:
        file: Takes the disk.
        prove: Does that, tells of each part, and returns the images' files. Called in another thread.
        parallel: Stretches written at once.
    """
    proved = Proved()
    with ThreadPoolExecutor(max_workers=1) as pool, ThreadPoolExecutor(max_workers=parallel) as writers:
        try:
            proving = pool.submit(prove, proved)
            try:
                _write(image, file, proved, proving, writers)
            except SourceError:
                # A file that nothing can be read from any more may turn out to be damaged; then there is another copy.
                proving.result()
                file.begin_anew()
        except BaseException:
            proved.stop()
            file.stop()
            raise
        return proving.result()


def _write(
    image: Image, file: DiskFile, proved: Proved, proving: Future[list[Path]], writers: ThreadPoolExecutor
) -> None:
    """Write until all is proved, or one of the images turns out to be another file than the one begun with."""
    layers = image.layers
    begun: list[Begun] = []
    while not (begun and all(map(_has_tables, layers, begun))):
        if wait([proving], POLL_SECONDS).done:
            return
        begun = proved.look(layers)
    with StoredImages(layers, [one.path for one in begun], [one.kept for one in begun]) as sources:
        stretches = file.plan(sources)
        if stretches is not None:
            _Early(file, proved, begun, sources, stretches).run(proving, writers)


class _Early:
    """Writes the stretches of a disk as they become ready."""

    def __init__(
        self,
        file: DiskFile,
        proved: Proved,
        begun: Sequence[Begun],
        sources: StoredImages,
        stretches: Sequence[Stretch],
    ) -> None:
        self._file, self._proved, self._begun, self._sources = file, proved, begun, sources
        self._waiting = Waiting(stretches)
        self._seen = [0] * len(begun)
        self._ready: deque[Stretch] = deque()
        self._running: dict[Future[None], Stretch] = {}

    def run(self, proving: Future[list[Path]], writers: ThreadPoolExecutor) -> None:
        """Until all is proved and written, or an image turns out to be another file than the one begun with."""
        left: list[Future[None]] = []
        try:
            while self._proved.look(self._sources.layers) == self._begun:
                over = proving.done()
                self._look()
                self._submit(writers)
                self._collect([future for future in self._running if future.done()])
                self._proved.in_use = bool(self._running)
                if over:
                    proving.result()
                    if not self._running and not self._ready:
                        break
                self._file.tell()
                pending: list[Future[Any]] = [*self._running, proving]
                wait(pending[: -1 if over else None], POLL_SECONDS, FIRST_COMPLETED)
        except BaseException:
            self._file.stop()
            raise
        finally:
            # Before the images are closed.
            self._proved.in_use = False
            left = [future for future in self._running if not future.cancel()]
            wait(left)
        self._collect(left)

    def _look(self) -> None:
        for image, begun in enumerate(self._begun):
            for part in begun.good[self._seen[image] :]:
                self._seen[image] += 1
                self._ready.extend(self._waiting.note_good(image, part))
                if not self._waiting.is_used(image, part):
                    self._proved.drop(begun, part)

    def _submit(self, writers: ThreadPoolExecutor) -> None:
        # No more than are soon begun: to wait for many costs time.
        while self._ready and len(self._running) < _SUBMITTED:
            stretch = self._ready.popleft()
            self._running[writers.submit(self._file.write, self._sources, stretch)] = stretch

    def _collect(self, done: Iterable[Future[None]]) -> None:
        for future in done:
            stretch = self._running.pop(future)
            future.result()
            for image, part in self._waiting.note_written(stretch):
                self._proved.drop(self._begun[image], part)


def _has_tables(layer: Layer, begun: Begun) -> bool:
    return set(begun.good).issuperset(table_parts(layer.record, layer.disk.virtual_size))
