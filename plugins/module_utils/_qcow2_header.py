# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the header of a qcow2 image that somebody else made. Pure. Format: QEMU ``docs/interop/qcow2.txt``."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError

HEADER_SIZE = 112
_MAGIC = 0x514649FB
# Magic, version, backing file's offset and size, cluster bits, virtual size, encryption.
_COMMON = struct.Struct(">IIQIIQI")
_FEATURES_AT, _COMPRESSION_AT = 72, 104
_CORRUPT, _EXTERNAL_DATA, _COMPRESSION_TYPE = 1 << 1, 1 << 2, 1 << 3
_KNOWN_FEATURES = 0b11111
_COMPRESSIONS = {0: "zlib", 1: "zstd"}


@dataclass(frozen=True)
class ImageHeader:
    """What a qcow2 image says of itself.

    Attributes:
        compression: Of those clusters that are compressed, if any is.
        obstacle: Why the image cannot stand for itself; None if it can.
    """

    virtual_size: int
    compression: str
    obstacle: str | None


def read_header(data: bytes) -> ImageHeader:
    """Read it.

    Args:
        data: The first :data:`HEADER_SIZE` bytes of the file.

    Raises:
        FormatError: It is no qcow2 image of version 2 or 3.
    """
    if len(data) < HEADER_SIZE:
        raise FormatError("it is too short for a qcow2 image")
    magic, version, backing, _length, cluster_bits, size, encryption = _COMMON.unpack_from(data)
    if magic != _MAGIC or version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise FormatError("it is no qcow2 image of version 2 or 3")
    features = struct.unpack_from(">Q", data, _FEATURES_AT)[0] if version == 3 else 0
    compression = data[_COMPRESSION_AT] if features & _COMPRESSION_TYPE else 0
    return ImageHeader(
        virtual_size=size,
        compression=_COMPRESSIONS.get(compression, "unknown"),
        obstacle=_obstacle(backing=backing, encryption=encryption, features=features, size=size),
    )


def _obstacle(*, backing: int, encryption: int, features: int, size: int) -> str | None:
    if backing:
        return "it is an overlay: what it does not hold itself lies in a base image. Flatten it with qemu-img convert"
    if encryption:
        return "it is encrypted"
    if features & _EXTERNAL_DATA:
        return "its data lie in another file"
    if features & _CORRUPT:
        return "it is marked corrupt"
    if features & ~_KNOWN_FEATURES:
        return "it uses features of qcow2 that this version does not know"
    if size % 512:
        return f"its size of {size} bytes is not a multiple of 512"
    return None
