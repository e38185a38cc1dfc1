# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves what a machine was filled from: it is good, and is the same that it was at the beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._copies import Copy, LocalCopy, OffsiteCopy
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import find_damage
from ansible_collections.vmforge.backup.plugins.module_utils._instant_record import InstantRecord
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer, StoredChain
from ansible_collections.vmforge.backup.plugins.module_utils._stored_export import readable_copy


def seen(layer: Layer) -> dict[str, Any]:
    """Which copy of an image is used, and how it looks: nobody may exchange it while it is read."""
    copy = readable_copy(layer)
    return {"id": layer.id, "file": layer.record.name, "copy": copy.name, "looks": _looks(copy, layer)}


def prove(record: InstantRecord, chain: StoredChain, *, parallel: int, progress: Progress) -> None:
    """Read all that the disks were filled from, and compare it with the manifests.

    Raises:
        FormatError: With code ``damaged``: something of it is not what was backed up, or was exchanged meanwhile.
        S3Error, StorageError: It cannot be read now, which says nothing; a later call can.
    """
    layers = [(layer, was) for target, disk in record.disks.items() for layer, was in _pairs(chain, target, disk.seen)]
    progress.enter("proving", total=sum(layer.record.size for layer, _was in layers))
    problems = []
    for layer, was in layers:
        copy = next((copy for copy in layer.backup.copies if copy.name == was["copy"]), None)
        if copy is None or _looks(copy, layer) != was["looks"]:
            problems.append(f"{layer.record.name} of {layer.id}, {was['copy']} copy: it was exchanged or removed")
            continue
        found = find_damage(copy, layer.record, parallel=parallel, advance=progress.advance)
        problems += [f"{layer.id}, {damage}" for damage in found]
    if problems:
        raise FormatError(
            f"The disks of {record.name!r} are filled, but not with what was backed up: {'; '.join(problems)}. "
            "Trust nothing on them. Restore another backup, or this one from its other copy, with force: true.",
            code="damaged",
        )


def _pairs(
    chain: StoredChain, target: str, entries: tuple[Mapping[str, Any], ...]
) -> list[tuple[Layer, Mapping[str, Any]]]:
    return list(zip(chain.layers(target), entries))


def _looks(copy: Copy, layer: Layer) -> list[str]:
    """As text, for it is compared with what a note on disk holds."""
    if isinstance(copy, LocalCopy):
        path = copy.directory / layer.record.name
        with storage_errors(f"looking at {path}"):
            if not path.exists():
                return []
            status = path.stat()
        return [str(value) for value in (status.st_ino, status.st_size, status.st_mtime_ns)]
    if isinstance(copy, OffsiteCopy):
        info = copy.place.store.head(copy.place.key(layer.record.name))
        return [] if info is None else [info.etag, str(info.size), info.last_modified.isoformat()]
    return []
