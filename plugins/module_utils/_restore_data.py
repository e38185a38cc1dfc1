# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes disks of the images in a backup: every part is proved, then ``qemu-img`` writes them in the wanted format."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._copies import LOCAL, Damage, DamagedError, LocalCopy
from ansible_collections.vmforge.backup.plugins.module_utils._direct_io import set_direct
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    read_json,
    storage_errors,
    sync_directory,
    write_json,
)
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import GoodParts, find_damage
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._programs import Background, need_program
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._repair import write_parts
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image, aside
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer, layered

_POLL_SECONDS = 0.1
_TELL_SECONDS = 1.0
_STOP_SECONDS = 10.0


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
        if image.is_device:
            self.prove(image)
            return
        if self._is_done(image):
            self.sources[image.disk.target] = "an earlier run"
        else:
            sources = self.prove(image)
            self._put_used_aside(image)
            self._convert(sources, image, image.staged)
            self._note_done(image)
        self._drop_fetched(image)

    def write_device(self, image: Image, sources: Sequence[Path]) -> None:
        """Write what was proved to a block device; what was on it is lost."""
        self._convert(sources, image, image.path)
        self._drop_fetched(image)

    def prove(self, image: Image) -> list[Path]:
        """The images that a disk is made of, every part of them good: local ones, or such as are put together.

        Returns:
            One for each layer.

        Raises:
            DamagedError: A part is good in no copy.
        """
        good = self._prove_local(image)
        used = [LOCAL] if good else []
        missing = [layer for layer in image.layers if layer.id not in good]
        if missing:
            self._progress.enter(f"fetching {image.disk.target}", total=sum(layer.record.size for layer in missing))
        for layer in missing:
            good[layer.id] = self._fetch(image, layer)
            used += [copy.name for copy in layer.backup.copies]
        self.sources[image.disk.target] = "+".join(dict.fromkeys(used))
        return [good[layer.id] for layer in image.layers]

    def _prove_local(self, image: Image) -> dict[str, Path]:
        """Those layers whose local file is good, by the id of their backup."""
        local = [(layer, copy) for layer in image.layers for copy in layer.backup.copies if isinstance(copy, LocalCopy)]
        self._progress.enter(f"verifying {image.disk.target}", total=sum(layer.record.size for layer, _copy in local))
        good: dict[str, Path] = {}
        for layer, copy in local:
            try:
                found = find_damage(copy, layer.record, parallel=self._parallel, advance=self._progress.advance)
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

    def _drop_fetched(self, image: Image) -> None:
        for layer in image.layers:
            image.fetched(layer).unlink(missing_ok=True)

    def _pass_over(self, backup_id: str, damages: Iterable[Damage]) -> None:
        found = [(backup_id, damage) for damage in damages]
        self.damages += [one for one in found if one not in self.damages]

    def _fetch(self, image: Image, layer: Layer) -> Path:
        """Put an image together from good parts; parts that an earlier run has fetched are proved and kept."""
        record, path = layer.record, image.fetched(layer)
        wanted = list(range(1, len(record.parts) + 1))
        if path.exists() and path.stat().st_size == record.size:
            here = LocalCopy(path.parent)
            named = FileRecord(path.name, record.size, None, record.part_size, record.parts)
            bad = find_damage(here, named, parallel=self._parallel, advance=_ignore)
            # One of the file as a whole says nothing of its parts.
            wanted = wanted if any(d.part is None for d in bad) else [d.part for d in bad if d.part is not None]
        with GoodParts(record, layer.backup.copies) as good:
            try:
                write_parts(path, record, wanted, good, parallel=self._parallel, advance=self._progress.advance)
            except DamagedError as error:
                raise DamagedError(error.damage, backup=layer.id) from error
            finally:
                self._pass_over(layer.id, good.damages)
        return path

    def _convert(self, sources: Sequence[Path], image: Image, target: Path) -> None:
        self._progress.enter(f"writing {image.disk.target}", total=image.disk.virtual_size)
        if not image.is_device:
            target.unlink(missing_ok=True)
        with storage_errors(f"syncing {target}"):
            # Made before qemu-img does, with nobody's rights but ours. And open before it: qemu-img does not tell of a
            # write that failed behind its back, and the kernel tells such an error only to those who had the file open.
            flags = os.O_RDWR if image.is_device else os.O_RDWR | os.O_CREAT | os.O_EXCL
            descriptor = os.open(target, flags | os.O_CLOEXEC, 0o600)
            try:
                self._run_convert(sources, image, target, cache="none" if set_direct(descriptor, True) else "writeback")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(target.parent)

    def _run_convert(self, sources: Sequence[Path], image: Image, target: Path, *, cache: str) -> None:
        options = ["-n"] if image.is_device else []
        program = need_program("qemu-img", debian="qemu-utils", redhat="qemu-img")
        setpriv = need_program("setpriv", debian="util-linux", redhat="util-linux-core")
        argv = [setpriv, "--pdeathsig", "KILL", "--", program, "convert", "-O", image.format]
        # Complete, so that no name in an image is followed: an image may have been moved, or another one put there.
        source = layered([{"driver": "file", "filename": str(path)} for path in sources])
        argv += ["-t", cache, "-W", "-m", "8", *options, "json:" + json.dumps(source), str(target)]
        writer = Background(argv, log=self._state / f"{image.disk.target}.log")
        try:
            told = 0.0
            while not writer.ended():
                time.sleep(_POLL_SECONDS)
                if time.monotonic() - told > _TELL_SECONDS:
                    told = time.monotonic()
                    self._progress.write()
        finally:
            writer.stop(patience=_STOP_SECONDS)
        if writer.status():
            reason = writer.said().replace("qemu-img: ", "") or f"status {writer.status()}"
            raise StorageError(f"Writing disk {image.disk.target} to {target} failed: {reason}.", code="write_failed")

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
