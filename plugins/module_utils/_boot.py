# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots what is in a backup, without networks, and leaves nothing of it behind but a screenshot.

The machine works on overlays over read-only exports of the backup. It is transient, and libvirt ends it when this
process dies; the files that it leaves then are removed by the next run.
"""

from __future__ import annotations

import shutil
import time
import uuid as uuids
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._boot_domain import (
    agent_answers,
    start_transient,
    take_screenshot,
)
from ansible_collections.vmforge.backup.plugins.module_utils._boot_options import BootOptions
from ansible_collections.vmforge.backup.plugins.module_utils._boot_room import BootRoom
from ansible_collections.vmforge.backup.plugins.module_utils._boot_xml import (
    BootDefinition,
    BootPlaces,
    boot_files,
    boot_xml,
)
from ansible_collections.vmforge.backup.plugins.module_utils._define import destroy_domain
from ansible_collections.vmforge.backup.plugins.module_utils._domain_sockets import make_overlay, open_to_qemu
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    HypervisorError,
    InputError,
    NotFoundError,
    StorageError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors, write_file
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import GoodParts
from ansible_collections.vmforge.backup.plugins.module_utils._guard import SpaceGuard
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._signals import cancelled_by_signals, shielded
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain
from ansible_collections.vmforge.backup.plugins.module_utils._stored_export import StoredExport
from ansible_collections.vmforge.backup.plugins.module_utils._tpm_state import SWTPM_DIRECTORY, unpack_tpm

_POLL_SECONDS = 0.2
_CLIENTS = 4
_LAST_WORDS = 200


@dataclass(frozen=True)
class BootResult:
    """What came of it.

    Attributes:
        proof: ``agent`` or ``pattern``; None where it did not boot.
        seconds: From the start of the domain on.
        screenshot: Path of the picture; None without one.
        problem: Why it did not boot; None where it did.
        warnings: What was left out.
    """

    proof: str | None
    seconds: float
    screenshot: str | None
    problem: str | None
    warnings: tuple[str, ...]


def boot_backup(chain: StoredChain, options: BootOptions, s3: S3Config | None) -> BootResult:
    """Boot it, wait for a sign of life, and end it.

    Raises:
        InputError: Nothing could tell whether it has booted.
        VMForgeError: It could not be tried, which says nothing about the backup.
    """
    hypervisor = Hypervisor(options.uri)
    try:
        with cancelled_by_signals():
            return _BootTest(chain, options, s3, hypervisor).run()
    finally:
        hypervisor.close()


class _BootTest:
    """One machine."""

    def __init__(self, chain: StoredChain, options: BootOptions, s3: S3Config | None, hypervisor: Hypervisor) -> None:
        self._chain, self._options, self._s3, self._hypervisor = chain, options, s3, hypervisor
        self._manifest = chain.head.manifest
        self._uuid = str(uuids.uuid4())

    def run(self) -> BootResult:
        definition = self._stored("domain.xml")
        if definition is None:
            raise FormatError(f"Backup {self._manifest.id} of {self._manifest.vm.name!r} has no domain.xml.")
        with BootRoom(self._options.scratch, self._uuid, self._hypervisor) as room, ExitStack() as stack:
            places = self._places(room, definition.decode(errors="replace"))
            made = self._define(definition.decode(errors="replace"), room, places)
            self._furnish(places, made)
            for disk in self._manifest.disks:
                layers = self._chain.layers(disk.target)
                socket = room.sockets / disk.target
                export = StoredExport(
                    layers, directory=room.private(disk.target), clients=_CLIENTS, s3=self._s3, socket=socket
                )
                # Pushed before it is entered: a signal may come between its start and the note that it has to be ended.
                stack.push(export)
                stack.enter_context(export)
                open_to_qemu(socket)
                make_overlay(places.disks[disk.target], socket, disk.virtual_size)
            with self._machine(made, room) as domain:
                return self._watch(domain, made, places)

    def _places(self, room: BootRoom, definition: str) -> BootPlaces:
        return BootPlaces(
            disks={disk.target: room.path / f"{disk.target}.qcow2" for disk in self._manifest.disks},
            console=room.path / "console.log",
            nvram=room.path / "nvram.fd",
            files={path: room.path / f"boot-{number}" for number, path in enumerate(boot_files(definition))},
        )

    def _define(self, definition: str, room: BootRoom, places: BootPlaces) -> BootDefinition:
        options = self._options
        made = boot_xml(
            definition,
            name=room.name,
            uuid=self._uuid,
            places=places,
            memory_mib=options.memory,
            with_serial=options.pattern is not None,
        )
        if not made.has_agent and options.pattern is None:
            raise InputError(
                f"Nothing could tell whether {self._manifest.vm.name!r} boots: it has no channel for a guest agent. "
                "Set boot_pattern to what it writes on its serial console.",
                code="no_proof",
            )
        return made

    def _furnish(self, places: BootPlaces, made: BootDefinition) -> None:
        nvram, tpm = self._stored("nvram.fd"), self._stored("tpm.tar")
        if nvram is not None:
            write_file(places.nvram, nvram)
        if tpm is not None and made.has_tpm:
            unpack_tpm(tpm, SWTPM_DIRECTORY / self._uuid)
        for source, target in places.files.items():
            # A copy: libvirt gives what a machine boots from to QEMU's user.
            with storage_errors(f"copying {source}, which the machine boots from"):
                shutil.copyfile(source, target)

    def _stored(self, name: str) -> bytes | None:
        record = next((record for record in self._manifest.files if record.name == name), None)
        if record is None:
            return None
        with GoodParts(record, self._chain.head.copies) as good:
            return b"".join(bytes(good.read(number)) for number in range(1, len(record.parts) + 1))

    @contextmanager
    def _machine(self, made: BootDefinition, room: BootRoom) -> Iterator[Domain]:
        try:
            yield start_transient(self._hypervisor, made.xml, uuid=self._uuid, name=room.name)
        finally:
            with shielded():
                destroy_domain(self._hypervisor, self._uuid, room.name)

    def _watch(self, domain: Domain, made: BootDefinition, places: BootPlaces) -> BootResult:
        began = time.monotonic()
        guard = SpaceGuard(str(self._options.scratch), what="a boot test writes", code="scratch_full")
        proof = problem = None
        while proof is None and problem is None:
            guard()
            problem = _death(domain)
            proof = None if problem else self._sign_of_life(domain, made, places.console)
            if time.monotonic() - began > self._options.timeout:
                problem = problem or f"no sign of life within {self._options.timeout} seconds"
            time.sleep(_POLL_SECONDS)
        if proof is not None:
            problem = None
        elif problem is not None:
            problem += _last_words(places.console)
        picture = self._picture(domain) if made.has_video else None
        return BootResult(proof, round(time.monotonic() - began, 1), picture, problem, tuple(made.warnings))

    def _sign_of_life(self, domain: Domain, made: BootDefinition, console: Path) -> str | None:
        pattern = self._options.pattern
        if pattern is not None and pattern.search(_read(console)):
            return "pattern"
        try:
            return "agent" if made.has_agent and agent_answers(domain) else None
        except NotFoundError:
            return None

    def _picture(self, domain: Domain) -> str | None:
        """The newest one of each machine is kept."""
        try:
            data, kind = take_screenshot(domain)
        except HypervisorError:
            return None
        except NotFoundError:
            return None
        directory = self._options.screenshots / self._manifest.vm.uuid
        with storage_errors(f"writing to {directory}"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = directory / f"{self._manifest.id}.{kind}"
            write_file(path, data)
            for other in directory.iterdir():
                if other != path:
                    other.unlink()
        return str(path)


def _death(domain: Domain) -> str | None:
    try:
        state = domain.state()
    except NotFoundError:
        return "it went off by itself"
    if state.io_error:
        raise StorageError("The machine was paused, for it could not read or write its disks.", code="io_error")
    return None if state.active and state.state not in ("crashed", "shutdown") else f"it is {state.state}"


def _read(console: Path) -> str:
    try:
        return console.read_text(encoding="utf-8", errors="replace").replace("\r", "")
    except FileNotFoundError:
        return ""


def _last_words(console: Path) -> str:
    lines = [line.strip() for line in _read(console).splitlines() if line.strip()]
    return f"; its console ends with {lines[-1][-_LAST_WORDS:]!r}" if lines else ""
