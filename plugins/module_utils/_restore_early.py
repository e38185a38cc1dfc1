# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what can be written of a disk while other parts of it are still fetched and proved."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._restore_write import DiskFile
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer
from ansible_collections.vmforge.backup.plugins.module_utils._stored_map import (
    STRETCH,
    Stretch,
    map_image,
    next_run,
    plan_stretches,
    table_parts,
)

_POLL_SECONDS = 0.05
# A piece is worth a program of its own from 64 MiB on; and more than so many would not make it faster.
_LEAST_CLUSTERS, _MOST_PIECES = 1024, 8


class Proved:
    """Which parts of a disk's images are proved so far, and in which file each image is. From any thread."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Path, set[int]]] = {}
        self._stopped = False

    def begin(self, layer: Layer, path: Path) -> Callable[[int], None]:
        """From now on the layer is this file, of which nothing is proved.

        Returns:
            To be told of each part that is good; raises ``CancelledError`` once nobody wants to know any more.
        """
        good: set[int] = set()
        self._files[layer.id] = (path, good)

        def add(number: int) -> None:
            if self._stopped:
                raise CancelledError("What was being read is not needed any more.")
            good.add(number)

        return add

    def stop(self) -> None:
        """Have the next one who tells something stop."""
        self._stopped = True

    def look(self, layers: Sequence[Layer]) -> list[tuple[Path, set[int]]] | None:
        """Each layer's file and its good parts, of which more may come; None while not all have been begun."""
        files = [self._files.get(layer.id) for layer in layers]
        found = [file for file in files if file is not None]
        return found if len(found) == len(files) else None


def prove_and_write(image: Image, file: DiskFile, prove: Callable[[Proved], list[Path]]) -> list[Path]:
    """Prove all that a disk is made of, and write what can be written meanwhile.

    Args:
        file: Takes the disk.
        prove: Does that, tells of each part, and returns the images' files. Called in another thread.
    """
    proved = Proved()
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            proving = pool.submit(prove, proved)
            try:
                _write(image, file, proved, proving)
            except StorageError:
                if proving.done():
                    raise
                # What was proved may lie where nothing can be read any more. Another copy may do.
                proving.result()
                file.begin_anew()
        except BaseException:
            proved.stop()
            raise
        return proving.result()


def _write(image: Image, file: DiskFile, proved: Proved, proving: Future[list[Path]]) -> None:
    layers, size = image.layers, image.disk.virtual_size
    stretches: list[Stretch] | None = None
    written: set[int] = set()

    def watch() -> None:
        if proving.done():
            # Raises why there is no more to come.
            proving.result()

    while not wait([proving], timeout=_POLL_SECONDS).done:
        files = proved.look(layers)
        if stretches is None and files is not None:
            stretches = _map(layers, files, size)
        if stretches is None or files is None:
            continue
        run = _next(stretches, written, [good for _path, good in files])
        if run is not None:
            file.write([path for path, _good in files], run.start * STRETCH, min(run.stop * STRETCH, size), watch)
            written.update(run)


def _next(stretches: Sequence[Stretch], written: Collection[int], good: Sequence[set[int]]) -> range | None:
    least = max(_LEAST_CLUSTERS, sum(stretch.clusters for stretch in stretches) // _MOST_PIECES)
    return next_run(stretches, written, lambda parts: all(map(set.issuperset, good, parts)), least=least)


def _map(layers: Sequence[Layer], files: Sequence[tuple[Path, set[int]]], size: int) -> list[Stretch] | None:
    """None while a table is not proved; empty if an image is none of ours: then all is written at the end."""
    images = []
    for layer, (path, good) in zip(layers, files):
        record, layer_size = layer.record, layer.disk.virtual_size
        if not good.issuperset(table_parts(record, layer_size)):
            return None
        with storage_errors(f"reading {path}"), path.open("rb") as stream:
            found = map_image(record, layer_size, functools.partial(_read, stream.fileno()))
        if found is None:
            return []
        images.append(found)
    return plan_stretches(images, size)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    return os.pread(descriptor, length, offset)
