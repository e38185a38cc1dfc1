# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the changes that a bitmap tells are all that changed: what it calls clean is compared with the parent.

A bitmap knows nothing of a disk that was shrunk and grown again, that was replaced by a copy which bears the same
bitmap, or that was changed behind QEMU's back. Nothing of that is an error to anyone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._basis import Basis
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    DependencyError,
    FormatError,
    NotFoundError,
    S3Error,
    SourceError,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._extents import (
    count_clusters,
    edge_clusters,
    sample_clusters,
    subtract,
    total,
    widen,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import remove_tree
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent, format_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import BlockReader, Export
from ansible_collections.vmforge.backup.plugins.module_utils._open_disk import OpenDisk
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer, StoredChain
from ansible_collections.vmforge.backup.plugins.module_utils._stored_export import StoredExport

# One for the block status, one for the clusters; a closed one may linger for a moment.
_CLIENTS = 4
_SAMPLE_SHARE, _SAMPLE_LEAST = 0.001, 10


class _ParentError(VMForgeError):
    """The parent cannot be read now."""


class MismatchError(VMForgeError):
    """The bitmap of a disk lies: what it calls clean is not what the parent holds."""

    code = "bitmap_lies"


class Changes:
    """Decides for each disk whether only its changes are stored, and asks what they are.

    Args:
        parent: The chain that they would build on.
        basis: What was decided before the disks could be asked.
        stopped: Asked at least once a second; true ends the reading.

    Attributes:
        alarms: What an operator must hear of.
        compared: Bytes of the disks that were read for it.
    """

    def __init__(self, parent: StoredChain, basis: Basis, *, stopped: Callable[[], bool]) -> None:
        self._parent, self._basis, self._stopped = parent, basis, stopped
        self.alarms: list[str] = []
        self.compared = 0

    def choose(self, disks: Sequence[OpenDisk], *, directory: Path) -> tuple[list[OpenDisk], Basis]:
        """Do it.

        Args:
            disks: All of each, as it is now.
            directory: Where private directories for sockets are made.

        Returns:
            What is to be read of each disk, and the final decision. Where one bitmap lies, none is believed.

        Raises:
            SourceError: A disk cannot be read.
            CancelledError: The run was stopped.
        """
        reasons: dict[str, str] = {}
        found: list[OpenDisk] = []
        for disk in disks:
            chosen = disk
            if disk.disk.target in self._basis.changed:
                try:
                    chosen = self._changes_of(disk, directory / disk.disk.target)
                except MismatchError as error:
                    self.alarms.append(f"ALARM: {error.message}. All disks are stored in full.")
                    return list(disks), self._basis.without(dict.fromkeys(self._basis.targets, error.message))
                except _ParentError as error:
                    reasons[disk.disk.target] = error.message
            found.append(chosen)
        return found, self._basis.without(reasons)

    def _changes_of(self, disk: OpenDisk, directory: Path) -> OpenDisk:
        layers = self._parent.layers(disk.disk.target)
        dirty = widen(disk.export.dirty(), size=disk.size)
        with _serve(layers, directory, self._parent.head.manifest.id) as stored:
            before = _compare_allocation(disk, dirty, stored)
            clusters = _sample(disk, before, dirty)
            self.compared += total(clusters)
            _compare_clusters(disk, stored, clusters, self._stopped)
        return disk.only(dirty, backing=f"../{self._parent.head.manifest.id}/{layers[0].record.name}")


@contextmanager
def _serve(layers: Sequence[Layer], directory: Path, backup_id: str) -> Iterator[Export]:
    """The parent's disk. Raises ``_ParentError`` where it cannot be read now."""
    with ExitStack() as stack:
        try:
            directory.mkdir(mode=0o700, parents=True)
            stack.callback(remove_tree, directory)
            stored = stack.enter_context(StoredExport(layers, directory=directory, clients=_CLIENTS))
        except (SourceError, StorageError, S3Error, FormatError, NotFoundError, DependencyError) as error:
            raise _ParentError(f"backup {backup_id} cannot be read now: {error.message}") from error
        yield stored.export


def _compare_allocation(disk: OpenDisk, dirty: Sequence[Extent], parent: Export) -> list[Extent]:
    """What the parent holds, once it is certain that nothing of it is gone without a word."""
    with _parent_errors():
        size, allocated = parent.allocated()
    if size != disk.size:
        raise MismatchError(f"disk {disk.disk.target} had {size} bytes in the parent, and has {disk.size} now")
    before = widen(allocated, size=size)
    lost = subtract(subtract(before, dirty), disk.extents)
    if lost:
        raise MismatchError(
            f"{format_bytes(total(lost))} of disk {disk.disk.target} that the parent holds are gone, and its bitmap "
            "tells nothing of it: it was shrunk and grown again, or changed behind QEMU's back"
        )
    return before


def _sample(disk: OpenDisk, before: Sequence[Extent], dirty: Sequence[Extent]) -> list[Extent]:
    """Clean clusters to look at: up to half of them where the parent has nothing and the disk may have something.

    The outermost are among them: there lie tables and labels by which even a copy of a disk can be told from it.
    """
    clean = subtract(disk.extents, dirty)
    edges = edge_clusters(clean)
    wanted = max(_SAMPLE_LEAST, int(count_clusters(clean) * _SAMPLE_SHARE)) - len(edges)
    inner = subtract(clean, edges)
    new = sample_clusters(subtract(inner, before), wanted // 2)
    others = sample_clusters(subtract(inner, new), wanted - len(new))
    return sorted([*edges, *new, *others], key=lambda extent: extent.offset)


def _compare_clusters(disk: OpenDisk, parent: Export, clusters: Sequence[Extent], stopped: Callable[[], bool]) -> None:
    with closing(BlockReader(disk.export, stopped=stopped)) as now, closing(_ParentReader(parent, stopped)) as then:
        before = then.read(clusters)
        for offset, new in now.read(iter(clusters)):
            if new != next(before):
                raise MismatchError(
                    f"disk {disk.disk.target} at offset {offset} differs from the parent, and its bitmap calls it clean"
                )


class _ParentReader:
    """Reads the parent. Raises ``_ParentError``."""

    def __init__(self, export: Export, stopped: Callable[[], bool]) -> None:
        with _parent_errors():
            self._reader = BlockReader(export, stopped=stopped)

    def read(self, clusters: Sequence[Extent]) -> Iterator[bytearray]:
        """The data of each."""
        with _parent_errors():
            for _offset, data in self._reader.read(iter(clusters)):
                yield data

    def close(self) -> None:
        """End the connection."""
        self._reader.close()


@contextmanager
def _parent_errors() -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        raise _ParentError(f"its parent cannot be read: {error.message}") from error
