# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_verify``: find the backups, take a sample of them, verify each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._find_backups import (
    Found,
    Key,
    find_backups,
    open_store,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import (
    StoredBackup,
    UnreadableError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._verified import last_verified, take_sample
from ansible_collections.vmforge.backup.plugins.module_utils._verify_chain import ChainVerifier
from ansible_collections.vmforge.backup.plugins.module_utils._verify_one import (
    BAD,
    ELSEWHERE,
    FAILED,
    GONE,
    GOOD,
    PLANNED,
    Verification,
)
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VerifyOptions


def verify_backups(request: Request) -> Outcome:
    """Verify backups, in their copies here and in S3.

    Raises:
        VMForgeError: The request itself cannot be carried out; nothing was touched.
    """
    options = VerifyOptions.from_params(request.params)
    if options.s3 is None and not options.backup_dir.is_dir():
        raise InputError(
            f"The backup directory {options.backup_dir} does not exist or is no directory. Is its file system mounted?",
            code="backup_dir_missing",
        )
    with open_store(options.s3) as store:
        found = find_backups(options.backup_dir, store, options.vms, options.checksums)
        wanted = [backup for backup in found.backups.values() if _is_wanted(backup, options)]
        unreadable = [_unreadable(key, error) for key, error in found.unreadable.items() if _may_be(key, options)]
        # Of what lies only in a bucket that nobody looks at, nothing is known and nothing is told as if it were.
        here = [backup for backup in wanted if backup.copies]
        elsewhere = [Verification(options, one, None).entry(ELSEWHERE) for one in wanted if not one.copies]
        waiting = [(_verified_at(backup, options.level), backup) for backup in _by_age(here)]
        chosen = ChainVerifier(options, found, take_sample(waiting, options.share))
        entries = chosen.entries() if request.check_mode else chosen.run()
    return _outcome(entries + elsewhere + unreadable, _not_found(options, found), changed=chosen.changed)


def _is_wanted(backup: StoredBackup, options: VerifyOptions) -> bool:
    manifest = backup.manifest
    names = {canonical_uuid(name) for name in options.vms} | set(options.vms)
    return (
        (not names or manifest.vm.uuid in names or manifest.vm.name in names)
        and options.id in (None, manifest.id)
        and options.node in (None, manifest.vm.node)
    )


def _may_be(key: Key, options: VerifyOptions) -> bool:
    """A backup without a manifest does not tell whose it is: it is told unless others were asked for."""
    uuid, backup_id = key
    wanted = {canonical_uuid(name) for name in options.vms}
    return (not options.vms or uuid in wanted or None in wanted) and options.id in (None, backup_id)


def _by_age(backups: Sequence[StoredBackup]) -> list[StoredBackup]:
    """The newest first: of those that were never verified, they matter most."""
    return sorted(backups, key=lambda backup: (backup.manifest.id, backup.manifest.vm.uuid), reverse=True)


def _verified_at(backup: StoredBackup, level: str) -> str:
    copies = [copy.name for copy in backup.copies]
    return last_verified(backup.records.values(), backup.sha256, level=level, copies=copies)


def _unreadable(key: Key, error: UnreadableError | StorageError) -> dict[str, Any]:
    return {
        "vm": {"uuid": key[0], "name": None},
        "node": None,
        "id": key[1],
        "result": BAD if isinstance(error, UnreadableError) else FAILED,
        "level": "manifest",
        "copies": [],
        "damages": [damage.as_dict() for damage in getattr(error, "damages", ())],
        "checksum_sha256": None,
        "boot": None,
        "bytes_read": 0,
        "seconds": 0.0,
        "message": error.message,
    }


def _not_found(options: VerifyOptions, found: Found) -> list[str]:
    known = {backup.manifest.vm.name for backup in found.backups.values()}
    uuids = {uuid for uuid, _id in (*found.backups, *found.unreadable)}
    return [name for name in options.vms if name not in known and canonical_uuid(name) not in uuids]


def _outcome(entries: Sequence[dict[str, Any]], not_found: Sequence[str], *, changed: bool) -> Outcome:
    wrong = [entry for entry in entries if entry["result"] not in (GOOD, PLANNED, GONE, ELSEWHERE)]
    texts = [f"{entry['vm']['name'] or entry['vm']['uuid']} {entry['id']}: {entry['message']}" for entry in wrong]
    return Outcome(
        changed=changed,
        values={"backups": list(entries), "not_found": list(not_found)},
        diff={"before": "", "after": "".join(_line(entry) for entry in entries)},
        failure=" ".join(texts) or None,
    )


def _line(entry: Mapping[str, Any]) -> str:
    plan = f", {entry['level']} of {' and '.join(entry['copies'])}" if entry["result"] == PLANNED else ""
    return f"{entry['vm']['name'] or entry['vm']['uuid']} {entry['id']}: {entry['result']}{plan}\n"
