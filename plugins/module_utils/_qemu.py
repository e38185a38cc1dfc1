# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's own programs: ``qemu-nbd`` for the disks of a stopped domain, ``qemu-img info`` for estimates."""

from __future__ import annotations

import json
import socket as socketlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._basis import Bitmap, ImageFacts
from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._image_identity import identify
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import Export
from ansible_collections.vmforge.backup.plugins.module_utils._programs import Background, need_program, run_program

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_INFO_SECONDS = 60
_CHECK_SECONDS = 1800
_MIN_GRANULARITY, _MAX_GRANULARITY = 4096, 65536


def _qemu_program(name: str) -> str:
    return need_program(name, debian="qemu-utils", redhat="qemu-img")


def look_at(path: str, *, image_format: str) -> ImageFacts:
    """What an image says of itself. ``allocated`` counts its backing files too, and is at most its virtual size.

    Raises:
        SourceError: ``qemu-img`` cannot open it; says why.
    """
    argv = [_qemu_program("qemu-img"), "info", "-U", "--backing-chain", "--output=json", "-f", image_format, "--", path]
    try:
        done = run_program(argv, timeout=_INFO_SECONDS)
    except TimeoutError as error:
        raise SourceError(
            f"The disk image {path} did not answer within {_INFO_SECONDS} seconds. Is its storage there?",
            code="disk_unreadable",
        ) from error
    if done.status:
        reason = done.errors.strip().replace("qemu-img: ", "")
        raise SourceError(f"The disk image {path} cannot be opened: {reason}.", code="disk_unreadable")
    layers = json.loads(done.output)
    return replace(image_facts(layers), file=identify([path, *(layer["filename"] for layer in layers[1:])]))


def image_facts(layers: Sequence[Mapping[str, Any]]) -> ImageFacts:
    """Read what ``qemu-img info --backing-chain --output=json`` has said."""
    top = layers[0]
    size = int(top["virtual-size"])
    # A block device has no holes that could be counted.
    allocated = sum(int(layer.get("actual-size", 0)) for layer in layers) or size
    special = _special(top)
    return ImageFacts(
        allocated=min(size, allocated),
        keeps_bitmaps=special.get("compat", "0.10") != "0.10",
        # As QEMU chooses it.
        granularity=min(_MAX_GRANULARITY, max(_MIN_GRANULARITY, int(top.get("cluster-size", _MAX_GRANULARITY)))),
        bitmaps=tuple(
            Bitmap(found["name"], int(found["granularity"]), found["flags"] == ["auto"])
            for found in special.get("bitmaps", ())
        ),
        buried=tuple(found["name"] for layer in layers[1:] for found in _special(layer).get("bitmaps", ())),
    )


def _special(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What only qcow2 says of itself."""
    if layer.get("format") != "qcow2":
        return {}
    found: Mapping[str, Any] = layer.get("format-specific", {}).get("data", {})
    return found


def check_image(path: str) -> str | None:
    """What ``qemu-img check`` finds wrong with a qcow2 image, leaked clusters apart; None if its tables are sound.

    Raises:
        SourceError: It does not answer.
    """
    argv = [_qemu_program("qemu-img"), "check", "-U", "--output=json", "-f", "qcow2", path]
    try:
        done = run_program(argv, timeout=_CHECK_SECONDS)
    except TimeoutError as error:
        raise SourceError(f"qemu-img did not check {path} within {_CHECK_SECONDS} seconds.") from error
    # 0: nothing; 3: leaked clusters only. Others: corrupt, or cannot be opened.
    if done.status in (0, 3):
        return None
    try:
        found = json.loads(done.output)
    except ValueError:
        return done.errors.strip().replace("qemu-img: ", "") or "qemu-img cannot check it"
    return f"qemu-img check finds {found.get('corruptions', 0)} corruptions and {found.get('check-errors', 0)} errors"


class ExportServer:
    """A read-only ``qemu-nbd`` of one image that takes no lock, so that the domain can still be started.

    It dies with this process: the kernel sends it SIGTERM (``setpriv --pdeathsig``).

    Args:
        path: The image or device.
        image_format: Never probed.
        socket: Where to listen; in a directory of ours.
        clients: Connections at a time; further ones hang.
        bitmap: A dirty bitmap of the image that is to be told, if any.

    Raises:
        SourceError: It did not start; says why.
    """

    def __init__(self, path: str, *, image_format: str, socket: Path, clients: int, bitmap: str | None = None) -> None:
        self.export = Export(str(socket), "", bitmap=bitmap)
        self._socket = socket
        is_device = Path(path).is_block_device()
        node = {"driver": "host_device" if is_device else "file", "filename": path}
        image = {"driver": image_format, "read-only": True, "force-share": True, "file": node}
        self._server = Background(
            [
                need_program("setpriv", debian="util-linux", redhat="util-linux-core"), "--pdeathsig", "TERM", "--",
                _qemu_program("qemu-nbd"), "--read-only", "-t", "-e", str(clients), "-k", str(socket),
                *(["-B", bitmap] if bitmap is not None else []),
                "json:" + json.dumps(image),
            ],
            log=socket.with_suffix(".log"),
        )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the server and remove its socket."""
        self._server.stop(patience=_STOP_SECONDS)
        self._socket.unlink(missing_ok=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not listens(self._socket):
            if self._server.ended():
                reason = self._server.said() or "no reason given"
                raise SourceError(f"qemu-nbd cannot open the disk: {reason}.", code="disk_unreadable")
            if time.monotonic() > deadline:
                raise SourceError(f"qemu-nbd did not start within {_START_SECONDS:.0f} seconds.")
            time.sleep(0.01)


def listens(path: Path) -> bool:
    """Whether somebody takes connections there: a socket has its name a moment before."""
    with socketlib.socket(socketlib.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True
