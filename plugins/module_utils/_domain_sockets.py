# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where sockets lie that a domain's QEMU connects to, and an image on such a socket."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._programs import need_program, run_program

LIBVIRT_DIRECTORY = Path("/var/lib/libvirt/qemu")
_NAME_LENGTH = 20
_SECONDS = 60


def socket_directory(name: str) -> Path:
    """The one directory that libvirt's AppArmor profile of a domain allows before the domain has a number."""
    return LIBVIRT_DIRECTORY / f"domain--1-{name[:_NAME_LENGTH]}"


def make_socket_directory(name: str) -> Path:
    """Make it, for QEMU's user alone; whatever lies there is a dead run's.

    Raises:
        StorageError: It cannot be made.
    """
    path = socket_directory(name)
    with storage_errors(f"making {path}"):
        owner = LIBVIRT_DIRECTORY.stat()
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, owner.st_uid, owner.st_gid)
    return path


def open_to_qemu(socket: Path) -> None:
    """QEMU's user may connect; nobody else gets into the directory."""
    with storage_errors(f"opening {socket}"):
        socket.chmod(0o666)


def make_overlay(path: Path, socket: Path, size: int) -> None:
    """Make a qcow2 image that reads from an export, where it holds nothing itself.

    Args:
        path: Of the image; nothing is there yet.
        socket: Of the export, which need not answer yet.
        size: In bytes.

    Raises:
        StorageError: It cannot be written.
    """
    with storage_errors(f"writing {path}"):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    _qemu_img("create", "-q", "-u", "-f", "qcow2", *_on(socket), str(path), str(size), path=path)


def put_under(path: Path, socket: Path) -> None:
    """Have an image that nobody uses read from an export again, where it holds nothing itself.

    Raises:
        StorageError: It cannot be written.
    """
    _qemu_img("rebase", "-q", "-u", "-f", "qcow2", *_on(socket), str(path), path=path)


def _on(socket: Path) -> list[str]:
    return ["-b", f"nbd+unix:///?socket={quote(str(socket))}", "-F", "raw"]


def _qemu_img(*argv: str, path: Path) -> None:
    program = need_program("qemu-img", debian="qemu-utils", redhat="qemu-img")
    try:
        done = run_program([program, *argv], timeout=_SECONDS)
    except TimeoutError as error:
        raise StorageError(f"qemu-img did not write {path} within {_SECONDS} seconds.") from error
    if done.status:
        raise StorageError(f"{path} cannot be written: {done.errors.strip()}.", code="write_failed")
