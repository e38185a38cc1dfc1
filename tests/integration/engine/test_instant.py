# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that run before their disks are there: from S3 and from here, and what becomes of it when things die."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _instant_fill
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._instant_domain import pulled_bytes
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._restore import restore_backup
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS
from tests.bed.guest import Guest, run, scratch_directory
from tests.bed.records import Geometry
from tests.bed.records import verify as verify_images
from tests.bed.s3 import S3Server

from .conftest import writer
from .driver import NODE, Engine, check_image, wait_for

INTACT = re.compile(r"found 1\.\.(\d+) intact")


def slow_pull(domain: Domain, target: str, *, speed: int = 1) -> None:
    """So many MiB a second."""
    domain.call("filling", lambda handle: handle.blockPull(target, speed, 0))


@pytest.fixture(scope="module")
def machine(libvirt_daemon: None) -> Iterator[Guest]:
    with scratch_directory("instant") as place, writer(place, f"i{uuid.uuid4().hex[:6]}") as guest:
        guest.wait_more(20)
        yield guest


@pytest.fixture(scope="module")
def engine(machine: Guest, server: S3Server) -> Iterator[Engine]:
    """With one backup, here and in S3."""
    place = machine.directory / "engine"
    place.mkdir(mode=0o755)
    made = Engine(place, {"offsite": "s3", **server.params(s3_prefix=f"i/{uuid.uuid4().hex[:8]}")})
    made.backup(machine)
    yield made
    # What serves a backup outlives whoever started it, a test that failed, too.
    for number in servers(made).values():
        os.kill(number, signal.SIGKILL)


def restore(engine: Engine, machine: Guest, **more: Any) -> Outcome:
    values = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
    values.update(vm=machine.name, node=NODE, backup_dir=str(engine.backup_dir), state_dir=str(engine.place / "state"))
    values.update({name: value for name, value in engine.s3.items() if name in RESTORE_ARGUMENTS}, instant=True)
    values.update(more)
    return restore_backup(Request(values, diff_mode=True))


def backed(path: Path) -> bool:
    return b"backing-filename" in subprocess.check_output(["qemu-img", "info", "-U", "--output=json", str(path)])


def servers(engine: Engine) -> dict[str, int]:
    """Programs that serve a backup of this engine, by the end of their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode()
            if str(engine.place) in words and words.split("\0", 1)[0].endswith(("nbdkit", "qemu-storage-daemon")):
                found[words] = int(entry.name)
    return found


def assert_nothing_depends_on_the_backup(engine: Engine, name: str, paths: list[Path]) -> None:
    for path in paths:
        assert not backed(path)
    assert servers(engine) == {}
    assert not list((engine.place / "state").glob("*"))
    assert not list(engine.backup_dir.glob("*/*/hold.json"))
    assert not Path(f"/var/lib/libvirt/qemu/domain--1-{name[:20]}").exists()
    for option in ("", "--inactive"):
        xml = run(["virsh", "-q", "dumpxml", name, *option.split()]).stdout
        assert "nbd" not in xml
    assert "error_policy" not in run(["virsh", "-q", "dumpxml", name, "--inactive"]).stdout


def test_a_new_machine_runs_from_s3_at_once_and_writes_while_it_is_filled(
    engine: Engine, machine: Guest, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = f"{machine.name}-new"
    log = Path(f"{machine.log}.{new}")
    (tmp_path / "empty").mkdir()
    during = []

    def watched(domain: Domain, target: str) -> int | None:
        done = pulled_bytes(domain, target)
        during.append(done is not None and log.exists() and "wrote" in log.read_text())
        return done

    monkeypatch.setattr(_instant_fill, "pulled_bytes", watched)
    monkeypatch.setattr(_instant_fill, "begin_pull", functools.partial(slow_pull, speed=2))
    try:
        outcome = restore(engine, machine, to=new, storage=str(engine.place), backup_dir=str(tmp_path / "empty"))
        values = outcome.values
        assert (values["result"], values["started"], values["sources"]["vda"]) == ("restored", True, "s3")
        assert any(during)
        paths = [Path(disk["path"]) for disk in values["disks"]]
        assert [disk["format"] for disk in values["disks"]] == ["qcow2"] * 3
        assert_nothing_depends_on_the_backup(engine, new, paths)
        # It reads every record that it finds, and goes on.
        found = wait_for("the new guest", lambda: INTACT.search(log.read_text()) if log.exists() else None)
        wait_for("its records", lambda: len(re.findall(r"^wrote \d+", log.read_text(), re.M)) > 8)
        assert machine.wrote() >= int(found.group(1)) > 0
        run(["virsh", "destroy", new])
        assert verify_images(paths[:2], Geometry.of(machine)) >= int(found.group(1))
        for path in paths:
            check_image(path)
        with contextlib.closing(server.client()) as client:
            keys = client.list_objects_v2(Bucket=server.bucket, Prefix=engine.s3["s3_prefix"])["Contents"]
        assert not [item["Key"] for item in keys if "hold" in item["Key"]]
    finally:
        for action in ("destroy", "undefine"):
            subprocess.run(["virsh", "-q", action, new], capture_output=True, check=False)


def test_in_place_it_survives_the_death_of_the_run_and_of_the_machine(
    engine: Engine, machine: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = machine.pid()
    pid = os.fork()
    if not pid:
        try:

            def pull_in_silence(domain: Domain, target: str) -> None:
                # A guest that writes has QEMU write its tables, too.
                domain.call("pausing", lambda handle: handle.isActive() and handle.suspend())
                slow_pull(domain, target, speed=0)

            def die(_domain: Domain) -> bool:
                # QEMU says that a disk is filled; its tables are not written yet.
                os.kill(os.getpid(), signal.SIGKILL)
                return False

            monkeypatch.setattr(_instant_fill, "begin_pull", pull_in_silence)
            monkeypatch.setattr(_instant_fill, "settle", die)
            restore(engine, machine, force=True, old="remove", offsite="none")
        finally:
            os._exit(1)
    machine._mark = machine.log.stat().st_size
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    running = machine.pid()
    assert running != number
    os.kill(running, signal.SIGKILL)
    paths = [Path(str(disk.path)) for disk in machine.disks]
    # Of the first one it says that it is whole; that must not be believed.
    assert [backed(path) for path in paths] == [False, True, True]
    # Its backup is held, what serves it goes on, and the old disks are kept.
    assert len(servers(engine)) == 3
    held = [json.loads(path.read_bytes()) for path in engine.backup_dir.glob("*/*/hold.json")]
    assert [hold["by"] for hold in held] == ["vmforge_backup_restore"]
    assert len(list(machine.directory.glob("*.before-*"))) == 3
    wait_for("the end of the machine", lambda: machine.state() != "running")
    outcome = restore(engine, machine, offsite="none")
    assert (outcome.values["result"], outcome.values["mode"]) == ("restored", "in_place")
    assert paths == [Path(disk["path"]) for disk in outcome.values["disks"]]
    assert_nothing_depends_on_the_backup(engine, machine.name, paths)
    assert not list(machine.directory.glob("*.before-*"))
    machine.wait(INTACT.pattern)
    machine.wait_more(5)


def test_a_helper_that_dies_is_told_as_incomplete_and_a_plain_restore_begins_anew(
    engine: Engine, machine: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulls: list[str] = []

    def cut_off(domain: Domain, target: str) -> None:
        pulls.append(target)
        for words, number in servers(engine).items():
            if f"-{target}" in words:
                os.kill(number, signal.SIGKILL)

    monkeypatch.setattr(_instant_fill, "begin_pull", cut_off)
    with pytest.raises(VMForgeError, match="is not whole yet: what serves its disk .* has died") as caught:
        restore(engine, machine, force=True, offsite="none")
    assert caught.value.code == "incomplete"
    assert pulls
    assert (engine.place / "state" / f"{machine.uuid}.instant" / "instant.json").exists()
    outcome = restore(engine, machine, instant=False, force=True, start=True, old="remove", offsite="none")
    assert outcome.values["result"] == "restored"
    assert servers(engine) == {}
    assert not list((engine.place / "state").glob("*"))
    assert not list(engine.backup_dir.glob("*/*/hold.json"))


def test_what_cannot_work_is_refused(engine: Engine, machine: Guest) -> None:
    with pytest.raises(InputError, match="qcow2"):
        restore(engine, machine, format="raw")
