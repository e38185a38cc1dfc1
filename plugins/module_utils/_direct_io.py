# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing past the page cache: no second copy of the data, and what is read comes from the disk.

Wanted, never needed: a file system that does not offer it, or not for a length, is used through the page cache.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os


def aligned_buffer(size: int) -> mmap.mmap:
    """Memory that begins on a page, as direct I/O wants it.

    Shared with whoever is forked meanwhile: what is read into private memory may then be lost ("NOTES" of open(2)).
    """
    return mmap.mmap(-1, size)


def set_direct(descriptor: int, wanted: bool) -> bool:
    """Switch direct I/O on or off; whether that changed anything."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    changed = flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT
    if changed == flags:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, changed)
    except OSError:
        # This file system has none.
        return False
    return True


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of it. Raises ``OSError``."""
    written = 0
    while written < len(data):
        direct = _is_direct(descriptor)
        try:
            written += os.pwrite(descriptor, data[written:], offset + written)
        except OSError as error:
            _without_direct(descriptor, error, direct)


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read as much as there is, at most a buffer full. Raises ``OSError``."""
    count = 0
    while count < len(buffer):
        direct = _is_direct(descriptor)
        try:
            got = os.preadv(descriptor, [buffer[count:]], offset + count)
        except OSError as error:
            _without_direct(descriptor, error, direct)
            continue
        if not got:
            break
        count += got
    return count


def _is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def _without_direct(descriptor: int, error: OSError, was_direct: bool) -> None:
    """Go on through the page cache where a place or a length is not aligned as the file system wants it.

    Another thread may have found that out already, so what counts is how this call was made.
    """
    if error.errno != errno.EINVAL or not was_direct:
        raise error
    set_direct(descriptor, False)
