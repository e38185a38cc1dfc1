# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine with UEFI and a TPM: what both remember is backed up with it, booted from the backup, and restored."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.guest import MIB, Disk, Guest, run
from tests.bed.parts import boot_files

from .driver import Engine
from .test_boot import INTACT, Stored
from .test_restore import restore

CODE, VARIABLES = "/usr/share/OVMF/OVMF_CODE_4M.fd", Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
TPMS = Path("/var/lib/libvirt/swtpm")


@pytest.fixture
def machine(libvirt_daemon: None, place: Path) -> Iterator[Guest]:
    """Running; its firmware has written variables of its own."""
    nvram = place / "machine_VARS.fd"
    guest = Guest(
        f"u{uuid.uuid4().hex[:6]}", place, [Disk(place / "vda.qcow2", size=24 * MIB)], pause=100_000, extra=TPM
    )
    guest.define()
    try:
        make_tpm(TPMS / guest.uuid / "tpm2")
        firmware = f"<loader readonly='yes' type='pflash'>{CODE}</loader><nvram template='{VARIABLES}'>{nvram}</nvram>"
        path = place / "uefi.xml"
        path.write_text(guest.xml().replace("</os>", f"{firmware}</os>"))
        shutil.copyfile(boot_files().efi, place / f"{guest.name}.kernel")
        guest.virsh("define", str(path))
        guest.start()
        guest.wait_more(10)
        assert nvram.read_bytes() != VARIABLES.read_bytes()
        yield guest
    finally:
        guest.undefine()
        shutil.rmtree(TPMS / guest.uuid, ignore_errors=True)


def make_tpm(directory: Path) -> None:
    """As libvirt does, but for the certificates, for which swtpm wants a CA on this host."""
    directory.mkdir(mode=0o700, parents=True)
    run(["chown", "-R", "tss:tss", str(directory.parent)])
    run(
        [
            "setpriv",
            "--reuid=tss",
            "--regid=tss",
            "--clear-groups",
            "swtpm_setup",
            "--tpm2",
            "--tpmstate",
            str(directory),
        ]
    )


def states(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.permall")}


@pytest.mark.exhaustive
def test_a_machine_with_uefi_and_a_tpm(engine: Engine, machine: Guest) -> None:
    new = f"{machine.name}-new"
    remembered = states(TPMS / machine.uuid)
    assert remembered
    entry = engine.backup(machine)
    outcome = Stored(machine, engine, entry).verify(boot_pattern=INTACT, boot_memory=256)
    assert outcome.failure is None
    assert outcome.values["backups"][0]["result"] == "good"
    assert restore(engine, machine, to=new).values["result"] == "restored"
    copy = re.search(r"<uuid>(.*)</uuid>", machine.virsh("dumpxml", new))
    assert copy is not None
    try:
        nvram = machine.directory / f"{new}_VARS.fd"
        assert nvram.read_bytes() == (Path(entry["path"]) / "nvram.fd").read_bytes() != VARIABLES.read_bytes()
        assert states(TPMS / copy.group(1)) == remembered
        machine.virsh("start", new)
        log = Path(f"{machine.log}.{new}")
        while not log.exists() or not re.search(INTACT, log.read_text()):
            assert machine.virsh("domstate", new).strip() == "running"
            time.sleep(0.2)
    finally:
        for action in (["destroy", new], ["undefine", "--nvram", new]):
            with contextlib.suppress(RuntimeError):
                machine.virsh(*action)
        shutil.rmtree(TPMS / copy.group(1), ignore_errors=True)
