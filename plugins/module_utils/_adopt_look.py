# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking for what a row of the pack names: on this node, in the bucket, and among the backups that it became."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._adopt import ADOPTED, PackRow
from ansible_collections.vmforge.backup.plugins.module_utils._adopt_files import (
    Image,
    lies_in,
    read_file,
    read_object,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest, decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._qcow2_header import ImageHeader, read_header
from ansible_collections.vmforge.backup.plugins.module_utils._qemu import check_image
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo


@dataclass
class Found:
    """What there is of a row.

    Attributes:
        done: The backup that it became in an earlier run.
        image: What was proved, of the file rather than of the object.
        file: The image on this node, where it is good.
        info: The image in the bucket, where it is good.
        notes: What is wrong with what is not good.
    """

    done: Manifest | None = None
    image: Image | None = None
    header: ImageHeader | None = None
    file: Path | None = None
    info: ObjectInfo | None = None
    notes: list[str] = field(default_factory=list)


class Look:
    """Looks for the rows of one VM. Reads only.

    Args:
        node: The name of this node in manifests.
        offsite: The VM's place in the bucket, or None without one.
        source_dirs: Images that lie elsewhere are not touched.
    """

    def __init__(
        self, node: str, directory: VmDirectory, offsite: OffsiteVm | None, source_dirs: Sequence[str]
    ) -> None:
        self._node, self._directory, self._offsite, self._source_dirs = node, directory, offsite, source_dirs

    def may_have(self, row: PackRow) -> bool:
        """Whether there may be anything of a row here or in the bucket."""
        if row.path is not None and os.path.lexists(row.path):
            return True
        try:
            if row.s3_key is None or self._offsite is None:
                return False
            return self._offsite.store.head(row.s3_key) is not None
        except VMForgeError:
            return True

    def at(self, row: PackRow) -> Found:
        """Read and prove everything that a row names."""
        found = Found(done=self._find_done(row))
        self._look_here(row, found)
        self._look_in_bucket(row, found)
        return found

    def _find_done(self, row: PackRow) -> Manifest | None:
        for backup_id in self._directory.ids():
            path = self._directory.entry(backup_id) / MANIFEST
            try:
                manifest = decode_manifest(path.read_bytes(), where=str(path))
            except (FileNotFoundError, FormatError):
                continue
            ours = manifest.full_reason == ADOPTED and manifest.vm.node == self._node
            if ours and manifest.disks[0].source in row.sources and manifest.files[0].sha256 == row.sha256:
                return manifest
        return None

    def _look_here(self, row: PackRow, found: Found) -> None:
        if row.path is None:
            return
        path = Path(row.path)
        if not path.is_symlink() and not path.exists():
            return
        if not lies_in(path, self._source_dirs):
            found.notes.append(f"{path} lies outside {', '.join(self._source_dirs)}")
            return
        image = read_file(path)
        if image is None or not self._is_good(row, image, str(path), found):
            return
        reason = None if found.done else check_image(row.path)
        if reason is not None:
            found.notes.append(f"{path} is damaged: {reason}")
            return
        found.file, found.image = path, image

    def _look_in_bucket(self, row: PackRow, found: Found) -> None:
        if row.s3_key is None:
            return
        if self._offsite is None:
            if found.done is None and (found.file is not None or row.path is None):
                found.file = found.image = None
                found.notes.append(f"'{row.s3_key}' lies in S3, and would be orphaned: give the S3 options too")
            return
        store = self._offsite.store
        info = store.head(row.s3_key)
        if info is None:
            # Tell it only where there is something else: a row of which nothing is left is missing.
            if found.file is not None:
                found.notes.append(f"'{row.s3_key}' is not in {store.config.where}")
            return
        image = read_object(store, info)
        if self._is_good(row, image, f"'{row.s3_key}'", found):
            found.info, found.image = info, found.image or image

    def _is_good(self, row: PackRow, image: Image, name: str, found: Found) -> bool:
        if image.sha256 != row.sha256:
            found.notes.append(f"{name} has the SHA-256 {image.sha256}, not {row.sha256} as its row says")
            return False
        try:
            header = read_header(image.head)
        except FormatError as error:
            found.notes.append(f"{name} cannot be taken: {error.message}")
            return False
        if header.obstacle is not None:
            found.notes.append(f"{name} cannot be taken: {header.obstacle}")
            return False
        found.header = header
        return True
