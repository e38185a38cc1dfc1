# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells the file or device of an image from any other of this host: a path says nothing of what lies there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._basis import BELOW
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors

_UNKNOWN = "?"
# linux/fs.h, _IOR('v', 1, long) of 64 bits. A file that was removed gives its inode to the next one at once, which then
# has another generation (seen on ext4: each time).
_FS_IOC_GETVERSION = 0x80087601
_DEVICES = Path("/sys/dev/block")
# Of the device mapper (LVM: the UUIDs of group and volume), of NVMe, SCSI and virtio; the file behind a loop device.
_DEVICE_NAMES = ("dm/uuid", "wwid", "device/wwid", "serial", "loop/backing_file")


def identify(layers: Sequence[str]) -> str | None:
    """What is noted of an image; without spaces.

    Args:
        layers: Paths: of the image, then of those that it lies on.

    Returns:
        None where nothing tells the image from another. Of those below it also when they were written to, which nobody
        may: a bitmap of the image would not know.

    Raises:
        StorageError, FileNotFoundError: One cannot be looked at.
    """
    top, *below = layers
    image = _identity(top)
    return BELOW.join([image, *(_unwritten(path) for path in below)]) if image is not None else None


def identify_device(place: Path) -> str | None:
    """What the kernel knows of a block device; its number may be another's after the next boot.

    Args:
        place: Its directory in sysfs.
    """
    place = place.resolve()
    part = _told(place / "partition")
    whole = place.parent if part else place
    name = next((text for text in (_told(whole / name) for name in _DEVICE_NAMES) if text), None)
    return f"dev-{hashlib.sha256(f'{name} {part}'.encode()).hexdigest()[:32]}" if name is not None else None


def _unwritten(path: str) -> str:
    if not os.path.isabs(path):
        # In a network.
        return _UNKNOWN
    found = _identity(path)
    status = os.stat(path)
    return f"{found or _UNKNOWN}@{status.st_mtime_ns:x}" if stat.S_ISREG(status.st_mode) else found or _UNKNOWN


def _identity(path: str) -> str | None:
    with storage_errors(f"looking at {path}"):
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            # What XFS itself tells of a file system is its device's number, which may be another after a boot.
            system = identify_device(_sysfs(status.st_dev)) or f"{os.statvfs(path).f_fsid:x}"
            return f"{system}-{status.st_ino:x}{_generation(path)}"
        if stat.S_ISBLK(status.st_mode):
            return identify_device(_sysfs(status.st_rdev))
        return None


def _sysfs(number: int) -> Path:
    return _DEVICES / f"{os.major(number)}:{os.minor(number)}"


def _generation(path: str) -> str:
    """Of the inode; empty on file systems that do not tell it, such as NFS."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        told = fcntl.ioctl(descriptor, _FS_IOC_GETVERSION, bytes(8))
    except OSError:
        # That is how they say so.
        return ""
    finally:
        os.close(descriptor)
    return f"-{int.from_bytes(told[:4], sys.byteorder):x}"


def _told(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        # The kernel has an attribute of a device, or has it not, or the device has no value for it.
        return ""
