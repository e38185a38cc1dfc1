# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The place of a boot test: a directory with its lock; one whose lock nobody holds is a dead run's, and is removed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._define import destroy_domain
from ansible_collections.vmforge.backup.plugins.module_utils._domain_sockets import (
    make_socket_directory,
    socket_directory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import remove_tree, storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded

_PREFIX, _LOCK, _EXPORTS = "boot-", ".lock", "exports"
# What libvirt itself leaves of a domain that is gone, by its UUID and by its name.
_TRACES = (
    "/var/lib/libvirt/swtpm/{uuid}",
    "/etc/apparmor.d/libvirt/libvirt-{uuid}",
    "/etc/apparmor.d/libvirt/libvirt-{uuid}.files",
    "/var/log/libvirt/qemu/{name}.log",
    "/var/log/swtpm/libvirt/qemu/{name}-swtpm.log",
)


class BootRoom:
    """One directory, while a context lasts.

    Args:
        scratch: The directory that it is made in; QEMU's user may enter it.
        uuid: Of the domain.

    Attributes:
        path: QEMU's user may enter it, and list nothing.
        sockets: Where QEMU finds the exports.
        name: Of the domain; libvirt cuts longer ones.
    """

    def __init__(self, scratch: Path, uuid: str, hypervisor: Hypervisor) -> None:
        self._scratch, self._uuid, self._hypervisor = scratch, uuid, hypervisor
        self.path = scratch / f"{_PREFIX}{uuid}"
        self.name = _name(uuid)
        self.sockets = socket_directory(self.name)

    def __enter__(self) -> BootRoom:
        """Remove what dead runs have left, and make it.

        Raises:
            StorageError: It cannot be made.
        """
        if not self._scratch.is_dir():
            raise StorageError(
                f"The directory {self._scratch} does not exist. The role vmforge.backup.node creates it; or name "
                "another with scratch_dir.",
                code="scratch_missing",
            )
        with storage_errors(f"using {self._scratch}"), _locked(self._scratch / f".{_PREFIX}lock"):
            self._sweep()
            self.path.mkdir(mode=0o711)
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            make_socket_directory(self.name)
            (self.path / _EXPORTS).mkdir(mode=0o700)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        """Remove every trace."""
        with shielded():
            _remove(self.path, self._uuid)
            os.close(self._lock)

    def private(self, name: str) -> Path:
        """Make a directory in it that is for root alone."""
        path = self.path / _EXPORTS / name
        with storage_errors(f"making {path}"):
            path.mkdir(mode=0o700)
        return path

    def _sweep(self) -> None:
        for path in sorted(self._scratch.glob(f"{_PREFIX}*")):
            uuid = path.name[len(_PREFIX) :]
            with _unlocked_only(path / _LOCK) as dead:
                if dead:
                    # One that libvirt did not end, for it was restarted at the wrong moment.
                    destroy_domain(self._hypervisor, uuid, _name(uuid))
                    _remove(path, uuid)


def _name(uuid: str) -> str:
    return f"vmforge-boot-{uuid[:7]}"


def _remove(path: Path, uuid: str) -> None:
    name = _name(uuid)
    for trace in (socket_directory(name), *(Path(text.format(uuid=uuid, name=name)) for text in _TRACES), path):
        if trace.is_dir():
            remove_tree(trace)
        else:
            trace.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _unlocked_only(path: Path) -> Iterator[bool]:
    """Whether nobody holds it, or it was never made."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
