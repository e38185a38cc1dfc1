# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A running domain's disks: a backup job in pull mode, which keeps the instant and exports it over NBD."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Callable

from ansible_collections.vmforge.backup.plugins.module_utils._backup_xml import backup_xml, exported_bitmap
from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint import Checkpoints
from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint_xml import checkpoint_name, checkpoint_xml
from ansible_collections.vmforge.backup.plugins.module_utils._domain_sockets import LIBVIRT_DIRECTORY
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    HypervisorError,
    NotFoundError,
    SourceChangedError,
    SourceError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._freeze import ThawWatchdog
from ansible_collections.vmforge.backup.plugins.module_utils._guard import ScratchGuard, SpaceGuard, free_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._model import utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import Export
from ansible_collections.vmforge.backup.plugins.module_utils._quiesce import Quiesce
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded
from ansible_collections.vmforge.backup.plugins.module_utils._source import Since

SOCKET_PREFIX = "vmforge-"
# sockaddr_un.sun_path, without the final NUL.
_MAX_SOCKET_PATH = 107
_SETTLE_SECONDS, _WATCH_PAUSE = 3.0, 0.1


@dataclass
class PullSource:
    """A backup job of a running domain.

    Args:
        disks: That take part.
        left_out: Targets of the others.
        scratch_dir: Where libvirt puts the scratch files.
        scratch_max: Bytes, or None for what is free less the reserve.
        watchdog: To freeze the guest; None leaves it running.
        require_quiesce: Fail rather than go on with a guest that was not frozen.
        freeze_timeout: Seconds for the agent's answer.
        since: What the exports shall tell changes of.
        tracked: Disks in which the new checkpoint makes a bitmap; empty for no checkpoint.
        files: What is noted with it, as in ``checkpoint_xml``.
    """

    domain: Domain
    backup_id: str
    disks: Sequence[Disk]
    left_out: Sequence[str]
    scratch_dir: str
    scratch_max: int | None
    watchdog: ThawWatchdog | None
    require_quiesce: bool
    freeze_timeout: int
    since: Since | None = None
    tracked: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    consistency: str = "crash"
    instant: datetime = field(default_factory=utc_now)
    warnings: list[str] = field(default_factory=list)
    exports: dict[str, Export] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None
    checkpoint_xml: str | None = None
    _paused_before: bool = field(default=False, init=False)
    # Empty until there may be a job.
    _socket: str = field(default="", init=False)

    def __enter__(self) -> PullSource:
        """Freeze, begin the job, thaw.

        Raises:
            HypervisorError: The job could not be begun.
            StorageError: The scratch directory is missing or full.
        """
        self._scratch = {
            disk.target: scratch_path(self.scratch_dir, self.domain.uuid, disk.target) for disk in self.disks
        }
        with storage_errors(f"using scratch_dir {self.scratch_dir}"):
            self._scratch_space = SpaceGuard(
                self.scratch_dir, what="the scratch files of running backups lie", code="scratch_full"
            )
        self._scratch_space()
        self._paused_before = self.domain.state().io_error
        limit = self.scratch_max if self.scratch_max is not None else free_bytes(self.scratch_dir)
        self._scratch_guard = ScratchGuard(self._scratch.values(), limit=limit)
        self._socket = str(self._socket_directory() / f"{SOCKET_PREFIX}{self.backup_id}")
        self._checkpoints = Checkpoints(self.domain)
        try:
            self._prepare()
            self._begin()
            self._note_checkpoint()
            self.exports = {disk.target: self._export(disk.target) for disk in self.disks}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """End the job; let a guest run on that was paused because a scratch file was full."""
        if not self._socket:
            return
        with shielded():
            try:
                end_job(self.domain, self.scratch_dir, resume=not self._paused_before)
            finally:
                Path(self._socket).unlink(missing_ok=True)

    def release(self) -> None:
        """End the job at once, from whichever thread found that it must end; leaving the context does the rest."""
        try:
            end_job(self.domain, self.scratch_dir, resume=not self._paused_before)
        except (VMForgeError, OSError) as error:
            self.warnings.append(f"The job could not be ended at once: {error}")

    def watches(self) -> Sequence[Callable[[], None]]:
        """The scratch files, their file system, and a pause of the guest."""
        return (self._scratch_guard, self._scratch_space, self._check_guest)

    def confirm(self) -> None:
        """Raise unless the job still runs: its data are then those of its beginning."""
        stopped = self._is_stopped()
        if not stopped and self.domain.backup_socket() == self._socket:
            return
        # When QEMU dies, libvirt may still call the domain running for a second, and its job is gone already (seen).
        deadline = time.monotonic() + _SETTLE_SECONDS
        while not stopped and time.monotonic() < deadline:
            time.sleep(_WATCH_PAUSE)
            stopped = self._is_stopped()
        reason = "the domain was stopped" if stopped else "the backup job was ended by someone else"
        raise SourceError(f"The backup of {self.domain.name!r} was interrupted: {reason}.", code="job_lost")

    def _is_stopped(self) -> bool:
        state = self.domain.state()
        # A domain that powers itself off may stay in that state for half a minute, with its job (seen, libvirt 9.0).
        return not state.active or state.state == "shutdown"

    def _prepare(self) -> None:
        """Find out which bitmaps are whole, and let libvirt know the checkpoint that they belong to."""
        if self.since is None:
            return
        self.refused.update(self._checkpoints.missing(self.since.checkpoint, self.since.disks))
        if self._changed():
            self._checkpoints.define(self.since.checkpoint, self._changed())

    def _changed(self) -> tuple[str, ...]:
        """Disks that can tell what changed."""
        return tuple(target for target in (self.since.disks if self.since else ()) if target not in self.refused)

    def _export(self, target: str) -> Export:
        return Export(self._socket, target, bitmap=exported_bitmap(target) if target in self._changed() else None)

    def _note_checkpoint(self) -> None:
        """Keep what libvirt says of the new checkpoint, and have it forget all of ours, the older one first."""
        self._checkpoints.forget(but=self.checkpoint)
        if self.checkpoint is not None:
            self.checkpoint_xml = self._checkpoints.xml(self.checkpoint)
        self._checkpoints.forget()

    def _begin(self) -> None:
        # Short: a freeze has a deadline, and beginning a job takes no time.
        with shielded():
            quiesce = Quiesce(self.domain, self.watchdog, self.freeze_timeout, self.warnings)
            frozen = quiesce.freeze()
            try:
                self.instant = utc_now()
                self._begin_job()
            finally:
                thawed = quiesce.thaw() if frozen is not None else 0
        if frozen and thawed > 0:
            self.consistency = "quiesced"
        elif self.require_quiesce:
            raise HypervisorError(
                f"The file systems of {self.domain.name!r} were not frozen while the backup began "
                f"({frozen or 0} frozen, {thawed} thawed), and quiesce is 'required'. Is the guest agent running?",
                code="not_quiesced",
            )

    def _begin_job(self) -> None:
        """Begin; without changes where those cannot be told after all, and without a checkpoint if none can be made."""
        name = checkpoint_name(self.backup_id, self.domain.uuid) if self.tracked else None
        changed = self._changed()
        ways = [(changed, name)] if changed else []
        ways += [((), name), ((), None)] if name is not None else [((), None)]
        without: list[str] = []
        for disks, checkpoint in ways:
            try:
                self._try_job(disks, checkpoint)
            except HypervisorError as error:
                if not self.domain.state().active:
                    raise SourceChangedError(f"{self.domain.name!r} was stopped as its backup began.") from error
                if (disks, checkpoint) == ways[-1]:
                    raise
                self.refused.update(dict.fromkeys(disks, error.message))
                without = [error.message]
                continue
            self.checkpoint = checkpoint
            if name is not None and checkpoint is None:
                self.warnings += [
                    f"No checkpoint could be made, so the next backup is a full one: {why}" for why in without
                ]
            return

    def _try_job(self, changed: Sequence[str], checkpoint: str | None) -> None:
        since = self.since.checkpoint if self.since is not None and changed else None
        self.domain.begin_backup(
            backup_xml(
                socket=self._socket, scratch=self._scratch, left_out=self.left_out, since=since, changed=changed
            ),
            checkpoint_xml(checkpoint, self.tracked, files=self.files) if checkpoint is not None else None,
        )

    def _check_guest(self) -> None:
        if self.domain.state().io_error and not self._paused_before:
            raise SourceError(
                f"{self.domain.name!r} was paused by a write error during the backup, which was stopped for it.",
                code="guest_paused",
            )

    def _socket_directory(self) -> Path:
        found = list(LIBVIRT_DIRECTORY.glob(f"domain-{self.domain.runtime_id()}-*"))
        if not found:
            raise SourceChangedError(f"{self.domain.name!r} has no runtime directory in {LIBVIRT_DIRECTORY}.")
        if max(len(str(path)) for path in found) + len(SOCKET_PREFIX) + 1 + len(self.backup_id) > _MAX_SOCKET_PATH:
            raise HypervisorError(f"The path of {found[0]} is too long for a unix socket in it.")
        # A power loss may leave those of earlier runs, whose numbers begin anew.
        return max(found, key=lambda path: path.stat().st_mtime)


def scratch_path(scratch_dir: str, uuid: str, target: str) -> str:
    """The scratch file of one disk; by UUID, for a name is never part of a path."""
    return f"{scratch_dir}/{uuid}-{target}.scratch"


def end_job(domain: Domain, scratch_dir: str, *, resume: bool) -> None:
    """Abort our backup job, remove its scratch files, and undo a pause that it caused.

    Called at the end of every job and for what a dead run left. Another's job is left alone.

    Args:
        resume: Whether a domain that a write error has paused may run on: not if it was so before the job.
    """
    try:
        socket = domain.backup_socket()
    except NotFoundError:
        # A transient domain that was stopped; its job went with it.
        _remove_scratch(domain, scratch_dir)
        return
    Checkpoints(domain).forget()
    if socket is not None and Path(socket).name.startswith(SOCKET_PREFIX):
        domain.abort_backup()
    elif socket is not None:
        return
    had_scratch = _remove_scratch(domain, scratch_dir)
    if resume and (socket or had_scratch) and domain.state().io_error:
        domain.resume()


def _remove_scratch(domain: Domain, scratch_dir: str) -> bool:
    """Remove the scratch files of a domain; tells whether there were any."""
    found = list(Path(scratch_dir).glob(f"{domain.uuid}-*.scratch"))
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)
