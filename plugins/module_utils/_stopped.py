# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stopped domain's disks, read without a lock: when it is started meanwhile, what was read is discarded."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceChangedError, SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._files import remove_tree, storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._image_lock import is_written
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._model import utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import Export
from ansible_collections.vmforge.backup.plugins.module_utils._qemu import ExportServer
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded
from ansible_collections.vmforge.backup.plugins.module_utils._source import DISK_SOCKETS, RUN_DIRECTORY, Since

_CLOSE_SECONDS, _CLOSE_POLL = 10.0, 0.1


@dataclass
class StoppedSource:
    """The disks of a stopped domain, without a lock.

    Args:
        paths: Target -> path of each disk's image.
        clients: Connections that each export takes.
        since: What the exports shall tell changes of.
    """

    domain: Domain
    disks: Sequence[Disk]
    paths: dict[str, str]
    clients: int
    since: Since | None = None
    consistency: str = "offline"
    instant: datetime = field(default_factory=utc_now)
    warnings: list[str] = field(default_factory=list)
    exports: dict[str, Export] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    # A checkpoint can only be made of a running domain.
    checkpoint: str | None = None
    checkpoint_xml: str | None = None
    _servers: list[ExportServer] = field(default_factory=list, init=False)

    def __enter__(self) -> StoppedSource:
        """Start one export per disk. Raises ``SourceError`` when an image cannot be opened, or is written to."""
        self._wait_for_writers()
        self._before = self._look()
        if self.domain.has_saved_state():
            self.consistency = "crash"
            self.warnings.append(
                "The domain's memory is saved (managed save): its disks are those of a running machine."
            )
        self.instant = utc_now()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for disk in self.disks:
                server = self._serve(disk)
                self._servers.append(server)
                self.exports[disk.target] = server.export
            self._check_stopped()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def _directory(self) -> Path:
        return RUN_DIRECTORY / self.domain.uuid / DISK_SOCKETS

    def _serve(self, disk: Disk) -> ExportServer:
        if self.since is not None and disk.target in self.since.disks:
            try:
                return self._export(disk, self.since.checkpoint)
            except SourceError as error:
                self.refused[disk.target] = error.message
        return self._export(disk, None)

    def _export(self, disk: Disk, bitmap: str | None) -> ExportServer:
        return ExportServer(
            self.paths[disk.target],
            image_format=disk.format,
            socket=self._directory / disk.target,
            clients=self.clients,
            bitmap=bitmap,
        )

    def __exit__(self, *exception: object) -> None:
        """Stop the exports."""
        with shielded():
            for server in self._servers:
                server.close()
            remove_tree(self._directory)

    def release(self) -> None:
        """Nothing of it touches a guest."""

    def watches(self) -> Sequence[Callable[[], None]]:
        """That the domain is still stopped."""
        return (self._check_stopped,)

    def confirm(self) -> None:
        """Raise ``SourceChangedError`` unless the domain is still stopped and its images were not written to."""
        self._check_stopped()
        if self._look() != self._before:
            raise SourceChangedError(f"The disks of {self.domain.name!r} were written to while they were read.")

    def _check_stopped(self) -> None:
        if self.domain.state().active:
            raise SourceChangedError(f"{self.domain.name!r} was started while its disks were read.")
        target = self._written()
        if target is not None:
            raise SourceChangedError(f"{target} of {self.domain.name!r} was opened for writing while it was read.")

    def _written(self) -> str | None:
        """A disk that somebody has open for writing: what he has not written yet is in no image."""
        with storage_errors(f"looking at the disks of {self.domain.name!r}"):
            return next((disk.target for disk in self.disks if is_written(self.paths[disk.target])), None)

    def _wait_for_writers(self) -> None:
        """A QEMU that has just ended may still be about to close its images."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        while (target := self._written()) is not None and not self.domain.state().active:
            if time.monotonic() > deadline:
                raise SourceError(
                    f"{self.domain.name!r} is off, and another program has its disk {target} ({self.paths[target]}) "
                    "open for writing: what would be read may be half of it. Is it running on another node? End that "
                    "program (lsof tells which), or back it up where it runs.",
                    code="disk_in_use",
                )
            time.sleep(_CLOSE_POLL)

    def _look(self) -> list[tuple[int, int, int]]:
        """Size, modification time and number of the images; a start takes longer than the watch's interval."""
        found = [os.stat(self.paths[disk.target]) for disk in self.disks]
        return [(status.st_size, status.st_mtime_ns, status.st_ino) for status in found]
