# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest cluster to its compressed form, as QEMU reads it back, and from there."""

from __future__ import annotations

import zlib
from typing import Any, Callable, Union

from ansible_collections.vmforge.backup.plugins.module_utils._deps import need, zstandard
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE

# QEMU inflates raw deflate streams of this window (block/qcow2-threads.c).
_WINDOW_BITS = -12
DEFAULT_LEVELS = {"zstd": 1, "zlib": 1, "none": 0}
MAX_LEVELS = {"zstd": 19, "zlib": 9, "none": 0}

Compressor = Callable[[Union[bytes, bytearray, memoryview]], Any]
Decompressor = Callable[[memoryview], bytes]


def make_compressor(compression: str, level: int) -> Compressor | None:
    """A function that compresses one cluster; None where clusters are stored as they are.

    A compressor is used by one thread only. The content size is in every zstd frame, for a frame must decode to
    exactly one cluster.

    Raises:
        DependencyError: The zstandard library is missing.
    """
    if compression == "none":
        return None
    if compression == "zstd":
        need("zstandard")
        compress: Compressor = zstandard.ZstdCompressor(compression_params=_zstd_parameters(level)).compress
        return compress

    def deflate(data: bytes | bytearray | memoryview) -> bytes:
        packer = zlib.compressobj(level, zlib.DEFLATED, _WINDOW_BITS)
        return packer.compress(data) + packer.flush()

    return deflate


def make_decompressor(compression: str) -> Decompressor | None:
    """A function that gives the cluster that compressed bytes, up to the end of their last sector, stand for.

    A decompressor is used by one thread only. None where the zstandard library is missing.

    Raises (the function):
        ValueError: They stand for no cluster.
    """
    if compression == "zstd":
        return None if zstandard is None else _unpack_zstd(zstandard.ZstdDecompressor())
    return _inflate


def _unpack_zstd(unpacker: Any) -> Decompressor:
    def unpack(data: memoryview) -> bytes:
        try:
            cluster: bytes = unpacker.decompress(data, CLUSTER_SIZE)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        return cluster

    return unpack


def _inflate(data: memoryview) -> bytes:
    try:
        return zlib.decompressobj(_WINDOW_BITS).decompress(data, CLUSTER_SIZE)
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _zstd_parameters(level: int) -> Any:
    """A level's parameters for input of one cluster; level 1 with a table that stays in the processor's first cache.

    That makes it a tenth faster for a hundredth more bytes. (docs/benchmarks.md)
    """
    small = {"hash_log": 12, "min_match": 6} if level == 1 else {}
    return zstandard.ZstdCompressionParameters.from_level(
        level, source_size=CLUSTER_SIZE, write_content_size=True, **small
    )
