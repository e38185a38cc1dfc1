# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One backup in the making: from an open source to a manifest in the partial directory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._basis import Basis, refuse_full
from ansible_collections.vmforge.backup.plugins.module_utils._changes import Changes
from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint_xml import CHECKPOINT
from ansible_collections.vmforge.backup.plugins.module_utils._definitions import read_definitions
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    CancelledError,
    SourceChangedError,
    SourceError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import write_file
from ansible_collections.vmforge.backup.plugins.module_utils._guard import SpaceGuard, Ticker, free_bytes, reserve_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST
from ansible_collections.vmforge.backup.plugins.module_utils._local_file import LocalFile, reread
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import DiskRecord, FileRecord, Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import BlockReader
from ansible_collections.vmforge.backup.plugins.module_utils._open_disk import OpenDisk
from ansible_collections.vmforge.backup.plugins.module_utils._options import BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._pipeline import (
    ImageStream,
    RateLimit,
    Stop,
    StreamSettings,
)
from ansible_collections.vmforge.backup.plugins.module_utils._plan import BackupPlan, check_space, part_size_for
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._signals import Interrupted
from ansible_collections.vmforge.backup.plugins.module_utils._source import PARENT_SOCKETS, RUN_DIRECTORY, Source
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain
from ansible_collections.vmforge.backup.plugins.module_utils._target import BackupTarget

_WATCH_SECONDS = 0.5
_REASON_SECONDS = 2.0


@dataclass
class Capture:
    """Streams all disks of one domain to a target.

    Args:
        spec: The domain's definition, with the disks that ``plan`` names.
        disks: That take part.
        basis: What is stored of each disk.
        parent: The chain that changes build on, where there are any.
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
    basis: Basis
    parent: StoredChain | None
    target: BackupTarget
    progress: Progress
    tool: Mapping[str, str]
    warnings: list[str] = field(default_factory=list)
    compared: int = 0
    stop: Stop = field(default_factory=Stop)
    _has_checkpoint: bool = False
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
            definitions = self._take(source)
            self._verify()
        finally:
            for written, _record in self._written:
                written.close()
        if source.checkpoint_xml is not None:
            definitions[CHECKPOINT] = source.checkpoint_xml.encode()
        for name, data in definitions.items():
            self._files.append(self.target.add_small(name, data))
        return self._write_manifest(source)

    def _take(self, source: Source) -> dict[str, bytes]:
        """What must be had while the source is open: the disks' data, and the definitions."""
        try:
            # Watched from the first moment on: a guest fills scratch files also while block status is asked for.
            with source, Ticker(_WATCH_SECONDS, source.watches(), self.stop, on_failure=source.release):
                self._has_checkpoint = source.checkpoint is not None
                self._refuse_changed_disks()
                definitions = read_definitions(self.domain, self.spec)
                self._read(source)
        except Interrupted:
            # It may have come just as the source was to be closed, and kept it from that. There is never a second one.
            source.__exit__()
            raise
        return definitions

    def _refuse_changed_disks(self) -> None:
        """A disk that was plugged in since the plan was made is not in the job, and nobody would be told."""
        now = [(disk.target, disk.source) for disk in self.domain.spec().disks]
        if now != [(disk.target, disk.source) for disk in self.spec.disks]:
            raise SourceChangedError(f"The disks of {self.vm.name!r} were changed as its backup began.")

    def _decide(self, source: Source, opened: Sequence[OpenDisk]) -> Sequence[OpenDisk]:
        """Which disks are stored in full after all, now that they can be asked."""
        self.basis = self.basis.without(source.refused)
        found = list(opened)
        if self.parent is not None and self.basis.parent is not None:
            changes = Changes(self.parent, self.basis, stopped=self.stop)
            found, self.basis = changes.choose(opened, directory=RUN_DIRECTORY / self.vm.uuid / PARENT_SOCKETS)
            self.warnings.extend(changes.alarms)
            self.compared = changes.compared
        refuse_full(self.basis, self.options.rules, name=self.vm.name)
        return found

    def _check_space(self, opened: Sequence[OpenDisk]) -> None:
        total = sum(item.read_bytes for item in opened)
        self.progress.enter("reading", total=total)
        if self.target.keep_local:
            path = str(self.target.directory.parent)
            needed = int(total * self.plan.ratio)
            check_space(needed=needed, free=free_bytes(path), reserve=reserve_bytes(path), path=path)

    def _stream(self, opened: Sequence[OpenDisk]) -> None:
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

    def _read(self, source: Source) -> None:
        """Decide what to read, stream it, and make sure that all of it was of one instant."""
        try:
            opened = [OpenDisk.of(disk, source.exports[disk.target]) for disk in self.disks]
            chosen = self._decide(source, opened)
            self._check_space(chosen)
            self._stream(chosen)
        except CancelledError:
            self.stop.check()
            raise
        except SourceError as error:
            if error.code == SourceError.code:
                self._tell_why(source)
            raise
        source.confirm()

    def _tell_why(self, source: Source) -> None:
        """Raise what says more than that the source went away, where that is known."""
        known = self.stop.error
        if isinstance(known, VMForgeError) and known.code != SourceError.code:
            # A watch has ended the job for it.
            raise known
        # libvirt knows it a moment later than we.
        deadline = time.monotonic() + _REASON_SECONDS
        while time.monotonic() < deadline:
            source.confirm()
            time.sleep(0.1)

    def _ticker(self, *calls: Callable[[], None]) -> Ticker:
        return Ticker(_WATCH_SECONDS, calls, self.stop)

    def _stream_disk(self, item: OpenDisk, limit: RateLimit) -> None:
        settings = StreamSettings(
            compression=self.options.compression,
            level=self.options.level,
            readers=self.options.readers,
            part_size=part_size_for(virtual_size=item.size, read_bytes=item.read_bytes),
            backing=(item.backing, "qcow2") if item.backing is not None else None,
        )
        image = self.target.open_image(f"{item.disk.target}.qcow2")
        try:
            streamed = ImageStream(
                lambda: BlockReader(item.export, stopped=self.stop),
                size=item.size,
                ranges=item.ranges(),
                zeros=item.zeros,
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
                type="full" if item.backing is None else "incremental",
                file=image.name,
                format="qcow2",
                source=item.disk.source,
                virtual_size=item.size,
                data_bytes=streamed.data_bytes,
                backing=item.backing,
                bitmap_granularity=self._granularity(item),
            )
        )

    def _granularity(self, item: OpenDisk) -> int | None:
        """Of the bitmap that the checkpoint has made, or else of the one that was read."""
        if self._has_checkpoint:
            return self.basis.tracked.get(item.disk.target)
        before = self.basis.parent.disks.get(item.disk.target) if self.basis.parent is not None else None
        return before.bitmap_granularity if item.backing is not None and before is not None else None

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
        parent = self.basis.parent
        manifest = Manifest(
            id=self.backup_id,
            vm=self.vm,
            instant=format_time(source.instant),
            finished_at=format_time(utc_now()),
            type=self.basis.type,
            full_reason=self.basis.full_reason,
            parent={"id": parent.id, "manifest_sha256": parent.sha256} if parent is not None else None,
            checkpoint=source.checkpoint,
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
