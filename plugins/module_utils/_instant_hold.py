# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds a backup while a machine runs on it, beside each of its copies, so that nobody deletes it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from ansible_collections.vmforge.backup.plugins.module_utils._copies import LOCAL, S3, Copy, LocalCopy, OffsiteCopy
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    encode_json,
    read_json,
    storage_errors,
    sync_directory,
    write_file,
)
from ansible_collections.vmforge.backup.plugins.module_utils._instant_record import InstantRecord
from ansible_collections.vmforge.backup.plugins.module_utils._local import VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_plan import NEW
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import DENIED
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import HOLD
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain

_BY = "vmforge_backup_restore"


def hold(record: InstantRecord, chain: StoredChain, options: RestoreOptions) -> list[str]:
    """Hold the backup; what it builds on cannot be deleted either then. A hold that is there already does.

    Returns:
        Warnings: what could not be held.
    """
    reason = f"{record.name} on {options.node} runs on it until its disks are filled"
    data = encode_json({"reason": reason, "by": _BY, "since": format_time(utc_now()), "until": None})
    warnings = []
    for copy in chain.head.copies:
        if isinstance(copy, LocalCopy):
            with ExitStack() as stack:
                if record.mode == NEW:
                    # In place it is held anyway.
                    stack.enter_context(VmDirectory(copy.directory.parent).lock(timeout=options.lock_timeout))
                if not (copy.directory / HOLD).exists():
                    record.held.append(LOCAL)
                    write_file(copy.directory / HOLD, data)
        elif isinstance(copy, OffsiteCopy):
            try:
                if copy.place.read_json(HOLD) is None:
                    record.held.append(S3)
                    copy.place.put(HOLD, data)
            except S3Error as error:
                if error.code != DENIED:
                    raise
                warnings.append(f"The copy in S3 could not be held, so see that nobody deletes it: {error.message}")
    return warnings


def release(record: InstantRecord, copies: Sequence[Copy]) -> list[str]:
    """Free what was held for this.

    Args:
        copies: Of the backup that the note names.

    Returns:
        Warnings: what is still held.
    """
    warnings = []
    for copy in copies:
        if copy.name not in record.held:
            continue
        try:
            if isinstance(copy, LocalCopy):
                path = copy.directory / HOLD
                with storage_errors(f"removing {path}"):
                    if path.exists() and read_json(path).get("by") == _BY:
                        path.unlink()
                        sync_directory(copy.directory)
            elif isinstance(copy, OffsiteCopy) and (copy.place.read_json(HOLD) or {}).get("by") == _BY:
                copy.place.store.delete(copy.place.key(HOLD))
        except (S3Error, FormatError) as error:
            warnings.append(
                f"The {copy.name} copy of backup {record.backup['id']} is still held; free it with "
                f"vmforge_backup_hold: {error.message}"
            )
    return warnings
