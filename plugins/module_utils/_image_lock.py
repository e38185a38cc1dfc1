# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a program of QEMU has an image open for writing. Asks for its lock and takes none: that would keep a domain
from being started.

Source: QEMU, block/file-posix.c: a writer holds a shared lock of the byte 100 + 1 (``BLK_PERM_WRITE`` is bit 1).
"""

from __future__ import annotations

import fcntl
import os
import struct

_WRITERS_BYTE = 101
# struct flock: type, whence, start, length, process.
_FLOCK = struct.Struct("@hhqqi4x")


def is_written(path: str) -> bool:
    """Whether somebody on this host has it open for writing, or anywhere where the file system shares locks.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITERS_BYTE, 1, 0)
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    except OSError:
        # A file system without locks, on which QEMU takes none either.
        return False
    finally:
        os.close(descriptor)
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)
