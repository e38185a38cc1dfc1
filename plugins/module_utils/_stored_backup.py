# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One backup with all its copies, and the manifest that is believed: proved by what is known of it from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._copies import (
    LOCAL,
    S3,
    Copy,
    Damage,
    DamagedError,
    LocalCopy,
    OffsiteCopy,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, NotFoundError
from ansible_collections.vmforge.backup.plugins.module_utils._files import decode_json
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, OFFSITE
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import (
    Manifest,
    check_place,
    decode_manifest,
    manifest_sha256,
)
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import MAX_MANIFEST_SIZE, OffsiteBackup
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import VERIFIED

_MAX_SIDECAR_SIZE = 16 << 20


@dataclass(frozen=True)
class StoredBackup:
    """A backup that can be read.

    Attributes:
        data: The bytes of its manifest.
        copies: All that ought to be whole, the local one first.
        damages: What is wrong with manifests of it.
        records: What earlier verifications left, by copy.
    """

    manifest: Manifest
    data: bytes
    copies: tuple[Copy, ...]
    damages: tuple[Damage, ...]
    records: Mapping[str, Mapping[str, Any]]

    @property
    def sha256(self) -> str:
        """Of its manifest."""
        return manifest_sha256(self.data)


class UnreadableError(FormatError):
    """No manifest of a backup can be believed.

    Args:
        where: The backup.
        damages: Why.
    """

    code = "damaged"

    def __init__(self, where: str, damages: Sequence[Damage]) -> None:
        reasons = "; ".join(map(str, damages))
        super().__init__(f"Backup {where} has no manifest that can be believed: {reasons}.")
        self.damages = tuple(damages)


def open_backup(
    uuid: str,
    backup_id: str,
    *,
    directory: Path | None,
    place: OffsiteBackup | None,
    expected: str | None = None,
) -> StoredBackup:
    """Read the manifests of a backup and choose the one to be believed.

    Args:
        directory: Where its local copy lies or would lie; None where nobody looks.
        place: Where its copy in S3 lies or would lie; None where nobody looks.
        expected: The SHA-256 of its manifest, kept elsewhere: by a catalogue, or by a child's manifest.

    Raises:
        NotFoundError: There is no such backup.
        UnreadableError: There is one, and its manifests are damaged, or differ and nothing tells which is right.
        S3Error: S3 cannot be read.
    """
    name = f"{backup_id} of {uuid}"
    candidates: list[Copy] = []
    offsite: dict[str, Any] = {}
    if directory is not None and directory.is_dir():
        local = LocalCopy(directory)
        candidates.append(local)
        offsite = _read_sidecar(local, OFFSITE)
    remote = OffsiteCopy(place) if place is not None else None
    if remote is not None:
        candidates.append(remote)
    found, damages = _read_manifests(candidates, uuid, backup_id)
    absent = Damage(S3, MANIFEST, "is missing")
    if remote is not None and absent in damages and not _is_promised(remote, offsite):
        # Never uploaded, or not completely: then it is no copy, and no damaged one.
        candidates.remove(remote)
        damages.remove(absent)
    if not candidates or (not found and not damages):
        raise NotFoundError(f"There is no backup {name}.", code="backup_not_found")
    records = {copy.name: _read_sidecar(copy, VERIFIED) for copy in candidates}
    data = _believed(found, candidates, records, expected, damages)
    if data is None:
        raise UnreadableError(name, damages)
    manifest, chosen = found[data]
    whole = [copy for copy in candidates if copy.name != LOCAL or offsite.get("local") != "dropped"]
    damages += [_other(copy) for copy, (_manifest, other) in found.items() if other != chosen]
    return StoredBackup(manifest, chosen, tuple(whole), tuple(damages), records)


def _read_manifests(
    candidates: Iterable[Copy], uuid: str, backup_id: str
) -> tuple[dict[str, tuple[Manifest, bytes]], list[Damage]]:
    found: dict[str, tuple[Manifest, bytes]] = {}
    damages: list[Damage] = []
    for copy in candidates:
        try:
            data = copy.read_small(MANIFEST, max_size=MAX_MANIFEST_SIZE)
            manifest = decode_manifest(data, where="it")
            check_place(manifest, uuid, backup_id, where="it")
        except NotFoundError:
            damages.append(Damage(copy.name, MANIFEST, "is missing"))
        except DamagedError as error:
            damages.append(error.damage)
        except FormatError as error:
            damages.append(Damage(copy.name, MANIFEST, error.message.rstrip(".")))
        else:
            found[copy.name] = (manifest, data)
    return found, damages


def _is_promised(remote: OffsiteCopy, offsite: Mapping[str, Any]) -> bool:
    """Whether the node remembers that it completed this very copy."""
    return bool(offsite.get("completed_at")) and remote.place.is_place_of(offsite)


def _believed(
    found: Mapping[str, tuple[Manifest, bytes]],
    candidates: Iterable[Copy],
    records: Mapping[str, Mapping[str, Any]],
    expected: str | None,
    damages: list[Damage],
) -> str | None:
    """The copy whose manifest is right; None where there is none, and then ``damages`` says why."""
    sums = {copy: manifest_sha256(data) for copy, (_manifest, data) in found.items()}
    known = {expected} if expected else _hints([copy for copy in candidates if copy.name in found], records)
    if known:
        right = [copy for copy, digest in sums.items() if digest in known]
        if len({sums[copy] for copy in right}) == 1:
            return right[0]
        wanted = " or ".join(sorted(known))
        damages += [Damage(copy, MANIFEST, f"has the SHA-256 {digest}, not {wanted}") for copy, digest in sums.items()]
        return None
    if len(set(sums.values())) > 1:
        damages += [Damage(copy, MANIFEST, "differs from the other copy's") for copy in sums]
        return None
    return next(iter(sums), None)


def _hints(candidates: Iterable[Copy], records: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """What is remembered of the manifest's SHA-256: by earlier verifications, and by whoever uploaded it.

    Args:
        candidates: With a manifest of this very backup: what another object says of itself is of no interest.
    """
    known = {record.get("manifest_sha256") for record in records.values()}
    known |= {copy.stored_sha256(MANIFEST) for copy in candidates if isinstance(copy, OffsiteCopy)}
    return {str(digest) for digest in known if digest}


def _other(copy: str) -> Damage:
    return Damage(copy, MANIFEST, "is not the one of this backup")


def _read_sidecar(copy: Copy, name: str) -> dict[str, Any]:
    """A mutable file beside the manifest; one that cannot be read tells nothing."""
    try:
        return decode_json(copy.read_small(name, max_size=_MAX_SIDECAR_SIZE), where=name)
    except (NotFoundError, FormatError):
        return {}
