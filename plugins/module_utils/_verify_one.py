# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifies one backup in all its copies, mends what can be mended, and writes down what was found."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._boot import BootResult, boot_backup
from ansible_collections.vmforge.backup.plugins.module_utils._copies import (
    Copy,
    Damage,
    DamagedError,
    LocalCopy,
    OffsiteCopy,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, VMForgeError, internal_errors
from ansible_collections.vmforge.backup.plugins.module_utils._files import encode_json, storage_error, write_file
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import find_damage
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import FileRecord
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._repair import mend
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import VERIFIED
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain
from ansible_collections.vmforge.backup.plugins.module_utils._verified import Check, merge_checks
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VerifyOptions

# verified.json is for people and for retention, not an archive.
_MAX_DETAILS = 5
GOOD, REPAIRED, BAD, GONE = "good", "repaired", "bad", "gone"
ELSEWHERE, FAILED, PLANNED = "elsewhere", "failed", "planned"


@dataclass(frozen=True)
class Below:
    """Why a backup is not good even if its own files are: what is wrong with an ancestor.

    Attributes:
        result: Of the backup, therefore.
        problem: In words.
    """

    result: str
    problem: str


@dataclass
class Verification:
    """Of one backup.

    Args:
        backup: With all copies that are to be looked at.
        directory: Of the VM, for its lock; None where this host has none.
        below: What is wrong with its ancestors. ``verified.json`` does not tell that: it is about the copies, and an
            ancestor that is mended is good for all that build on it.
        whole: Gives it with all that it builds on, to be booted; None for one that is only looked at for another.

    Attributes:
        damages: What was found.
        left: What of it is not mended.
        result: Of its own files.
    """

    options: VerifyOptions
    backup: StoredBackup
    directory: VmDirectory | None
    below: Below | None = None
    damages: list[Damage] = field(default_factory=list)
    left: list[Damage] = field(default_factory=list)
    result: str = PLANNED
    read: int = 0
    whole: Callable[[], StoredChain] | None = None
    booted: BootResult | None = None
    _checked: Sequence[Check] = ()
    _failures: list[str] = field(default_factory=list)
    _progress: Progress | None = None
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def entry(self, result: str, *, seconds: float = 0.0, message: str | None = None) -> dict[str, Any]:
        """The backup's entry in the module's result."""
        manifest = self.backup.manifest
        return {
            "vm": {"uuid": manifest.vm.uuid, "name": manifest.vm.name},
            "node": manifest.vm.node,
            "id": manifest.id,
            "result": result,
            "level": self.options.level if self.whole is not None or self.options.boot is None else "data",
            "copies": [copy.name for copy in self.backup.copies],
            "damages": [damage.as_dict() for damage in self.damages],
            "checksum_sha256": self.backup.sha256,
            "boot": self._boot_entry(),
            "bytes_read": self.read,
            "seconds": round(seconds, 1),
            "message": message,
        }

    def run(self) -> dict[str, Any]:
        """Do it; what fails is in the entry."""
        began = time.monotonic()
        try:
            with internal_errors():
                result = self.result = self._verify()
                if result in (GOOD, REPAIRED):
                    result = self.below.result if self.below is not None else self._boot(result)
            message = self._message(result)
        except (VMForgeError, OSError) as error:
            failure = error if isinstance(error, VMForgeError) else storage_error("verifying", error)
            result, message = FAILED, f"It could not be verified: {failure.message}"
            self.result = FAILED if self.result == PLANNED else self.result
        return self.entry(result, seconds=time.monotonic() - began, message=message)

    def for_children(self) -> Below | None:
        """What is wrong with it, or below it, for all that build on it."""
        name = f"its ancestor {self.backup.manifest.id}"
        if not self.backup.copies:
            return Below(ELSEWHERE, f"the disks of {name} lie only in S3, and no options of S3 are set")
        if self.result == FAILED:
            return Below(FAILED, f"{name} could not be read")
        if self.result == GONE:
            return Below(FAILED, f"{name} was deleted meanwhile")
        if {copy.name for copy in self.backup.copies} <= {damage.copy for damage in self.left}:
            return Below(BAD, f"{name} is damaged: {_shortened([_short(damage) for damage in self.left])}")
        return self.below

    def _verify(self) -> str:
        self.damages = self.left = [*self.backup.damages]
        manifest = self.backup.manifest
        facts = {"id": manifest.id, "vm": {"uuid": manifest.vm.uuid, "name": manifest.vm.name}}
        self._progress = Progress(None, facts)
        size = sum(record.size for record in manifest.files)
        self._progress.enter("verifying", total=size * len(self.backup.copies))
        for copy in self.backup.copies:
            self.damages += self._look_at(copy)
        with self._locked():
            if self._is_gone():
                self.damages = self.left = []
                return GONE
            self._write(self._checks(self.damages))
            if not self.damages:
                return GOOD
            if not self.options.repair or len(self.backup.copies) < 2:
                return BAD
            self._failures = mend(self.backup, self.damages, parallel=self.options.parallel)
            self.left = self._look_again()
            self._write(self._checks(self.left, mended=True))
        return BAD if self.left else REPAIRED

    def _boot(self, good: str) -> str:
        """All copies are the same, byte for byte: what is seen of one is true of each."""
        if self.options.boot is None or self.whole is None:
            return good
        if self._progress is not None:
            self._progress.enter("booting")
        self.booted = boot_backup(self.whole(), self.options.boot, self.options.s3)
        problem, now = self.booted.problem, format_time(utc_now())
        detail = None if problem is None else f"it did not boot: {problem}"
        with self._locked():
            if not self._exists():
                return GONE
            checks = [Check(copy.name, "boot", problem is None, now, detail) for copy in self.backup.copies]
            self._write([*self._checked, *checks])
        return good if problem is None else BAD

    def _boot_entry(self) -> dict[str, Any] | None:
        if self.booted is None:
            return None
        return {name: getattr(self.booted, name) for name in ("proof", "seconds", "screenshot", "problem")}

    def _look_at(self, copy: Copy) -> list[Damage]:
        found: list[Damage] = []
        for record in self.backup.manifest.files:
            found += self._look_at_file(copy, record)
        return found

    def _look_at_file(self, copy: Copy, record: FileRecord) -> list[Damage]:
        if self.options.level == "manifest":
            try:
                copy.open(record).close()
                if isinstance(copy, OffsiteCopy):
                    copy.compare_checksum(record)
            except DamagedError as error:
                return [error.damage]
            return []
        return find_damage(copy, record, parallel=self.options.parallel, advance=self._advance)

    def _advance(self, count: int) -> None:
        # From several threads.
        with self._counting:
            self.read += count
        if self._progress is not None:
            self._progress.advance(count)

    def _look_again(self) -> list[Damage]:
        """At what was damaged, after it was mended."""
        left: list[Damage] = []
        for copy in self.backup.copies:
            files = {damage.file for damage in self.damages if damage.copy == copy.name}
            for record in self.backup.manifest.files:
                if record.name in files:
                    left += self._look_at_file(copy, record)
            if MANIFEST in files and not self._has_manifest(copy):
                left += [damage for damage in self.damages if (damage.copy, damage.file) == (copy.name, MANIFEST)]
        return left

    def _has_manifest(self, copy: Copy) -> bool:
        try:
            return copy.read_small(MANIFEST, max_size=len(self.backup.data)) == self.backup.data
        except (NotFoundError, DamagedError):
            return False

    def _is_gone(self) -> bool:
        """Whether it was deleted while it was read."""
        if not self.damages or any(damage.file == MANIFEST for damage in self.backup.damages):
            return False
        return not self._exists()

    def _exists(self) -> bool:
        for copy in self.backup.copies:
            if isinstance(copy, LocalCopy) and copy.directory.is_dir():
                return True
            if isinstance(copy, OffsiteCopy) and copy.place.complete():
                return True
        return False

    def _checks(self, damages: Sequence[Damage], *, mended: bool = False) -> list[Check]:
        now = format_time(utc_now())
        level = "data" if self.options.level == "boot" else self.options.level
        checks = []
        for copy in self.backup.copies:
            mine = [_short(damage) for damage in damages if damage.copy == copy.name]
            was = [_short(damage) for damage in self.damages if damage.copy == copy.name]
            detail = _shortened(mine) if mine else f"mended: {_shortened(was)}" if mended and was else None
            checks.append(Check(copy.name, level, not mine, now, detail))
        return checks

    def _write(self, checks: Sequence[Check]) -> None:
        """Beside each copy, for each may be the only one left; and here, for whoever lists only this node."""
        self._checked = checks
        records: list[Mapping[str, Any]] = list(self.backup.records.values())
        data = encode_json(merge_checks(records, self.backup.sha256, checks))
        here = self.directory.entry(self.backup.manifest.id) if self.directory is not None else None
        if here is not None and here.is_dir():
            write_file(here / VERIFIED, data)
        for copy in self.backup.copies:
            if isinstance(copy, OffsiteCopy):
                copy.place.put(VERIFIED, data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self.directory is None or not self.directory.path.is_dir():
            yield
            return
        with self.directory.lock(timeout=self.options.lock_timeout):
            yield

    def _message(self, result: str) -> str | None:
        if result in (GOOD, GONE):
            return None
        if self.booted is not None and self.booted.problem is not None:
            return f"It is as it was made, but did not boot: {self.booted.problem}"
        below = [self.below.problem] if self.below is not None else []
        if result in (FAILED, ELSEWHERE):
            return f"Its own files were verified, but not all that it builds on: {below[0]}."
        text = _shortened([str(damage) for damage in self.damages] + below)
        if result == REPAIRED:
            return f"Mended from the other copy: {text}"
        return f"Damaged: {text}" + "".join(f" {failure}" for failure in self._failures)


def _short(damage: Damage) -> str:
    place = "" if damage.part is None else f" part {damage.part} at offset {damage.offset}"
    return f"{damage.file}{place} {damage.problem}"


def _shortened(texts: Sequence[str]) -> str:
    more = len(texts) - _MAX_DETAILS
    return "; ".join(texts[:_MAX_DETAILS]) + (f"; and {more} more" if more > 0 else "")
