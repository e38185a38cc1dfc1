# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts' root file system: Debian 12 with systemd, made once with mmdebstrap and kept by podman.

No image registry is needed. Its tag is made of what goes into it, so that it is built anew when that changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Sequence
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
    "python3-apt",
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
    "nbdkit",
    "nbdkit-plugin-python",
    "python3-libnbd",
    "python3-libvirt",
    "python3-zstandard",
    # The master.
    "mariadb-server",
    "python3-pymysql",
    "python3-packaging",
)
# What the role schedule installs on the master; its Python is SUITE's.
CORE, _PYTHON = "2.19", "3.11"
_OFF = (
    # What a host runs is said when it is made.
    "libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirt-guests.service mariadb.service",
    # Of no use in a container.
    "apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer",
)
_MASKED = "systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service getty.target"
# libvirt's probe finds a /dev/kvm that QEMU's own user cannot open, and then probes again at every call. The device
# node is the container's own.
_NO_KVM = r"[Service]\nExecStartPre=-/bin/rm -f /dev/kvm\n"
_HOOKS = (
    f'chroot "$1" systemctl -q disable {" ".join(_OFF)}',
    f'chroot "$1" systemctl -q mask {_MASKED}',
    'mkdir -p "$1/etc/systemd/system/libvirtd.service.d"',
    f"""printf '{_NO_KVM}' > "$1/etc/systemd/system/libvirtd.service.d/no-kvm.conf\"""",
    'mkdir -p -m 700 "$1/root/.ssh"',
    ': > "$1/etc/machine-id"',
)
_TIMEOUT = 3600


def image() -> str:
    """Return the image's name, building it if podman has none."""
    made_of = repr((SUITE, PACKAGES, _OFF, _MASKED, _NO_KVM, _HOOKS))
    tag = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    name = f"{NAME}:{tag}"
    cache = ROOT / ".cache" / "fleet"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if podman("image", "exists", name, check=False).returncode:
            _build(name, cache / "rootfs.tar")
    return name


def wheels() -> Path:
    """Return a directory with ansible-core and what it needs, for the hosts' Python."""
    return _downloaded(f"wheels-{CORE}", f"ansible-core=={CORE}.*")


def ui_wheels() -> Path:
    """The same of what the pages of the role ui need."""
    return _downloaded("wheels-ui", "-r", str(ROOT / "roles" / "ui" / "files" / "requirements.txt"))


def _downloaded(name: str, *packages: str) -> Path:
    place = ROOT / ".cache" / "fleet" / name
    if not place.exists():
        partial = place.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        platforms = [f"--platform={name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
        wanted = ["--only-binary=:all:", f"--python-version={_PYTHON}", *platforms, *packages]
        _run(["/usr/bin/python3", "-m", "venv", str(partial / "venv")])
        _run([str(partial / "venv" / "bin" / "pip"), "download", "-q", "-d", str(partial), *wanted])
        shutil.rmtree(partial / "venv")
        partial.rename(place)
    return place


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed ({done.returncode}):\n{done.stderr[-3000:]}")


def _build(name: str, archive: Path) -> None:
    options = [word for hook in _HOOKS for word in ("--customize-hook", hook)]
    try:
        include = f"--include={','.join(PACKAGES)}"
        _run(["mmdebstrap", "--quiet", "--variant=minbase", include, *options, SUITE, str(archive)])
        podman("import", "-q", str(archive), name)
    finally:
        archive.unlink(missing_ok=True)


def remove_images() -> None:
    """Remove all images that were ever made here."""
    for name in podman("images", "-q", NAME).stdout.split():
        podman("rmi", "-f", name, check=False)
