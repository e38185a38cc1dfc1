# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One backup in the making: from an open source to a manifest in the partial directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._definitions import read_definitions
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceChangedError, SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._files import write_file
from ansible_collections.vmforge.backup.plugins.module_utils._guard import SpaceGuard, Ticker, free_bytes, reserve_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST
from ansible_collections.vmforge.backup.plugins.module_utils._local_file import LocalFile, reread
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord, FileRecord, Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent, VmRef, format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import REQUEST_SIZE, BlockReader, Export
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._pipeline import (
    ImageStream,
    RateLimit,
    Stop,
    StreamSettings,
    split_ranges,
)
from ansible_collections.vmforge.backup.plugins.module_utils._plan import BackupPlan, check_space, part_size_for
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._source import Source
from ansible_collections.vmforge.backup.plugins.module_utils._target import BackupTarget

_WATCH_SECONDS = 0.5
_REASON_SECONDS = 2.0


@dataclass(frozen=True)
class _OpenDisk:
    """A disk whose export has told its size and which runs of it may be other than zero."""

    disk: Disk
    export: Export
    size: int
    extents: Sequence[Extent]
    read_bytes: int

    @classmethod
    def of(cls, disk: Disk, export: Export) -> _OpenDisk:
        """Ask the export. Raises ``SourceError``."""
        size, extents = export.allocated()
        if size % 512:
            raise SourceError(f"Disk {disk.target} has {size} bytes, not a multiple of 512; qcow2 cannot hold that.")
        # Uncut: one range for each extent, however long.
        total = sum(extent.length for extent in split_ranges(extents, size=size, limit=size))
        return cls(disk, export, size, extents, total)

    def ranges(self) -> Iterator[Extent]:
        """The requests, one after the other: a list of them would take more memory than all buffers."""
        return split_ranges(self.extents, size=self.size, limit=REQUEST_SIZE)


@dataclass
class Capture:
    """Streams all disks of one domain to a target.

    Args:
        spec: The domain's definition, with the disks that ``plan`` names.
        disks: That take part.
        tool: Versions, for the manifest.
        stop: Watched by all threads.
    """

    options: BackupOptions
    domain: Domain
    vm: VmRef
    backup_id: str
    spec: DomainSpec
    plan: BackupPlan
    disks: Sequence[Disk]
    target: BackupTarget
    progress: Progress
    tool: Mapping[str, str]
    stop: Stop = field(default_factory=Stop)
    _files: list[FileRecord] = field(default_factory=list)
    _disks: list[DiskRecord] = field(default_factory=list)
    _written: list[tuple[LocalFile, FileRecord]] = field(default_factory=list)

    def run(self, source: Source) -> tuple[Manifest, bytes]:
        """Read everything, check it, and write the manifest last.

        Returns:
            The manifest and its bytes.

        Raises:
            VMForgeError: Whatever keeps this from being a backup. Removing the partial directory and what lies in S3
                is the caller's.
        """
        try:
            # Watched from the first moment on: a guest fills scratch files also while block status is asked for.
            with source, Ticker(_WATCH_SECONDS, source.watches(), self.stop, on_failure=source.release):
                self._refuse_changed_disks()
                definitions = read_definitions(self.domain, self.spec)
                opened = [_OpenDisk.of(disk, source.exports[disk.target]) for disk in self.disks]
                self._check_space(opened)
                self._read(source, opened)
            self._verify()
        finally:
            for written, _record in self._written:
                written.close()
        for name, data in definitions.items():
            self._files.append(self.target.add_small(name, data))
        return self._write_manifest(source)

    def _refuse_changed_disks(self) -> None:
        """A disk that was plugged in since the plan was made is not in the job, and nobody would be told."""
        now = [(disk.target, disk.source) for disk in self.domain.spec().disks]
        if now != [(disk.target, disk.source) for disk in self.spec.disks]:
            raise SourceChangedError(f"The disks of {self.vm.name!r} were changed as its backup began.")

    def _check_space(self, opened: Sequence[_OpenDisk]) -> None:
        total = sum(item.read_bytes for item in opened)
        self.progress.enter("reading", total=total)
        if self.target.keep_local:
            path = str(self.target.directory.parent)
            needed = int(total * self.plan.ratio)
            check_space(needed=needed, free=free_bytes(path), reserve=reserve_bytes(path), path=path)

    def _stream(self, opened: Sequence[_OpenDisk]) -> None:
        watches: list[Callable[[], None]] = [self.progress.write]
        if self.target.keep_local:
            watches.append(
                SpaceGuard(str(self.target.directory.parent), what="backups are written", code="target_full")
            )
        limit = RateLimit(self.options.rate_limit)
        with self._ticker(*watches):
            for item in opened:
                self._stream_disk(item, limit)
        self.stop.check()

    def _read(self, source: Source, opened: Sequence[_OpenDisk]) -> None:
        """Stream, and make sure that all of it was of one instant."""
        try:
            self._stream(opened)
        except SourceError as error:
            if error.code != SourceError.code:
                # A watch has said already what is wrong, and ended the job for it.
                raise
            # Why it went away says more than that it did; libvirt knows it a moment later than we.
            deadline = time.monotonic() + _REASON_SECONDS
            while time.monotonic() < deadline:
                source.confirm()
                time.sleep(0.1)
            raise
        source.confirm()

    def _ticker(self, *calls: Callable[[], None]) -> Ticker:
        return Ticker(_WATCH_SECONDS, calls, self.stop)

    def _stream_disk(self, item: _OpenDisk, limit: RateLimit) -> None:
        settings = StreamSettings(
            compression=self.options.compression,
            level=self.options.level,
            readers=self.options.readers,
            part_size=part_size_for(virtual_size=item.size, read_bytes=item.read_bytes),
        )
        image = self.target.open_image(f"{item.disk.target}.qcow2")
        try:
            streamed = ImageStream(
                lambda: BlockReader(item.export, stopped=self.stop),
                size=item.size,
                ranges=item.ranges(),
                sink=image,
                settings=settings,
                stop=self.stop,
                limit=limit,
                advance=self.progress.advance,
            ).run()
            image.complete()
        except BaseException:
            image.abort()
            raise
        parts = tuple(part.hex() for part in streamed.parts)
        record = FileRecord(image.name, streamed.size, sha256=None, part_size=settings.part_size, parts=parts)
        if image.local is not None:
            self._written.append((image.local, record))
        else:
            self._files.append(record)
        self._disks.append(
            DiskRecord(
                target=item.disk.target,
                type="full",
                file=image.name,
                format="qcow2",
                source=item.disk.source,
                virtual_size=item.size,
                data_bytes=streamed.data_bytes,
            )
        )

    def _verify(self) -> None:
        """Make the local images durable, and read them again from the disk."""
        if not self._written:
            return
        self.progress.enter("verifying", total=sum(record.size for _file, record in self._written))
        with self._ticker(self.progress.write):
            for written, record in self._written:
                written.sync()
                digest = reread(
                    written.path,
                    part_size=record.part_size,
                    parts=[bytes.fromhex(part) for part in record.parts],
                    advance=self.progress.advance,
                    check=self.stop.check,
                )
                self._files.append(replace(record, sha256=digest))

    def _write_manifest(self, source: Source) -> tuple[Manifest, bytes]:
        manifest = Manifest(
            id=self.backup_id,
            vm=self.vm,
            instant=format_time(source.instant),
            finished_at=format_time(utc_now()),
            type=self.plan.type,
            full_reason=self.plan.full_reason,
            consistency=source.consistency,
            compression=self.options.compression,
            disks=tuple(self._disks),
            excluded=self.plan.excluded,
            files=tuple(self._files),
            tool=self.tool,
        )
        data = manifest.encode()
        write_file(self.target.directory / MANIFEST, data)
        return manifest, data
