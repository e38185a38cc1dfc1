# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One disk of a backup, open for reading: how large it is, what to read of it, and what to call zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._extents import intersect, subtract, total, widen
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import REQUEST_SIZE, Export
from ansible_collections.vmforge.backup.plugins.module_utils._pipeline import split_ranges


@dataclass(frozen=True)
class OpenDisk:
    """A disk whose export has told its size and which runs of it may be other than zero.

    Attributes:
        extents: What is read, in whole clusters but for the disk's end.
        zeros: What is stored as zero clusters; only over a backing file.
        backing: Name of the backing file as it stands in the image, None for a full one.
    """

    disk: Disk
    export: Export
    size: int
    extents: Sequence[Extent]
    zeros: Sequence[Extent] = ()
    backing: str | None = None

    @classmethod
    def of(cls, disk: Disk, export: Export) -> OpenDisk:
        """Ask the export; all of the disk. Raises ``SourceError``."""
        size, extents = export.allocated()
        if size % 512:
            raise SourceError(f"Disk {disk.target} has {size} bytes, not a multiple of 512; qcow2 cannot hold that.")
        return cls(disk, export, size, widen(extents, size=size))

    def only(self, dirty: Sequence[Extent], *, backing: str) -> OpenDisk:
        """The same disk, of which only changes are stored.

        Args:
            dirty: In whole clusters, but for the disk's end.
            backing: What holds the rest.
        """
        read, zeros = intersect(self.extents, dirty), subtract(dirty, self.extents)
        return replace(self, extents=read, zeros=zeros, backing=backing)

    @property
    def read_bytes(self) -> int:
        """Bytes that will be read."""
        return total(self.extents)

    def ranges(self) -> Iterator[Extent]:
        """The requests, one after the other: a list of them would take more memory than all buffers."""
        return split_ranges(self.extents, size=self.size, limit=REQUEST_SIZE)
