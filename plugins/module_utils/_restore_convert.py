# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has ``qemu-img`` write a disk of the images that it is made of: block devices, and images of others."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._programs import Background, need_program, run_program
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import layered

_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0
_INFO_SECONDS = 60.0


def convert(
    image: Image, sources: Sequence[Path], path: Path, *, direct: bool, log: Path, tell: Callable[[], None]
) -> None:
    """Write a whole disk. What is written is not synced.

    Args:
        image: The disk.
        sources: The images, the topmost first.
        path: Of the file, which is there and empty, or of the device.
        direct: Past the page cache.
        log: Takes what ``qemu-img`` says.
        tell: Called again and again; may raise, to end it.

    Raises:
        StorageError: It cannot be written.
    """

    def run(*arguments: str) -> None:
        _run(arguments, f"Writing disk {image.disk.target} to {path}", log, tell)

    # A device may hold anything.
    is_zero = [] if image.is_device else ["--target-is-zero"]
    if not image.is_device:
        run("create", "-q", "-f", image.format, str(path), str(image.disk.virtual_size))
    driver = "host_device" if image.is_device else "file"
    target = {"driver": driver, "filename": str(path), "aio": _find_aio(driver, path)}
    # Complete, so that no name in an image is followed: an image may have been moved, or another one put there.
    source = layered([{"driver": "file", "filename": str(source)} for source in sources])
    options = ["-n", *is_zero, "-t", "none" if direct else "writeback", "-W", "-m", "8", "-f", "raw", "-O", "raw"]
    run("convert", *options, _raw(source), _raw({"driver": image.format, "file": target}))


def _find_aio(driver: str, path: Path) -> str:
    """With io_uring a disk is written in two thirds of the time; some kernels and builds of QEMU have it not."""
    node = {"driver": "raw", "file": {"driver": driver, "filename": str(path), "aio": "io_uring"}}
    done = run_program([_qemu_img(), "info", "json:" + json.dumps(node)], timeout=_INFO_SECONDS)
    return "threads" if done.status else "io_uring"


def _run(arguments: Sequence[str], what: str, log: Path, tell: Callable[[], None]) -> None:
    setpriv = need_program("setpriv", debian="util-linux", redhat="util-linux-core")
    writer: Background | None = None
    try:
        with shielded():
            writer = Background([setpriv, "--pdeathsig", "KILL", "--", _qemu_img(), *arguments], log=log)
        while not writer.ended():
            time.sleep(_POLL_SECONDS)
            tell()
    finally:
        if writer is not None:
            with shielded():
                writer.stop(patience=_STOP_SECONDS)
    if writer.status():
        reason = writer.said().replace("qemu-img: ", "") or f"status {writer.status()}"
        raise StorageError(f"{what} failed: {reason}.", code="write_failed")


def _qemu_img() -> str:
    return need_program("qemu-img", debian="qemu-utils", redhat="qemu-img")


def _raw(node: dict[str, Any]) -> str:
    """A block device, as QEMU takes it, that it takes for nothing else."""
    return "json:" + json.dumps({"driver": "raw", "file": node})
