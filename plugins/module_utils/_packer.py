# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters as they are stored, from what was read of a disk. Pure."""

from __future__ import annotations

from ansible_collections.vmforge.backup.plugins.module_utils._compress import make_compressor
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2 import CLUSTER_SIZE

_ZERO_CLUSTER = bytes(CLUSTER_SIZE)


class ClusterPacker:
    """Cuts what was read into clusters and compresses those that are not zero. One per thread.

    Args:
        compression: ``zstd``, ``zlib`` or ``none``.
        level: Of the compressor.
        tell_zeros: Zero clusters are left out of an image that stands alone, and told where they hide what a parent
            holds.
    """

    def __init__(self, compression: str, level: int, *, tell_zeros: bool) -> None:
        self._compress = make_compressor(compression, level)
        self._tell_zeros = tell_zeros

    def __call__(self, offset: int, data: bytearray) -> list[tuple[int, bytes | None, bytes | None]]:
        """Return index, compressed data or None, plain data where the first is None; neither for a zero cluster."""
        clusters: list[tuple[int, bytes | None, bytes | None]] = []
        view = memoryview(data)
        for start in range(0, len(data), CLUSTER_SIZE):
            index = (offset + start) // CLUSTER_SIZE
            cluster = view[start : start + CLUSTER_SIZE]
            if len(cluster) < CLUSTER_SIZE:
                cluster = memoryview(bytes(cluster).ljust(CLUSTER_SIZE, b"\0"))
                is_zero = cluster == _ZERO_CLUSTER
            else:
                # startswith compares memory directly; comparing memoryviews goes byte by byte.
                is_zero = data.startswith(_ZERO_CLUSTER, start)
            if is_zero:
                if self._tell_zeros:
                    clusters.append((index, None, None))
                continue
            packed = self._compress(cluster) if self._compress is not None else None
            if packed is None or len(packed) >= CLUSTER_SIZE:
                clusters.append((index, None, bytes(cluster)))
            else:
                clusters.append((index, packed, None))
        return clusters
