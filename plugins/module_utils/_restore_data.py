# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes disks of the images in a backup: every part is proved before it is used."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._copies import LOCAL, Damage, DamagedError, LocalCopy
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    read_json,
    storage_errors,
    write_json,
)
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import GoodParts, find_damage
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._repair import write_parts
from ansible_collections.vmforge.backup.plugins.module_utils._restore_early import Proved, prove_and_write
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image, aside
from ansible_collections.vmforge.backup.plugins.module_utils._restore_write import DiskFile
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer
from ansible_collections.vmforge.backup.plugins.module_utils._stored_map import in_order

_TELL_SECONDS = 1.0


def mark_of(state: Path, target: str) -> Path:
    """The note that a disk was finished."""
    return state / f"{target}.done.json"


def is_untouched(mark: Path, path: Path, staged: Path) -> bool:
    """Whether an image that was finished under the name ``staged`` has not been written to since, by a guest above all.

    Args:
        mark: The note that says what was finished.
        path: Of the image now.
    """
    try:
        noted, status = read_json(mark), path.stat()
    except (FileNotFoundError, FormatError):
        return False
    now = (str(staged), status.st_size, status.st_mtime_ns, status.st_ino)
    return tuple(noted.get(name) for name in ("path", "size", "modified", "inode")) == now


class DiskMaker:
    """Makes the disks of one restore.

    Args:
        head: The backup that is restored.
        state: A directory for notes of what is done.
        parallel: Parts at once.
        now: In the names of what is put aside.

    Attributes:
        kept: What was put aside instead of being overwritten.
        damages: What was found and passed over, each with the id of its backup.
        sources: Target -> the copy that its data came from.
    """

    def __init__(self, head: StoredBackup, state: Path, *, parallel: int, progress: Progress, now: str) -> None:
        self._head, self._state, self._parallel, self._progress = head, state, parallel, progress
        self._now = now
        self._fetched: dict[Path, int] = {}
        self.kept: list[str] = []
        self.damages: list[tuple[str, Damage]] = []
        self.sources: dict[str, str] = {}

    def small(self, record: FileRecord) -> bytes:
        """A small file whole.

        Raises:
            DamagedError: No copy of it is good.
        """
        with GoodParts(record, self._head.copies) as good:
            try:
                return b"".join(bytes(good.read(number)) for number in range(1, len(record.parts) + 1))
            finally:
                self._pass_over(self._head.manifest.id, good.damages)

    def prepare(self, image: Image) -> None:
        """Make the new file beside its place; that of an earlier run which was interrupted is taken if it is whole.

        Raises:
            DamagedError: A part is good in no copy.
            StorageError: The file cannot be written.
        """
        try:
            self._prepare(image)
        finally:
            self._close_fetched()

    def _prepare(self, image: Image) -> None:
        if image.is_device:
            self.prove(image)
            return
        if self._is_done(image):
            self.sources[image.disk.target] = "an earlier run"
        else:
            self._put_used_aside(image)
            with self._open(image, image.staged) as file:
                sources = prove_and_write(image, file, functools.partial(self.prove, image), parallel=self._parallel)
                self._convert(sources, image, file)
            self._check_fetched()
            self._note_done(image)
        self._drop_fetched(image)

    def write_device(self, image: Image, sources: Sequence[Path]) -> None:
        """Write what was proved to a block device; what was on it is lost."""
        try:
            with self._open(image, image.path) as file:
                self._convert(sources, image, file)
            self._check_fetched()
        finally:
            self._close_fetched()
        self._drop_fetched(image)

    def prove(self, image: Image, proved: Proved | None = None) -> list[Path]:
        """The images that a disk is made of, every part of them good: local ones, or such as are put together.

        Args:
            proved: Told of every part.

        Returns:
            One for each layer.

        Raises:
            DamagedError: A part is good in no copy.
        """
        good = self._prove_local(image, proved)
        used = [LOCAL] if good else []
        missing = [layer for layer in image.layers if layer.id not in good]
        if missing:
            self._progress.enter(f"fetching {image.disk.target}", total=sum(layer.record.size for layer in missing))
        for layer in missing:
            good[layer.id] = self._fetch(image, layer, proved)
            used += [copy.name for copy in layer.backup.copies]
        self.sources[image.disk.target] = "+".join(dict.fromkeys(used))
        return [good[layer.id] for layer in image.layers]

    def _prove_local(self, image: Image, proved: Proved | None) -> dict[str, Path]:
        """Those layers whose local file is good, by the id of their backup."""
        local = [(layer, copy) for layer in image.layers for copy in layer.backup.copies if isinstance(copy, LocalCopy)]
        self._progress.enter(f"verifying {image.disk.target}", total=sum(layer.record.size for layer, _copy in local))
        good: dict[str, Path] = {}
        for layer, copy in local:
            try:
                told = proved.begin(layer, copy.directory / layer.record.name) if proved is not None else None
                found = find_damage(
                    copy,
                    layer.record,
                    parallel=self._parallel,
                    advance=self._progress.advance,
                    order=in_order(layer.record, layer.disk.virtual_size),
                    proved=told,
                )
            except StorageError:
                if len(layer.backup.copies) == 1:
                    raise
                # The other one may do.
                continue
            if not found:
                good[layer.id] = copy.directory / layer.record.name
            self._pass_over(layer.id, found)
        return good

    def discard(self, image: Image) -> None:
        """Remove what was made and is not used."""
        self._put_used_aside(image)
        image.staged.unlink(missing_ok=True)
        self._drop_fetched(image)

    def discard_used(self, image: Image) -> None:
        """Remove an image that was finished and then written to."""
        if not image.is_device and self._mark(image).exists() and not self._is_done(image):
            image.staged.unlink(missing_ok=True)
            self.forget(image)

    def forget(self, image: Image) -> None:
        """Remove the note: the file is in its place."""
        self._mark(image).unlink(missing_ok=True)

    def _check_fetched(self) -> None:
        """Nothing fetched was read back other than it was written.

        What is fetched is not synced, for it is proved again by whoever goes on with it. But had the kernel failed to
        write a page, or to forget an old one that a write has gone past, another one would have been read in its place.
        It tells of that whoever had the file open, and to ask costs nothing where nothing is left to be written.
        """
        for path, descriptor in self._fetched.items():
            with storage_errors(f"writing {path}"):
                os.ftruncate(descriptor, 0)
                os.fsync(descriptor)

    def _close_fetched(self) -> None:
        while self._fetched:
            os.close(self._fetched.popitem()[1])

    def _drop_fetched(self, image: Image) -> None:
        for layer in image.layers:
            image.fetched(layer).unlink(missing_ok=True)

    def _pass_over(self, backup_id: str, damages: Iterable[Damage]) -> None:
        found = [(backup_id, damage) for damage in damages]
        self.damages += [one for one in found if one not in self.damages]

    def _fetch(self, image: Image, layer: Layer, proved: Proved | None) -> Path:
        """Put an image together from good parts; parts that an earlier run has fetched are proved and kept."""
        record, path = layer.record, image.fetched(layer)
        with storage_errors(f"opening {path}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fetched[path] = os.open(path, flags, 0o600)
        wanted = in_order(record, layer.disk.virtual_size)
        told = proved.begin(layer, path) if proved is not None else _ignore_part
        if path.exists() and path.stat().st_size == record.size:
            here = LocalCopy(path.parent)
            named = FileRecord(path.name, record.size, None, record.part_size, record.parts)
            bad = find_damage(here, named, parallel=self._parallel, advance=_ignore, proved=told)
            # One of the file as a whole says nothing of its parts.
            if all(damage.part is not None for damage in bad):
                wanted = [number for number in wanted if number in {damage.part for damage in bad}]
        with GoodParts(record, layer.backup.copies) as good:
            try:
                write_parts(
                    path, record, wanted, good, parallel=self._parallel, advance=self._progress.advance, proved=told
                )
            except DamagedError as error:
                raise DamagedError(error.damage, backup=layer.id) from error
            finally:
                self._pass_over(layer.id, good.damages)
        return path

    def _convert(self, sources: Sequence[Path], image: Image, file: DiskFile) -> None:
        """Write what was not written while it was proved."""
        self._progress.enter(f"writing {image.disk.target}", total=image.disk.virtual_size)
        file.write_rest(sources)

    def _open(self, image: Image, path: Path) -> DiskFile:
        told = 0.0

        def tell() -> None:
            nonlocal told
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                self._progress.write()

        log = self._state / f"{image.disk.target}.log"
        return DiskFile(image, path, log=log, tell=tell, parallel=self._parallel)

    def _put_used_aside(self, image: Image) -> None:
        """An image that was finished and then written to may be what a guest worked on; half an image is none."""
        if self._mark(image).exists() and image.staged.exists() and not self._is_done(image):
            kept = aside(image.path, self._now, os.path.lexists)
            with storage_errors(f"renaming {image.staged} to {kept}"):
                os.rename(image.staged, kept)
            self.kept.append(str(kept))
        self.forget(image)

    def _mark(self, image: Image) -> Path:
        return mark_of(self._state, image.disk.target)

    def _note_done(self, image: Image) -> None:
        write_json(self._mark(image), self._facts(image))

    def _is_done(self, image: Image) -> bool:
        try:
            return image.staged.is_file() and read_json(self._mark(image)) == self._facts(image)
        except (FileNotFoundError, FormatError):
            return False

    def _facts(self, image: Image) -> dict[str, Any]:
        """Of what, in which format, and that nobody has written to it since."""
        status = image.staged.stat()
        return {
            "path": str(image.staged),
            "format": image.format,
            "parts": [list(layer.record.parts) for layer in image.layers],
            "size": status.st_size,
            "modified": status.st_mtime_ns,
            "inode": status.st_ino,
        }


def _ignore(_count: int) -> None:
    """Parts that are here already are no progress."""


def _ignore_part(_number: int, _part: memoryview | None) -> None:
    """Nothing is written before all of them are good."""
