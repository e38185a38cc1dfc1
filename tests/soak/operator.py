# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a machine between its backups, and what every bitmap must survive or say that it did not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.bed.guest import MIB, Disk, Guest, run
from tests.soak.invariants import MOST_BITMAPS, require

_STEP = MIB // 4
_PLUGGED = "vdx"


def kill_qemu(guest: Guest) -> None:
    """Kill a guest's QEMU, and wait until libvirt has noticed."""
    os.kill(guest.pid(), signal.SIGKILL)
    deadline = time.monotonic() + 180
    while guest.state() == "running":
        require(time.monotonic() < deadline, f"{guest.name} runs for libvirt, 180 s after its QEMU was killed")
        time.sleep(0.02)


class Operator:
    """Does things to a running guest.

    Args:
        backups: The directory of its backups.
        start: Starts the guest.
        wrote: To be called before the guest is stopped: it notes what was written.
    """

    def __init__(
        self,
        guest: Guest,
        backups: Path,
        source: random.Random,
        *,
        start: Callable[[], None],
        wrote: Callable[[], int],
    ) -> None:
        self._backups = backups
        self._guest, self._random, self._start, self._wrote = guest, source, start, wrote
        self._snapshot = ""

    def do(self, deed: str) -> None:
        """Do it, and wait until the guest has written behind it. An empty deed is none."""
        if not deed:
            return
        {
            "reboot": self._reboot,
            "grow": self._grow,
            "plug": self._plug,
            "snapshot": self._pass_snapshot,
            "snapshot-kept": self._take_snapshot,
            "bitmap-destroyed": self._destroy_bitmap,
            "qemu-killed-before": self._kill,
            "checkpoint-defined": self._define_checkpoint,
            "redefined": self._define_again,
            "copied": self._copy_image,
        }[deed]()
        self._guest.wait_more(5)

    def undo(self) -> None:
        """Merge a snapshot that was taken."""
        if not self._snapshot:
            return
        overlay = Path(self._source(self._snapshot))
        self._guest.virsh("blockcommit", self._guest.name, self._snapshot, "--active", "--pivot", "--wait")
        overlay.unlink()
        self._snapshot = ""

    def _reboot(self) -> None:
        self._stop()
        self._start()

    def _stop(self) -> None:
        self._wrote()
        self._guest.stop()
        self._wrote()
        for target in ("vda", "vdc"):
            found = self._bitmaps(target)
            require(len(found) <= MOST_BITMAPS, f"{target} has the bitmaps {found}")

    def _kill(self) -> None:
        self._wrote()
        kill_qemu(self._guest)
        self._start()

    def _grow(self) -> None:
        target = self._random.choice(["vda", "vdc"])
        said = json.loads(run(["qemu-img", "info", "-U", "--output=json", self._source(target)]).stdout)
        try:
            self._guest.virsh("blockresize", self._guest.name, target, f"{said['virtual-size'] + _STEP}B")
        except RuntimeError as error:
            # What a crash has broken is there until the next backup is made.
            if "is inconsistent and cannot be used" not in str(error):
                raise

    def _plug(self) -> None:
        name, path = self._guest.name, self._guest.directory / f"{_PLUGGED}.qcow2"
        if _PLUGGED in self._guest.virsh("domblklist", name):
            self._guest.virsh("detach-disk", name, _PLUGGED, "--live")
            deadline = time.monotonic() + 180
            while _PLUGGED in self._guest.virsh("domblklist", name):
                require(time.monotonic() < deadline, "the disk was not unplugged")
                time.sleep(0.1)
            return
        path.unlink(missing_ok=True)
        Disk(path, target=_PLUGGED, size=4 * MIB).create()
        kind = ["--subdriver", "qcow2", "--targetbus", "virtio"]
        self._guest.virsh("attach-disk", name, str(path), _PLUGGED, "--live", *kind)

    def _pass_snapshot(self) -> None:
        self._take_snapshot()
        self.undo()

    def _take_snapshot(self) -> None:
        chosen = self._random.choice(["vda", "vdc"])
        overlay = self._guest.directory / f"{chosen}.overlay"
        specs = [f"{chosen},file={overlay}"]
        specs += [f"{target},snapshot=no" for target in self._targets() if target != chosen]
        argv = [word for spec in specs for word in ("--diskspec", spec)]
        self._guest.virsh("snapshot-create-as", self._guest.name, "s", "--disk-only", "--no-metadata", *argv)
        self._snapshot = chosen
        self._guest.wait_more(5)

    def _destroy_bitmap(self) -> None:
        self._stop()
        target = self._random.choice(["vda", "vdc"])
        for name in self._bitmaps(target):
            run(["qemu-img", "bitmap", "--remove", self._source(target), name])
        self._start()

    def _define_checkpoint(self) -> None:
        """What a run that was killed at the worst moment leaves in libvirt."""
        kept = sorted(self._backups.glob("*Z/checkpoint.xml"))
        if kept:
            self._guest.virsh("checkpoint-create", self._guest.name, str(kept[-1]), "--redefine")

    def _define_again(self) -> None:
        """Whatever libvirt remembers of the domain beside its definition is lost."""
        xml = self._guest.directory / "again.xml"
        xml.write_text(self._guest.virsh("dumpxml", self._guest.name, "--inactive", "--security-info"))
        self._guest.virsh("undefine", self._guest.name, "--checkpoints-metadata")
        self._guest.virsh("define", str(xml))

    def _copy_image(self) -> None:
        """What lies under the image's name is a copy of it, with all its bitmaps."""
        self._stop()
        path = Path(self._source(self._random.choice(["vda", "vdc"])))
        copy = path.with_name(path.name + ".copy")
        shutil.copyfile(path, copy)
        copy.rename(path)
        self._start()

    def _targets(self) -> list[str]:
        lines = self._guest.virsh("domblklist", self._guest.name).splitlines()
        return [line.split(maxsplit=1)[0] for line in lines if line.strip()]

    def _source(self, target: str) -> str:
        lines = self._guest.virsh("domblklist", self._guest.name).splitlines()
        return next(line.split()[1] for line in lines if line.split() and line.split()[0] == target)

    def _bitmaps(self, target: str) -> list[str]:
        said = json.loads(run(["qemu-img", "info", "-U", "--output=json", self._source(target)]).stdout)
        return [found["name"] for found in said["format-specific"]["data"].get("bitmaps", ())]
