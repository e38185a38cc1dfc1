# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores in place of chains of which every byte is known, into files and block devices, that fail or are killed.

The machine is defined and never started, so that a case takes a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _restore_convert, _restore_run
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._programs import Background
from ansible_collections.vmforge.backup.plugins.module_utils._restore import restore_backup
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS
from ansible_collections.vmforge.backup.plugins.module_utils._restore_write import DiskFile
from tests.bed.backups import NODE
from tests.bed.chains import ChainMaker, make_chain
from tests.bed.guest import run
from tests.bed.s3 import S3Server

from .driver import wait_for
from .shelf import Shelf
from .test_restore import inject

SIZE = 6 * 65536
XML = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{disks}</devices></domain>"""
DISK = """<disk type='{type}' device='disk'><driver name='qemu' type='raw'/><source {attribute}='{path}'/>
<target dev='{target}' bus='virtio'/></disk>"""
# Where a run ends: while the second disk is written, and while all is put in its place.
STEPS = {
    "before the second disk": (_restore_run.DiskMaker, "_convert", 2, "before"),
    "behind the second disk": (_restore_run.DiskMaker, "_convert", 2, "behind"),
    "a rename": (_restore_run.Journal, "rename", 2, "behind"),
    "the definition": (_restore_run, "define_domain", 1, "behind"),
}
_MORE = pytest.mark.exhaustive
_ALWAYS = {("behind the second disk", "files"), ("the definition", "device")}
CASES = [
    pytest.param(step, kind, marks=[] if (step, kind) in _ALWAYS else [_MORE])
    for step in STEPS
    for kind in ("files", "device")
]

WRITING = "in the middle of the second disk"
STOPPED = [pytest.param(step, kind, marks=_MORE) for step in (*STEPS, WRITING) for kind in ("files", "device")]


@dataclass
class Machine:
    """With two disks that hold something else than any of its backups."""

    name: str
    disks: dict[str, Path]
    maker: ChainMaker
    shelf: Shelf
    place: Path

    @property
    def xml(self) -> str:
        return run(["virsh", "-q", "dumpxml", "--inactive", self.name]).stdout

    @property
    def contents(self) -> dict[str, bytes]:
        return {target: path.read_bytes() for target, path in self.disks.items()}

    @property
    def hidden(self) -> list[str]:
        return [path.name for path in self.place.iterdir() if path.name.startswith(".")]

    @property
    def wanted(self) -> dict[str, bytes]:
        return dict(self.maker.points[-1].contents)

    def restore(self, **more: Any) -> Outcome:
        values = {name: spec.get("default") for name, spec in RESTORE_ARGUMENTS.items()}
        values.update(vm=self.name, node=NODE, backup_dir=str(self.shelf.path), overwrite_devices=True)
        values.update({name: value for name, value in self.shelf.s3.items() if name in RESTORE_ARGUMENTS})
        return restore_backup(Request({**values, "state_dir": str(self.place / "state"), **more}))


@pytest.fixture
def machine(libvirt_daemon: None, place: Path, server: S3Server, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Its chain lies here, but for one member that is in S3 alone."""
    kind = request.getfixturevalue("kind")
    s3 = {"offsite": "s3", **server.params(s3_prefix=f"rc/{uuid.uuid4().hex[:8]}")}
    name = f"c{uuid.uuid4().hex[:6]}"
    shelf = Shelf(place / "backups", s3=s3, name=name)
    disks = {target: place / f"{target}.img" for target in ("vda", "vdb")}
    for path in disks.values():
        path.write_bytes(os.urandom(SIZE))
    with contextlib.ExitStack() as stack:
        if kind == "device":
            device = run(["losetup", "-f", "--show", str(disks["vdb"])]).stdout.strip()
            stack.callback(wait_for, "the device", lambda: not os.system(f"losetup -d {device}"))
            disks["vdb"] = Path(device)
        parts = {}
        for target, path in disks.items():
            block = path.is_block_device()
            parts[target] = DISK.format(
                type="block" if block else "file", attribute="dev" if block else "file", path=path, target=target
            )
        xml = XML.format(name=name, uuid=shelf.vm, disks="".join(parts.values()))
        (place / "machine.xml").write_text(xml)
        run(["virsh", "-q", "define", str(place / "machine.xml")])
        stack.callback(run, ["virsh", "-q", "undefine", name])
        maker = make_chain(shelf.path / shelf.vm, 3, uuid=shelf.vm, name=name, domain=xml.encode(), part_size=16 << 20)
        shelf.upload(maker.points[1].id, drop_local=True)
        yield Machine(name, disks, maker, shelf, place)


@pytest.mark.parametrize(("step", "kind"), CASES)
def test_what_fails_leaves_the_old_state_or_says_what_is_lost(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, step: str, kind: str
) -> None:
    before, xml = machine.contents, machine.xml
    inject(monkeypatch, *STEPS[step])
    with pytest.raises(VMForgeError, match="injected") as caught:
        machine.restore()
    monkeypatch.undo()
    if kind == "device" and step != "a rename":
        assert str(machine.disks["vdb"]) in caught.value.message
        assert caught.value.code == "not_undone"
    else:
        assert machine.contents == before
        assert machine.hidden == []
    assert machine.xml == xml
    outcome = machine.restore()
    assert machine.contents == machine.wanted
    # What the disks in files held is still there.
    kept = [Path(path).read_bytes() for path in outcome.values["kept"]]
    assert [before[target] for target in before if kind == "files" or target == "vda"] == kept
    assert machine.hidden == []
    assert not list((machine.place / "state").glob("*"))


class Interrupting(Background):
    """Gets us a SIGTERM as soon as it writes the second disk."""

    def __init__(self, argv: Sequence[str], *, log: Path) -> None:
        super().__init__(argv, log=log)
        self.turn = "convert" in argv and any("vdb.qcow2" in word for word in argv)

    def ended(self) -> bool:
        if self.turn:
            self.turn = False
            os.kill(os.getpid(), signal.SIGTERM)
        return super().ended()


def terminate(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, turn: int, moment: str) -> None:
    """Get a SIGTERM at a step."""
    original, calls = getattr(owner, name), []

    def interrupted(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == turn and moment == "before":
            os.kill(os.getpid(), signal.SIGTERM)
        result = original(*args, **more)
        if len(calls) == turn:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize(("step", "kind"), STOPPED)
def test_sigterm_puts_the_old_state_back_and_keeps_what_is_made(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, step: str, kind: str
) -> None:
    before, xml = machine.contents, machine.xml
    if step == WRITING and kind == "files":
        terminate(monkeypatch, DiskFile, "write", 2, "before")
    elif step == WRITING:
        monkeypatch.setattr(_restore_convert, "Background", Interrupting)
    else:
        terminate(monkeypatch, *STEPS[step])
    with pytest.raises(CancelledError if kind == "files" else VMForgeError, match="SIGTERM") as caught:
        machine.restore()
    monkeypatch.undo()
    assert machine.xml == xml
    if kind == "device" and step != "a rename":
        assert caught.value.code == "not_undone"
    else:
        assert machine.contents == before
    outcome = machine.restore()
    assert machine.contents == machine.wanted
    assert outcome.values["sources"]["vda"] == "an earlier run"
    kept = [Path(path).read_bytes() for path in outcome.values["kept"]]
    assert [before[target] for target in before if kind == "files" or target == "vda"] == kept
    assert machine.hidden == []
    assert not list((machine.place / "state").glob("*"))


@pytest.mark.parametrize(("step", "kind"), CASES)
def test_kill_9_is_undone_and_gone_on_with_by_the_next_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, step: str, kind: str
) -> None:
    before = machine.contents
    inject(monkeypatch, *STEPS[step], die=True)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            machine.restore()
        os._exit(3)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    monkeypatch.undo()
    outcome = machine.restore()
    assert machine.contents == machine.wanted
    assert outcome.values["sources"]["vda"] == "an earlier run"
    lost = f"The block device {machine.disks['vdb']} was overwritten by it"
    assert any(lost in text for text in outcome.warnings) == (kind == "device" and step != "a rename")
    kept = [Path(path).read_bytes() for path in outcome.values["kept"]]
    assert [before[target] for target in before if kind == "files" or target == "vda"] == kept
    assert machine.hidden == []
    assert not list((machine.place / "state").glob("*"))
    # Nothing is left that the one after it would trip over.
    assert machine.restore(old="remove").values["kept"] == []
    assert machine.contents == machine.wanted
