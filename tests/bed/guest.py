# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test bed's virtual machine: boots in two seconds, writes numbered records, tells on its console what it wrote.

Example::

    guest = Guest("writer", directory, [Disk(directory / "vda.qcow2", size=64 * MIB)])
    guest.define()
    guest.start()
    guest.wait(r"wrote 20\\b")
    ...
    guest.undefine()

The guest's init script, ``init.sh``, explains its modes and orders; :mod:`tests.bed.records` checks images on the host.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

from tests.bed.parts import boot_files

MIB = 1 << 20
PREFIX = "vmforge-bed-"
CONNECT = "qemu:///system"
# What takes an emulated processor half of its time to boot, and does nothing for a guest that trusts itself.
LIGHT = "cryptomgr.notests mitigations=off noreplace-smp nokaslr lsm= audit=0 ipv6.disable=1 init_on_alloc=0"
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program; raise RuntimeError with what it said if it fails."""
    done = subprocess.run(list(argv), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed ({done.returncode}): {done.stderr.strip() or done.stdout.strip()}")
    return done


@contextlib.contextmanager
def scratch_directory(name: str = "bed") -> Iterator[Path]:
    """Give a directory that QEMU's own user may enter (pytest's ``tmp_path`` is not one), and remove it."""
    path = Path(tempfile.mkdtemp(prefix=f"vmforge-{name}-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class Disk:
    """One disk of a guest.

    Attributes:
        path: The image or the block device.
        format: ``qcow2`` or ``raw``; for a block device always ``raw``.
        target: The name in the guest and in the domain's XML.
        size: Bytes; the image is created when this is given and the file does not exist.
        backing: An image this one is an overlay of.
        backing_format: The backing image's format.
        fs_mib: Size of an ext4 file system at the disk's start (a raw or qcow2 image made here). Give the guest
            ``base`` of at least as many MiB if it writes records on this disk as well.
        device: ``disk`` or ``cdrom``.
        bus: ``virtio`` or ``sata``; a CD-ROM needs the latter.
        extra: More XML inside the ``<disk>`` element, such as ``<shareable/>``.
    """

    path: Path | None
    format: str = "qcow2"
    target: str = "vda"
    size: int | None = None
    backing: Path | None = None
    backing_format: str = "qcow2"
    fs_mib: int = 0
    device: str = "disk"
    bus: str = "virtio"
    cache: str = "writeback"
    extra: str = ""

    def create(self) -> None:
        """Make the image if it has a size or a backing image and does not exist yet."""
        if self.path is None or self.path.exists() or (self.size is None and self.backing is None):
            return
        options = ["-b", str(self.backing), "-F", self.backing_format] if self.backing else []
        size = [str(self.size)] if self.size is not None else []
        if not self.fs_mib:
            run(["qemu-img", "create", "-q", "-f", self.format, *options, str(self.path), *size])
            return
        raw = self.path.with_name(self.path.name + ".raw")
        run(["qemu-img", "create", "-q", "-f", "raw", str(raw), *size])
        run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", str(raw), f"{self.fs_mib}M"])
        if self.format == "raw":
            raw.rename(self.path)
        else:
            run(["qemu-img", "convert", "-f", "raw", "-O", self.format, str(raw), str(self.path)])
            raw.unlink()

    def xml(self) -> str:
        """Render the ``<disk>`` element."""
        block = self.path is not None and self.path.is_block_device()
        kind, attribute = ("block", "dev") if block else ("file", "file")
        source = f"<source {attribute}={quoteattr(str(self.path))}/>" if self.path else ""
        discard = " discard='unmap'" if self.device == "disk" else ""
        return f"""
    <disk type='{kind}' device='{self.device}'>
      <driver name='qemu' type='{self.format}' cache='{self.cache}'{discard}/>
      {source}<target dev='{self.target}' bus='{self.bus}'/>{self.extra}
    </disk>"""


@dataclass
class Guest:
    """A domain of the test bed.

    Attributes:
        name: Unique within a test; the domain is called ``vmforge-bed-<name>`` unless it begins with ``vmforge-``.
        directory: Where the console log and the boot files lie; QEMU's user must be able to enter it.
        disks: All its disks.
        records_on: Targets of those that records go to, in order; by default every disk without ``extra`` XML.
        mode: ``writer`` (checks what is there, then goes on), ``check`` (checks and powers off), ``flood``, ``idle``.
        agent: Run the guest agent and give it a channel.
        fs: Target of the disk whose ext4 is mounted (see ``Disk.fs_mib``).
        kib: Size of a record. slots: places per disk. base: MiB before the first. stride: KiB between places (0: none).
        mix: Zero and discard some slots as well. limit: stop after that record. pause: microseconds between records.
        sync: Flush after every record, so that what was reported survives the death of QEMU.
        run: How to run a program where libvirtd is: see :mod:`tests.bed.hypervisor` for a private one.
        extra: More XML inside ``<devices>``.
    """

    name: str
    directory: Path
    disks: Sequence[Disk]
    mode: str = "writer"
    agent: bool = False
    fs: str = ""
    kib: int = 4
    slots: int = 256
    base: int = 1
    stride: int = 0
    mix: bool = False
    limit: int = 0
    pause: int = 0
    sync: bool = True
    records_on: Sequence[str] | None = None
    memory_mib: int = 256
    run: Run = run
    extra: str = ""
    uuid: str = field(default_factory=lambda: str(uuids.uuid4()))

    def __post_init__(self) -> None:
        if not self.name.startswith("vmforge-"):
            self.name = f"{PREFIX}{self.name}-{os.getpid()}"
        if self.records_on is None:
            self.records_on = [disk.target for disk in self.disks if disk.device == "disk" and not disk.extra]
        self.log = self.directory / f"{self.name}.console"
        self._mark = 0
        self._wrote = 0

    def virsh(self, *argv: str) -> str:
        """Run virsh where this guest's libvirtd is; its output."""
        return self.run(["virsh", "-q", "-c", CONNECT, *argv]).stdout

    def define(self) -> Guest:
        """Create the disks that do not exist and define the domain."""
        for disk in self.disks:
            disk.create()
        path = self.directory / f"{self.name}.xml"
        path.write_text(self.xml())
        self.virsh("define", str(path))
        return self

    def start(self) -> Guest:
        """Start the domain; :meth:`wait` looks at what it says from here on."""
        self._mark = self.log.stat().st_size if self.log.exists() else 0
        self._wrote = 0
        self.virsh("start", self.name)
        return self

    def console(self) -> str:
        """Everything the guest has said since it was last started here."""
        if not self.log.exists():
            return ""
        data = self.log.read_bytes()
        if len(data) < self._mark:
            # virtlogd begins a new file every 2 MiB.
            self._mark = 0
        return data[self._mark :].decode(errors="replace").replace("\r", "")

    def wait(self, pattern: str, timeout: float = 600) -> re.Match[str]:
        """Wait until the console shows a pattern; the last match so far."""
        deadline = time.monotonic() + timeout
        while True:
            text = self.console()
            matches = list(re.finditer(pattern, text, re.MULTILINE))
            if matches:
                return matches[-1]
            if "bed: BROKEN" in text and "BROKEN" not in pattern:
                raise AssertionError(f"{self.name}: {text[text.index('bed: BROKEN') :].splitlines()[0]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} did not say {pattern!r} within {timeout} s:\n{text[-2000:]}")
            time.sleep(0.1)

    def wrote(self) -> int:
        """Return the number of the newest record that the guest has reported, 0 before the first."""
        numbers = re.findall(r"^wrote (\d+)$", self.console(), re.MULTILINE)
        self._wrote = int(numbers[-1]) if numbers else self._wrote
        return self._wrote

    def wait_more(self, count: int = 20, timeout: float = 600) -> int:
        """Wait until so many more records were written; the newest number."""
        wanted, deadline = self.wrote() + count, time.monotonic() + timeout
        while self.wrote() < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self.name}, {self.state()}, wrote only up to {self.wrote()}, not {wanted}, in {timeout} s"
                )
            time.sleep(0.1)
        return self.wrote()

    def state(self) -> str:
        """Return libvirt's word for the domain's state, such as ``running``, ``paused`` or ``shut off``."""
        return self.virsh("domstate", self.name).strip()

    def stop(self, timeout: float = 600) -> None:
        """Press the power button and wait until the guest is off."""
        if self.state() != "shut off":
            self.virsh("shutdown", self.name, "--mode", "acpi")
        self.wait_off(timeout)

    def wait_off(self, timeout: float = 600) -> None:
        """Wait until the guest is off."""
        deadline, pause = time.monotonic() + timeout, 0.1
        while (state := self.state()) != "shut off":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is {state}, not off, after {timeout} s")
            time.sleep(pause)
            pause = min(pause * 1.3, 1)

    def ask_agent(self, command: str) -> str:
        """Send the guest agent a command without arguments, such as ``guest-fsfreeze-status``; its answer, as JSON."""
        return self.virsh("qemu-agent-command", self.name, f'{{"execute": "{command}"}}').strip()

    def pid(self) -> int:
        """Return the process id of this guest's QEMU."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"guest={self.name},".encode() in (entry / "cmdline").read_bytes():
                    return int(entry.name)
        raise RuntimeError(f"{self.name} has no QEMU process")

    def destroy(self) -> None:
        """Pull the plug, if it is running."""
        with contextlib.suppress(RuntimeError):
            self.virsh("destroy", self.name)

    def undefine(self) -> None:
        """Remove every trace of the domain from libvirt; the disks stay."""
        self.destroy()
        with contextlib.suppress(RuntimeError):
            self.virsh("undefine", self.name, "--checkpoints-metadata", "--snapshots-metadata", "--nvram")

    def __enter__(self) -> Guest:
        return self.define().start()

    def __exit__(self, *_unused: object) -> None:
        self.undefine()

    def orders(self) -> str:
        """Return the kernel's command line, with the guest's orders."""
        values = {
            "mode": self.mode,
            "disks": ",".join(self.records_on or ()),
            "agent": int(self.agent),
            "fs": self.fs,
            "kib": self.kib,
            "slots": self.slots,
            "base": self.base,
            "stride": self.stride,
            "mix": int(self.mix),
            "limit": self.limit,
            "pause": self.pause,
            "sync": int(self.sync),
        }
        return f"console=ttyS0 quiet panic=-1 {LIGHT} " + " ".join(
            f"bed.{key}={value}" for key, value in values.items()
        )

    def xml(self) -> str:
        """Render the domain's XML."""
        boot = boot_files()
        # Copies of their own: libvirt changes the owner of what a domain uses.
        kernel, initrd = self.directory / f"{self.name}.kernel", self.directory / f"{self.name}.initrd"
        shutil.copyfile(boot.kernel, kernel)
        shutil.copyfile(boot.initrd, initrd)
        channel = """
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"""
        return f"""<domain type='qemu'>
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>{self.memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{self.orders()}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>{"".join(disk.xml() for disk in self.disks)}{channel if self.agent else ""}
    <serial type='file'>
      <source path={quoteattr(str(self.log))} append='on'/><target port='0'/>
    </serial>
    <console type='file'>
      <source path={quoteattr(str(self.log))} append='on'/><target type='serial' port='0'/>
    </console>
    <controller type='usb' model='none'/><memballoon model='none'/>{self.extra}
  </devices>
</domain>
"""
