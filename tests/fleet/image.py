# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts' root file system: Debian 12 with systemd, made once with mmdebstrap and kept by podman.

No image registry is needed. The image's tag is made of this file, so that it is built anew when that changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from pathlib import Path

from tests.fleet.podman import podman

ROOT = Path(__file__).resolve().parents[2]
NAME = "localhost/vmforge-fleet"
SUITE = "bookworm"
PACKAGES = (
    # A server, as people have it.
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "python3",
    "python3-venv",
    "ca-certificates",
    "cron",
    "iproute2",
    "kmod",
    "procps",
    "tzdata",
    # A hypervisor of the panel.
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    # What the role node installs there: the bed must work where no archive can be reached.
    "python3-boto3",
    "python3-libnbd",
    "python3-libvirt",
    "python3-zstandard",
    # The master.
    "mariadb-server",
    "python3-pymysql",
)
_OFF = (
    # What a host runs is said when it is made.
    "libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirt-guests.service mariadb.service",
    # Of no use in a container.
    "apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer",
)
_MASKED = "systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service getty.target"
# libvirt's probe finds a /dev/kvm that QEMU's own user cannot open, and then probes again at every call. The device
# node is the container's own.
_NO_KVM = "[Service]\nExecStartPre=-/bin/rm -f /dev/kvm\n"
_TIMEOUT = 900


def image() -> str:
    """Return the image's name, building it if podman has none."""
    tag = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    name = f"{NAME}:{tag}"
    cache = ROOT / ".cache" / "fleet"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if podman("image", "exists", name, check=False).returncode:
            _build(name, cache / "rootfs.tar")
    return name


def _build(name: str, archive: Path) -> None:
    hooks = [
        f'chroot "$1" systemctl -q disable {" ".join(_OFF)}',
        f'chroot "$1" systemctl -q mask {_MASKED}',
        'mkdir -p "$1/etc/systemd/system/libvirtd.service.d"',
        f'printf %b "{_escaped(_NO_KVM)}" > "$1/etc/systemd/system/libvirtd.service.d/no-kvm.conf"',
        'mkdir -p -m 700 "$1/root/.ssh"',
        ': > "$1/etc/machine-id"',
    ]
    options = [word for hook in hooks for word in ("--customize-hook", hook)]
    try:
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", *options, SUITE, archive],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"mmdebstrap failed ({done.returncode}):\n{done.stderr[-3000:]}")
        podman("import", "-q", str(archive), name)
    finally:
        archive.unlink(missing_ok=True)


def _escaped(text: str) -> str:
    return text.replace("\n", "\\n")


def remove_images() -> None:
    """Remove all images that were ever made here."""
    for name in podman("images", "-q", NAME).stdout.split():
        podman("rmi", "-f", name, check=False)
