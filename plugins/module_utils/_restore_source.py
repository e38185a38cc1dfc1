# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is restored: the backup that was asked for, wherever it lies, and all that it builds on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    InputError,
    NotFoundError,
    S3Error,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._find_backups import Found, find_backups
from ansible_collections.vmforge.backup.plugins.module_utils._local import BackupDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup, open_backup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain


def find_source(options: RestoreOptions, store: S3Store | None) -> tuple[StoredChain, list[str]]:
    """Find the backup that was asked for. An S3 that is away does not matter where all of it is here as well.

    Returns:
        It with all that it builds on, and warnings.

    Raises:
        NotFoundError: There is none; says which there are.
        ChainError: It builds on what is missing, or is another backup.
        InputError: Some of it lies where these options do not lead.
    """
    try:
        return _find(options, store)
    except S3Error as error:
        if not options.backup_dir.is_dir():
            raise
        try:
            chain, warnings = _find(options, None)
        except VMForgeError:
            raise error from None
        told = f"S3 was not asked, so there may be a newer backup or a better copy: {error.message}"
        return chain, [*warnings, told]


def _find(options: RestoreOptions, store: S3Store | None) -> tuple[StoredChain, list[str]]:
    if store is None and not options.backup_dir.is_dir():
        raise InputError(
            f"The backup directory {options.backup_dir} does not exist or is no directory. Is its file system mounted?",
            code="backup_dir_missing",
        )
    found = find_backups(options.backup_dir, store, [options.vm])
    uuid = canonical_uuid(options.vm)
    for (vm_uuid, backup_id), error in found.unreadable.items():
        if (vm_uuid, backup_id) == (uuid, options.id) and options.checksum is None:
            raise error
    if options.checksum is not None and uuid is not None and options.id is not None:
        return _whole(found, _open(options, store, uuid, options.id), options), []
    backup = choose_backup(found.backups.values(), options)
    vm, chosen = backup.manifest.vm.uuid, backup.manifest.id
    warnings = [
        f"Backup {other} of {where} is passed over: {error.message}"
        for (where, other), error in found.unreadable.items()
        if where == vm and other > chosen and options.id is None
    ]
    if options.checksum is not None:
        backup = _open(options, store, vm, chosen)
    return _whole(found, backup, options), warnings


def _whole(found: Found, backup: StoredBackup, options: RestoreOptions) -> StoredChain:
    """All that the wanted disks of a backup need."""
    chain, manifest = found.chain(backup), backup.manifest
    known = [disk.target for disk in manifest.disks]
    needed = [layer.backup for target in known if target in (options.disks or known) for layer in chain.layers(target)]
    for member in [backup, *needed]:
        if not member.copies:
            of_it = "" if member is backup else f" needs {member.manifest.id}, whose disks"
            raise InputError(
                f"The disks of backup {manifest.id} of {manifest.vm.name!r} lie only in S3. Set offsite: s3 and the "
                "other options of S3, or name an older backup."
                if not of_it
                else f"Backup {manifest.id} of {manifest.vm.name!r}{of_it} lie only in S3. Set offsite: s3 and the "
                "other options of S3.",
                code="only_in_s3",
            )
    return chain


def _open(options: RestoreOptions, store: S3Store | None, uuid: str, backup_id: str) -> StoredBackup:
    """A backup whose manifest has the SHA-256 that was asked for."""
    return open_backup(
        uuid,
        backup_id,
        directory=BackupDirectory(str(options.backup_dir)).vm(uuid).entry(backup_id),
        place=OffsiteVm(store, uuid).backup(backup_id) if store is not None else None,
        expected=options.checksum,
    )


def choose_backup(backups: Iterable[StoredBackup], options: RestoreOptions) -> StoredBackup:
    """The backup that is asked for.

    Raises:
        NotFoundError: There is none; says which there are.
        InputError: Several machines have that name.
    """
    uuid, backups = canonical_uuid(options.vm), list(backups)
    mine = [one for one in backups if one.manifest.vm.uuid == uuid or one.manifest.vm.name == options.vm]
    found = sorted({one.manifest.vm.uuid for one in mine})
    if len(found) > 1:
        raise InputError(
            f"There are backups of several machines called {options.vm!r}: {', '.join(found)}. "
            "Ask for one by its UUID.",
            code="ambiguous",
        )
    ordered = sorted(mine, key=lambda one: one.manifest.id)
    fitting = [
        one
        for one in ordered
        if options.id in (None, one.manifest.id)
        and (options.before is None or parse_time(one.manifest.instant) <= options.before)
    ]
    if not fitting:
        raise NotFoundError(
            _nothing_fits(options, [one.manifest for one in ordered or backups]), code="backup_not_found"
        )
    return fitting[-1]


def _nothing_fits(options: RestoreOptions, there: Sequence[Manifest]) -> str:
    wanted = f"backup {options.id} of {options.vm!r}" if options.id else f"backup of {options.vm!r}"
    when = f" from before {options.before.isoformat()}" if options.before is not None else ""
    where = f"{options.backup_dir}" + (f" and {options.s3.where}" if options.s3 is not None else "")
    text = f"There is no {wanted}{when} in {where}."
    if not any((canonical_uuid(options.vm) or options.vm) in (m.vm.name, m.vm.uuid) for m in there):
        names = sorted({manifest.vm.name for manifest in there})
        return f"{text} There are backups of: {', '.join(names[:10]) or 'none'}."
    return f"{text} There are, newest first: {', '.join(manifest.id for manifest in reversed(there[-10:]))}."
