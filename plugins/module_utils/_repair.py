# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mends a copy of a backup from the other one. With the VM's lock held."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._copies import (
    LOCAL,
    S3,
    Copy,
    Damage,
    LocalCopy,
    OffsiteCopy,
)
from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import set_direct, write_at
from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    storage_error,
    storage_errors,
    sync_directory,
    write_file,
)
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import (
    GoodParts,
    Told,
    own_memory,
    part_place,
)
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._parallel import in_parallel
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup


def mend(backup: StoredBackup, damages: Iterable[Damage], *, parallel: int) -> list[str]:
    """Mend what is damaged in one copy and good in the other; the local one first, for that helps the other.

    Args:
        damages: All that is known.
        parallel: Parts at once.

    Returns:
        Why something could not be mended, in words.
    """
    copies = {copy.name: copy for copy in backup.copies}
    found = list(damages)
    failures: list[str] = []
    for name in (LOCAL, S3):
        copy = copies.get(name)
        others = [other for other in backup.copies if other.name != name]
        if copy is None or not others:
            continue
        files = {damage.file for damage in found if damage.copy == name}
        # The manifest last: it says that the rest is there.
        records = [record for record in backup.manifest.files if record.name in files]
        for record in records:
            bad = [damage for damage in found if (damage.copy, damage.file) == (name, record.name)]
            try:
                _mend_file(copy, record, bad, others, parallel=parallel)
            except (VMForgeError, OSError) as error:
                failure = error if isinstance(error, VMForgeError) else storage_error(f"mending {record.name}", error)
                failures.append(f"{record.name} of the {name} copy could not be mended: {failure.message}")
        if MANIFEST in files and not failures:
            _write_manifest(copy, backup.data)
    return failures


def _mend_file(
    copy: Copy, record: FileRecord, damages: Sequence[Damage], others: Sequence[Copy], *, parallel: int
) -> None:
    if isinstance(copy, OffsiteCopy):
        directory = next(other.directory for other in others if isinstance(other, LocalCopy))
        parts = [bytes.fromhex(part) for part in record.parts]
        # Refuses a part that is not as the manifest says.
        copy.place.store.upload_file(
            copy.place.key(record.name),
            str(directory / record.name),
            part_size=record.part_size,
            part_sha256=parts,
            sha256=record.sha256,
        )
    elif isinstance(copy, LocalCopy):
        numbers = [damage.part for damage in damages if damage.part is not None]
        whole = any(damage.part is None for damage in damages)
        wanted = list(range(1, len(record.parts) + 1)) if whole else numbers
        with GoodParts(record, others) as good:
            write_parts(copy.directory / record.name, record, wanted, good, parallel=parallel)


def write_parts(
    path: Path,
    record: FileRecord,
    numbers: Sequence[int],
    good: GoodParts,
    *,
    parallel: int,
    advance: Callable[[int], None] | None = None,
    proved: Told | None = None,
) -> None:
    """Write parts of a file at their places, each proved before; the file is made, or cut, where that is needed.

    Args:
        path: Of the file.
        record: As the manifest has it.
        numbers: Of the parts, from 1, in the order in which they are wanted.
        good: Gives them.
        parallel: How many at once.
        advance: Told of bytes written; from any thread.
        proved: Told of each part that can be read now, and given it; from any thread. If there is one, nothing is
            synced.

    Raises:
        DamagedError: A part is in no copy.
        StorageError: The file cannot be written.
    """
    with storage_errors(f"writing {path}"):
        # In the directory's own file system, and never through a link.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, record.size)
            set_direct(descriptor, True)

            def fetch(index: int, _buffer: bytearray) -> None:
                number = numbers[index - 1]
                offset, length = part_place(record, number)
                own = own_memory(length, parallel) if proved is not None else None
                part = good.read(number, own)
                write_at(descriptor, part, offset)
                if advance is not None:
                    advance(length)
                if proved is not None:
                    proved(number, own)

            if numbers:
                in_parallel(len(numbers), parallel, 0, fetch)
            if proved is None:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if proved is None:
            sync_directory(path.parent)


def _write_manifest(copy: Copy, data: bytes) -> None:
    if isinstance(copy, OffsiteCopy):
        copy.place.put(MANIFEST, data)
    elif isinstance(copy, LocalCopy):
        write_file(copy.directory / MANIFEST, data)
