# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a disk of the images that it is made of, at once or piece by piece. ``qemu-img`` does it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import set_direct
from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors, sync_directory
from ansible_collections.vmforge.backup.plugins.module_utils._programs import Background, need_program, run_program
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import layered

_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0
_INFO_SECONDS = 60.0


class DiskFile:
    """The new file, or the block device, that takes a disk. A context, in which it is open; what a file held is lost.

    Args:
        image: The disk.
        path: Of the file or device.
        log: Takes what ``qemu-img`` says.
        tell: Called again and again while something is written.
    """

    def __init__(self, image: Image, path: Path, *, log: Path, tell: Callable[[], None]) -> None:
        self._image, self._path, self._log, self._tell = image, path, log, tell
        self._size = image.disk.virtual_size
        self._written: list[tuple[int, int]] = []
        self._made = image.is_device
        self._aio = "threads"

    def __enter__(self) -> DiskFile:
        new = 0 if self._image.is_device else os.O_CREAT | os.O_EXCL
        with storage_errors(f"opening {self._path}"):
            if new:
                self._path.unlink(missing_ok=True)
            # Made before qemu-img does, with nobody's rights but ours. And open before it: qemu-img does not tell of a
            # write that failed behind its back, and the kernel tells such an error only to those who had the file open.
            self._descriptor = os.open(self._path, os.O_RDWR | new | os.O_CLOEXEC, 0o600)
        self._cache = "none" if set_direct(self._descriptor, True) else "writeback"
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)

    def write(self, sources: Sequence[Path], start: int, end: int, watch: Callable[[], None] | None = None) -> None:
        """Write the bytes of the disk from ``start`` to before ``end``, multiples of 512, that nobody has written yet.

        Args:
            sources: The images, the topmost first. What the piece needs of them must be good.
            watch: Called again and again; may raise, to end it.

        Raises:
            StorageError: It cannot be written.
        """
        self._make(watch)
        # Complete, so that no name in an image is followed: an image may have been moved, or another one put there.
        source = layered([{"driver": "file", "filename": str(path)} for path in sources])
        is_zero = [] if self._image.is_device else ["--target-is-zero"]
        options = ["-n", *is_zero, "-t", self._cache, "-W", "-m", "8", "-f", "raw", "-O", "raw"]
        self._run(["convert", *options, _window(source, start, end), _window(self._target(), start, end)], watch)
        self._written.append((start, end))

    def write_rest(self, sources: Sequence[Path]) -> None:
        """Write all that was not written yet, and have it on the disk.

        Raises:
            StorageError: It cannot be written.
        """
        self._make(None)
        at = 0
        for start, end in [*sorted(self._written), (self._size, self._size)]:
            if at < start:
                self.write(sources, at, start)
            at = end
        with storage_errors(f"syncing {self._path}"):
            os.fsync(self._descriptor)
            sync_directory(self._path.parent)

    def begin_anew(self) -> None:
        """Forget all that was written."""
        self._made = self._image.is_device
        self._written.clear()

    def _make(self, watch: Callable[[], None] | None) -> None:
        if not self._made:
            self._run(["create", "-q", "-f", self._image.format, str(self._path), str(self._size)], watch)
            self._aio = self._find_aio()
            self._made = True

    def _target(self) -> dict[str, Any]:
        driver = "host_device" if self._image.is_device else "file"
        file = {"driver": driver, "filename": str(self._path), "aio": self._aio}
        return {"driver": self._image.format, "file": file}

    def _find_aio(self) -> str:
        """With io_uring a disk is written in two thirds of the time; some kernels and builds of QEMU have it not."""
        node = {"driver": "raw", "file": {"driver": "file", "filename": str(self._path), "aio": "io_uring"}}
        done = run_program([_qemu_img(), "info", "json:" + json.dumps(node)], timeout=_INFO_SECONDS)
        return "threads" if done.status else "io_uring"

    def _run(self, arguments: Sequence[str], watch: Callable[[], None] | None) -> None:
        setpriv = need_program("setpriv", debian="util-linux", redhat="util-linux-core")
        writer: Background | None = None
        try:
            with shielded():
                writer = Background([setpriv, "--pdeathsig", "KILL", "--", _qemu_img(), *arguments], log=self._log)
            while not writer.ended():
                time.sleep(_POLL_SECONDS)
                self._tell()
                if watch is not None:
                    watch()
        finally:
            if writer is not None:
                with shielded():
                    writer.stop(patience=_STOP_SECONDS)
        if writer.status():
            reason = writer.said().replace("qemu-img: ", "") or f"status {writer.status()}"
            target = self._image.disk.target
            raise StorageError(f"Writing disk {target} to {self._path} failed: {reason}.", code="write_failed")


def _qemu_img() -> str:
    return need_program("qemu-img", debian="qemu-utils", redhat="qemu-img")


def _window(node: dict[str, Any], start: int, end: int) -> str:
    """A piece of a block device, as QEMU takes it."""
    return "json:" + json.dumps({"driver": "raw", "offset": start, "size": end - start, "file": node})
