# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tiny guest's parts: Debian's cloud kernel, unpacked, and an initramfs of busybox and what it needs.

Nothing is installed: the packages are downloaded once and unpacked under ``.cache/``; they are packed anew when
``init.sh`` changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INIT = Path(__file__).with_name("init.sh")

# In the order they must be loaded; the names of files below the kernel's module directory.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "evdev",
    "button",
)
KERNEL_META = "linux-image-cloud-amd64"
PACKAGES = ("busybox-static", "qemu-guest-agent")


@dataclass(frozen=True)
class Boot:
    """A kernel and an initramfs, ready for QEMU; and the kernel as UEFI wants it."""

    kernel: Path
    initrd: Path
    efi: Path


def boot_files(cache: Path = ROOT / ".cache" / "bed") -> Boot:
    """Return the guest's kernel and initramfs, building them if they are not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        tree = cache / "tree"
        if not (cache / "unpacked").exists():
            _unpack(cache, tree)
        stamp = hashlib.sha256(INIT.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
        # Not compressed: to unpack it would take an emulated processor longer than to copy it.
        initrd = cache / f"initrd-{stamp}.cpio"
        if not initrd.exists():
            partial = initrd.with_suffix(".partial")
            partial.write_bytes(_initramfs(tree))
            partial.rename(initrd)
        packed = next(path for path in sorted((tree / "boot").glob("vmlinuz-*")))
        return Boot(kernel=_kernel(cache, packed), initrd=initrd, efi=packed)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time build."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _kernel(cache: Path, packed: Path) -> Path:
    """Return the kernel as it is behind its own decompressor, for QEMU starts it by its PVH entry."""
    kernel = cache / packed.name.replace("vmlinuz", "vmlinux")
    if not kernel.exists():
        data = packed.read_bytes()
        # Documentation/x86/boot.rst: sectors of the setup code, then offset and length of the payload behind them.
        setup = (data[0x1F1] + 1) * 512
        offset, length = (int.from_bytes(data[at : at + 4], "little") for at in (0x248, 0x24C))
        payload = data[setup + offset : setup + offset + length]
        # Its length stands behind it, which lz4 takes for the begin of another stream, and says so.
        found = subprocess.run(["lz4", "-dc"], input=payload[:-4], check=True, capture_output=True).stdout
        if len(found) != int.from_bytes(payload[-4:], "little"):
            raise RuntimeError(f"{packed} could not be unpacked: {len(found)} bytes")
        partial = kernel.with_suffix(".partial")
        partial.write_bytes(found)
        partial.rename(kernel)
    return kernel


def _unpack(cache: Path, tree: Path) -> None:
    """Download the packages and unpack them into a tree of our own."""
    debs = cache / "debs"
    debs.mkdir(exist_ok=True)
    depends = subprocess.run(["apt-cache", "depends", KERNEL_META], check=True, capture_output=True, text=True).stdout
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise RuntimeError(f"apt knows no {KERNEL_META}: run 'apt-get update' (make deps does)")
    wanted = [found.group(1), *PACKAGES]
    # Unsandboxed because the download directory is root's own; that is only a note of apt's.
    options = ["-q", "-o", "APT::Sandbox::User=root"]
    subprocess.run(["apt-get", *options, "download", *wanted], cwd=debs, check=True, stdout=subprocess.DEVNULL)
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(deb), str(tree)], check=True)
        deb.unlink()
    (cache / "unpacked").write_text(" ".join(wanted) + "\n")


def _initramfs(tree: Path) -> bytes:
    """Pack the guest's userland as a cpio archive in the kernel's "newc" format."""
    archive = _Newc()
    for directory in ("bin", "sbin", "usr", "usr/sbin", "modules", "dev", "proc", "sys", "run", "mnt", "etc"):
        archive.directory(directory)
    archive.node("dev/console", 5, 1)
    archive.file("init", b"#!/bin/busybox sh\n" + INIT.read_bytes(), 0o755)
    archive.file("bin/busybox", (tree / "bin" / "busybox").read_bytes(), 0o755)
    drivers = {path.stem: path for path in (tree / "lib" / "modules").rglob("*.ko")}
    for name in MODULES:
        archive.file(f"modules/{name}.ko", drivers[name].read_bytes(), 0o644)
    archive.file("modules/order", "".join(f"{name}\n" for name in MODULES).encode(), 0o644)
    agent = tree / "usr" / "sbin" / "qemu-ga"
    archive.file("usr/sbin/qemu-ga", agent.read_bytes(), 0o755)
    for library in _libraries(agent):
        archive.file(str(library).lstrip("/"), library.read_bytes(), 0o755)
    return archive.close()


def _libraries(program: Path) -> list[Path]:
    """List the shared libraries and the loader of a program: this system's own, which QEMU needs as well."""
    listing = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    if "not found" in listing:
        raise RuntimeError(f"libraries of {program} are missing on this system (make deps installs them):\n{listing}")
    return [Path(name) for name in re.findall(r"(/\S+) \(0x", listing)]


class _Newc:
    """Writes a cpio archive as the kernel reads it (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._made: set[str] = set()

    def _entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        raw = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def directory(self, name: str) -> None:
        if name not in self._made and name != ".":
            self.directory(os.path.dirname(name) or ".")
            self._made.add(name)
            self._entry(name, 0o040755)

    def file(self, name: str, data: bytes, mode: int) -> None:
        self.directory(os.path.dirname(name) or ".")
        self._entry(name, 0o100000 | mode, data)

    def node(self, name: str, major: int, minor: int) -> None:
        self._entry(name, 0o020600, device=(major, minor))

    def close(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)
