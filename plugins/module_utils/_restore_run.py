# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a restore out: all is made beside its place, then put there in steps that are undone if a later one fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._define import (
    define_domain,
    destroy_domain,
    discard_saved_state,
    find_domain,
    secret_xml,
    start_domain,
    undefine_domain,
    wait_until_up,
)
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import parse_domain
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    CancelledError,
    S3Error,
    StorageError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import (
    as_failures,
    remove_tree,
    storage_errors,
    sync_directory,
    write_file,
)
from ansible_collections.vmforge.backup.plugins.module_utils._journal import Journal, Undo, undo_rename
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._local import PROGRESS
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._restore_check import refuse_running
from ansible_collections.vmforge.backup.plugins.module_utils._restore_data import DiskMaker, is_untouched, mark_of
from ansible_collections.vmforge.backup.plugins.module_utils._restore_image import Image, aside
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RestoreOptions
from ansible_collections.vmforge.backup.plugins.module_utils._restore_plan import IN_PLACE, RestorePlan
from ansible_collections.vmforge.backup.plugins.module_utils._restore_xml import keep_secrets
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded
from ansible_collections.vmforge.backup.plugins.module_utils._tpm_state import SWTPM_DIRECTORY, unpack_tpm

_JOURNAL = "journal.json"


class DeadRun:
    """Takes back the renames of a run that died, after which its machine may have worked on the new disks for days.

    Args:
        state: The directory of its notes.
        now: In the names of what is put aside.

    Attributes:
        kept: What was put aside: new disks and states that somebody may have written to.
        overwritten: Block devices whose old content is lost.
    """

    def __init__(self, state: Path, now: str) -> None:
        self._state, self._now = state, now
        self.kept: list[str] = []
        self.overwritten: list[str] = []

    def undo_rename(self, step: Mapping[str, Any]) -> None:
        """Take it back; what was used is not called unfinished again, for that would be overwritten."""
        if "old" not in step or os.path.lexists(step["source"]) or self._is_new(step):
            undo_rename(step)
            return
        path = Path(step["target"])
        if not os.path.lexists(path) or (step["old"] is not None and not os.path.lexists(step["old"])):
            # Taken back already: the old one is in its place.
            return
        kept = aside(path, self._now, os.path.lexists)
        os.rename(path, kept)
        sync_directory(path.parent)
        self.kept.append(str(kept))

    def _is_new(self, step: Mapping[str, Any]) -> bool:
        disk = step.get("disk")
        mark = mark_of(self._state, str(disk))
        return disk is not None and is_untouched(mark, Path(step["target"]), Path(step["source"]))


def open_journal(hypervisor: Hypervisor, state: Path, dead: DeadRun | None = None) -> Journal:
    """The journal of a machine's restores.

    Args:
        state: The directory of its notes.
        dead: Takes back what a run did that is dead.
    """

    def undo_define(step: Mapping[str, Any]) -> None:
        if step["xml"] is None:
            undefine_domain(hypervisor, step["uuid"])
        else:
            define_domain(hypervisor, step["xml"], step["name"])

    def undo_start(step: Mapping[str, Any]) -> None:
        destroy_domain(hypervisor, step["uuid"], step["name"])

    def undo_device(step: Mapping[str, Any]) -> None:
        if dead is None:
            raise StorageError(
                f"The block device {step['path']} was overwritten, wholly or in part, so {step['name']!r} is not "
                "started.",
                code="device",
            )
        dead.overwritten.append(step["path"])

    def undo_stop(step: Mapping[str, Any]) -> None:
        if dead is not None and dead.overwritten:
            return
        domain = Domain(hypervisor, step["uuid"], step["name"])
        if not domain.state().active:
            start_domain(hypervisor, step["uuid"], step["name"])

    undoers: dict[str, Undo] = {"define": undo_define, "start": undo_start, "stop": undo_stop, "device": undo_device}
    if dead is not None:
        undoers["rename"] = dead.undo_rename
    return Journal(state / _JOURNAL, undoers)


@dataclass
class RestoreRun:
    """One restore, with the machine's locks held.

    Args:
        state: The directory of its notes.
        make: Makes what makes the disks.

    Attributes:
        maker: Knows where the data came from, and what was damaged.
        kept: What was put aside and is still there.
    """

    plan: RestorePlan
    options: RestoreOptions
    hypervisor: Hypervisor
    state: Path
    make: Callable[..., DiskMaker] = DiskMaker
    maker: DiskMaker = field(init=False)
    kept: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.plan
        facts = {"id": plan.manifest.id, "vm": {"uuid": plan.uuid, "name": plan.name}, "node": self.options.node}
        self._progress = Progress(self.state / PROGRESS, facts)
        self.maker = self.make(
            plan.chain.head, self.state, parallel=self.options.parallel, progress=self._progress, now=plan.now
        )
        self._journal = open_journal(self.hypervisor, self.state)
        self._asides: list[Path] = []
        self._started = False

    def run(self) -> None:
        """Do it.

        Raises:
            VMForgeError: It failed; all is as it was before. What was made is kept for the next try only where that
                is likely to need it: after an interruption.
        """
        self._progress.write()
        try:
            with as_failures(f"restoring {self.plan.name!r}"):
                nvram, tpm = self._small("nvram.fd", self.plan.nvram), self._small("tpm.tar", self.plan.tpm)
                for image in self.plan.images:
                    self.maker.prepare(image)
                self._progress.enter("defining")
                self._put_in_place(nvram, tpm)
        except VMForgeError as error:
            with shielded():
                raise self._give_up(error) from error
        with shielded():
            self._journal.close()
            self._tidy()

    def _small(self, name: str, wanted: object) -> bytes | None:
        record = next((record for record in self.plan.manifest.files if record.name == name), None)
        return self.maker.small(record) if record is not None and wanted else None

    def _put_in_place(self, nvram: bytes | None, tpm: bytes | None) -> None:
        domain = find_domain(self.hypervisor, self.plan.uuid)
        before = secret_xml(domain) if domain is not None else None
        if domain is not None:
            self._stop(domain)
        for image in self.plan.images:
            self._place_image(image)
        if nvram is not None and self.plan.nvram is not None:
            self._place_nvram(nvram, self.plan.nvram)
        if tpm is not None:
            self._place_tpm(tpm)
        uuid, name = self.plan.uuid, self.plan.name
        self._journal.note("define", uuid=uuid, name=name, xml=before)
        define_domain(self.hypervisor, keep_secrets(self.plan.after, before), name)
        if self.options.start:
            self._journal.note("start", uuid=uuid, name=name)
            self._started = True
            start_domain(self.hypervisor, uuid, name)
            if self.options.boot_timeout:
                self._progress.enter("booting")
                wait_until_up(
                    Domain(self.hypervisor, uuid, name),
                    has_agent=parse_domain(self.plan.after).agent,
                    seconds=self.options.boot_timeout,
                )

    def _stop(self, domain: Domain) -> None:
        refuse_running(domain, self.options)
        if domain.state().active:
            self._journal.note("stop", uuid=domain.uuid, name=domain.name)
            destroy_domain(self.hypervisor, domain.uuid, domain.name)
        if domain.has_saved_state():
            discard_saved_state(domain)
            self.warnings.append(f"The saved memory of {domain.name!r} was discarded.")

    def _place_image(self, image: Image) -> None:
        if image.is_device:
            sources = self.maker.prove(image)
            if self.plan.mode == IN_PLACE:
                self._journal.note("device", path=str(image.path), name=self.plan.name)
            self.maker.write_device(image, sources)
            return
        if image.kept is not None:
            self._put_aside(image.path, image.kept)
            _take_over_rights(image.kept, image.staged)
        old = str(image.kept) if image.kept is not None else None
        self._journal.rename(image.staged, image.path, old=old, disk=image.disk.target)

    def _place_nvram(self, data: bytes, path: Path) -> None:
        with storage_errors(f"writing {path}"):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            staged = path.with_name(f".{path.name}.restored")
            write_file(staged, data)
        self._exchange(staged, path)

    def _place_tpm(self, data: bytes) -> None:
        path = SWTPM_DIRECTORY / self.plan.uuid
        staged = path.with_name(f".{path.name}.restored")
        remove_tree(staged)
        unpack_tpm(data, staged)
        self._exchange(staged, path)

    def _exchange(self, staged: Path, path: Path) -> None:
        kept = None
        if os.path.lexists(path):
            kept = aside(path, self.plan.now, os.path.lexists)
            self._put_aside(path, kept)
            _take_over_rights(kept, staged)
        self._journal.rename(staged, path, old=str(kept) if kept is not None else None)

    def _put_aside(self, path: Path, kept: Path) -> None:
        self._journal.rename(path, kept)
        self._asides.append(kept)

    def _give_up(self, error: VMForgeError) -> VMForgeError:
        left = self._journal.undo()
        if left is not None:
            return VMForgeError(
                f"{error.message} And the old state could not be put back: {left} The next restore of "
                f"{self.plan.name!r} tries that again, from {self.state / _JOURNAL}.",
                code="not_undone",
            )
        if self._started:
            # What this very run has made and started is worth nothing; what is only made saves the next one work.
            for image in self.plan.images:
                self.maker.discard_used(image)
        if not isinstance(error, (CancelledError, S3Error)):
            for image in self.plan.images:
                self.maker.discard(image)
            remove_tree(self.state)
        return error

    def _tidy(self) -> None:
        for image in self.plan.images:
            self.maker.forget(image)
        for kept in self._asides:
            if self.options.keep_old:
                self.kept.append(str(kept))
            elif kept.is_dir():
                remove_tree(kept)
            else:
                kept.unlink(missing_ok=True)
        remove_tree(self.state)


def _take_over_rights(old: Path, new: Path) -> None:
    """Owner and mode of what was there; libvirt sets them anew when the machine starts."""
    status = old.stat()
    with storage_errors(f"setting the rights of {new}"):
        os.chown(new, status.st_uid, status.st_gid)
        new.chmod(status.st_mode & 0o7777)
