# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Adopting the pack's images of one VM, with its lock held: look at a row, then do what is missing of it.

Everything is done in an order in which a run that dies leaves either the old image or a complete backup, and in which
the next run goes on: the image gets a second name, the manifest makes it a backup, then the old name goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._adopt import ADOPTED, PackRow, choose_id, refusal
from ansible_collections.vmforge.backup.plugins.module_utils._adopt_files import (
    Image,
    place_file,
    read_object,
    remove_file,
)
from ansible_collections.vmforge.backup.plugins.module_utils._adopt_look import Found, Look
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    S3Error,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import as_failure, read_note, write_file, write_json
from ansible_collections.vmforge.backup.plugins.module_utils._leftovers import Leftovers, discard
from ansible_collections.vmforge.backup.plugins.module_utils._local import (
    MANIFEST,
    OFFSITE,
    PARTIAL,
    PROGRESS,
    VmDirectory,
)
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import (
    DiskRecord,
    Manifest,
    decode_manifest,
    manifest_sha256,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup, OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_upload import finish_offsite
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo
from ansible_collections.vmforge.backup.plugins.module_utils._signals import Interrupted
from ansible_collections.vmforge.backup.plugins.module_utils._target import BackupTarget

_OTHER_DISK = "the adopted backup has one disk only"


@dataclass(frozen=True)
class Surroundings:
    """What is the same for all rows of a VM.

    Attributes:
        source_dirs: Images that lie elsewhere are not touched.
        domain_xml: Of the domain as it is now; None where there is none any more.
        targets: Of the domain's disks; the image is taken for the first one's.
        tool: Versions, for the manifest.
    """

    source_dirs: Sequence[str]
    tool: Mapping[str, str]
    domain_xml: bytes | None = None
    targets: Sequence[str] = ("vda",)


class VmAdoption:
    """Adopts rows of one VM.

    Args:
        offsite: The VM's place in the bucket, or None without one.
    """

    def __init__(self, vm: VmRef, directory: VmDirectory, offsite: OffsiteVm | None, around: Surroundings) -> None:
        self._vm, self._directory, self._offsite, self._around = vm, directory, offsite, around
        self._look = Look(vm.node, directory, offsite, around.source_dirs)
        self.warnings: list[str] = []

    def clear(self) -> None:
        """Take what an earlier run left in the middle: its data still lie in their old place."""
        for backup_id in self._directory.ids(PARTIAL):
            path = self._directory.entry(backup_id, PARTIAL)
            if ADOPTED in read_note(path / PROGRESS) and not (path / MANIFEST).exists():
                self.warnings += discard(self._directory, backup_id, self._offsite)
        leftovers = Leftovers(self._vm, self._directory, self._offsite)
        leftovers.clear_storage()
        self.warnings += leftovers.warnings
        # The pack's directories can be read by everybody.
        self._directory.path.chmod(0o700)

    def may_have(self, row: PackRow) -> bool:
        """Whether there may be anything of a row here or in the bucket."""
        return self._look.may_have(row)

    def adopt(self, row: PackRow, *, check_mode: bool) -> dict[str, Any]:
        """Adopt one row, or say why not.

        Returns:
            The row's entry of the module's result; failures are in it, not raised.
        """
        result: dict[str, Any] = {
            "row": row.row,
            "vm": {"uuid": self._vm.uuid, "name": self._vm.name},
            "node": self._vm.node,
            "result": "refused",
            "changed": False,
            "id": None,
            "instant": format_time(row.instant),
            "path": None,
            "s3_key": None,
            "copies": [],
            "checksum_sha256": None,
            "size_bytes": None,
            "notes": [],
        }
        try:
            reason = refusal(row, now=utc_now())
            if reason is not None:
                result["notes"].append(reason)
                return result
            found = self._look.at(row)
            result["notes"] += found.notes
            self._settle(row, found, result, check_mode=check_mode)
        except (VMForgeError, OSError) as error:
            result["result"] = "failed"
            result["notes"].append(as_failure(error).message)
        return result

    def _settle(self, row: PackRow, found: Found, result: dict[str, Any], *, check_mode: bool) -> None:
        if found.image is None and found.done is None:
            result["result"] = "refused" if found.notes else "missing"
            return
        left = found.file is not None or found.info is not None
        result.update(result="present" if found.done else "planned" if check_mode else "adopted")
        result["changed"] = found.done is None or left
        if check_mode:
            known = found.done.id if found.done else choose_id(row.instant, self._known(), now=utc_now())
            copies = [name for name, there in (("local", found.file), ("s3", found.info)) if there is not None]
            result.update(id=known, path=str(self._directory.entry(known)), copies=copies)
            return
        manifest = found.done or self._make(row, found)
        self._complete(manifest, found, result["notes"])
        self._describe(manifest, result)

    def _describe(self, manifest: Manifest, result: dict[str, Any]) -> None:
        path = self._directory.entry(manifest.id)
        offsite = read_note(path / OFFSITE)
        stored = bool(offsite.get("completed_at"))
        local = all((path / disk.file).is_file() for disk in manifest.disks)
        result.update(
            id=manifest.id,
            instant=manifest.instant,
            path=str(path),
            s3_key=offsite.get("prefix") if stored else None,
            copies=(["local"] if local else []) + (["s3"] if stored else []),
            checksum_sha256=manifest_sha256((path / MANIFEST).read_bytes()),
            size_bytes=manifest.size,
        )

    def _known(self) -> set[str]:
        elsewhere = self._offsite.ids() if self._offsite is not None else None
        return self._directory.known_ids() | set(elsewhere or ())

    def _make(self, row: PackRow, found: Found) -> Manifest:
        """Make the backup: of the file if it is here, of the object otherwise."""
        backup_id = choose_id(row.instant, self._known(), now=utc_now())
        partial = self._directory.entry(backup_id, PARTIAL)
        partial.mkdir(mode=0o700)
        place = self._offsite.backup(backup_id) if self._offsite is not None and found.info is not None else None
        try:
            facts = {"id": backup_id, "vm": {"uuid": self._vm.uuid, "name": self._vm.name}, "node": self._vm.node}
            Progress(partial / PROGRESS, dict(facts, **{ADOPTED: row.row})).enter("adopting")
            if place is not None:
                record = place.record(completed=False, local_kept=found.file is not None)
                write_json(partial / OFFSITE, record)
            manifest = self._fill(row, found, backup_id, place)
            self._commit(backup_id, manifest, None if found.file is not None else place)
        except (VMForgeError, OSError, Interrupted) as error:
            if not (partial / MANIFEST).exists():
                self.warnings += discard(self._directory, backup_id, self._offsite)
            if isinstance(error, Interrupted):
                raise
            raise as_failure(error) from error
        return manifest

    def _fill(self, row: PackRow, found: Found, backup_id: str, place: OffsiteBackup | None) -> Manifest:
        partial, image, header = self._directory.entry(backup_id, PARTIAL), found.image, found.header
        if image is None or header is None:
            raise FormatError(f"Row {row.row} has no image.")
        target = self._around.targets[0]
        name = f"{target}.qcow2"
        if found.file is not None:
            place_file(found.file, partial / name, image)
            place = None
        elif place is not None and found.info is not None:
            self._copy(found.info, place, name, image)
        files = [image.record(name)]
        if self._around.domain_xml is not None:
            small = BackupTarget(partial, keep_local=found.file is not None, offsite=place)
            files.append(small.add_small("domain.xml", self._around.domain_xml))
        return Manifest(
            id=backup_id,
            vm=self._vm,
            instant=format_time(row.instant),
            finished_at=format_time(utc_now()),
            type="full",
            full_reason=ADOPTED,
            consistency="crash",
            compression=header.compression if header.compression != "unknown" else "none",
            disks=(
                DiskRecord(
                    target=target,
                    type="full",
                    file=name,
                    format="qcow2",
                    source=row.sources[0],
                    virtual_size=header.virtual_size,
                    data_bytes=min(image.size, header.virtual_size),
                ),
            ),
            excluded=tuple((other, _OTHER_DISK) for other in self._around.targets[1:]),
            files=tuple(files),
            tool=self._around.tool,
        )

    def _copy(self, info: ObjectInfo, place: OffsiteBackup, name: str, image: Image) -> None:
        """Let the server copy, and read the copy: only that proves it."""
        stored = place.store.copy(info, place.key(name), sha256=image.sha256)
        copy = place.store.head(place.key(name))
        if copy is None or read_object(place.store, copy).parts != image.parts:
            raise S3Error(f"The copy of '{info.key}' is not what was copied.", code="s3_corrupt")
        place.note(name, stored)

    def _commit(self, backup_id: str, manifest: Manifest, place: OffsiteBackup | None) -> None:
        """As a new backup is: by the manifest in S3 if it lies only there, then by the rename."""
        partial, data = self._directory.entry(backup_id, PARTIAL), manifest.encode()
        decode_manifest(data, where=str(partial / MANIFEST))
        write_file(partial / MANIFEST, data)
        if place is not None:
            place.put_manifest(data)
            write_json(partial / OFFSITE, place.record(completed=True, local_kept=False))
        (partial / PROGRESS).unlink()
        self._directory.commit(backup_id)

    def _complete(self, manifest: Manifest, found: Found, notes: list[str]) -> None:
        """What follows the commit: the old file, the copy in S3, the old object."""
        path = self._directory.entry(manifest.id)
        if found.file is not None and (path / manifest.disks[0].file).is_file():
            remove_file(found.file)
        if found.info is None or self._offsite is None:
            return
        place = self._offsite.backup(manifest.id)
        if not read_note(path / OFFSITE).get("completed_at"):
            self._copy_all(manifest, path, place, found)
        try:
            place.store.delete(found.info.key)
        except S3Error as error:
            notes.append(f"It is adopted, but the old object stays: {error.message}")

    def _copy_all(self, manifest: Manifest, path: Path, place: OffsiteBackup, found: Found) -> None:
        if found.info is None or found.image is None:
            return
        disk = manifest.disks[0].file
        self._copy(found.info, place, disk, found.image)
        for record in manifest.files:
            if record.name != disk:
                place.put(record.name, (path / record.name).read_bytes())
        finish_offsite(place, path, (path / MANIFEST).read_bytes(), local_kept=(path / disk).is_file())
