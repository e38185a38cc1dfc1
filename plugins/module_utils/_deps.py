# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Third-party libraries: imported once and guarded here, with one message per missing library."""

from __future__ import annotations

import functools
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import DependencyError

try:
    import libvirt
    import libvirt_qemu
except ImportError:
    libvirt = libvirt_qemu = None

try:
    import nbd
except ImportError:
    nbd = None

try:
    import zstandard
except ImportError:
    zstandard = None

# Library -> (what it is for, Debian/Ubuntu package, Enterprise Linux package, role that installs it)
_PACKAGES = {
    "libvirt": ("to talk to libvirt", "python3-libvirt", "python3-libvirt", "node"),
    "nbd": ("to read disks over NBD", "python3-libnbd", "python3-libnbd", "node"),
    "zstandard": ("for zstd compression", "python3-zstandard", "python3-zstandard (EPEL)", "node"),
    "boto3": ("to talk to S3", "python3-boto3", "python3-boto3", "node"),
    "pymysql": ("to talk to MariaDB and MySQL", "python3-pymysql", "python3-PyMySQL", "catalog"),
}


@functools.cache
def botocore() -> Any:
    """botocore with what boto3 loads of it; None where that is missing.

    Loaded when S3 is first used: it takes longer than all the rest of a module's start.
    """
    try:
        import boto3
    except (ImportError, AttributeError):
        # AttributeError: parts of it come from different places and do not fit; another interpreter may have it whole.
        return None
    return boto3.session.botocore


@functools.cache
def pymysql() -> Any:
    """PyMySQL, loaded when a database is first used; None where it is missing."""
    try:
        import pymysql as library
    except ImportError:
        return None
    return library


def need(*libraries: str) -> None:
    """Make sure that libraries can be imported.

    Args:
        libraries: Import names, keys of the table above.

    Raises:
        DependencyError: One is missing; names the package for each distribution.
    """
    loaded: dict[str, Any] = {"libvirt": libvirt and libvirt_qemu, "nbd": nbd, "zstandard": zstandard}
    lazy = {"boto3": botocore, "pymysql": pymysql}
    missing = tuple(name for name in libraries if (lazy[name]() if name in lazy else loaded[name]) is None)
    if not missing:
        return
    what = "; ".join(
        f"{name} ({why}): package {debian} on Debian and Ubuntu, {redhat} on Enterprise Linux"
        for name, (why, debian, redhat, _role) in ((name, _PACKAGES[name]) for name in missing)
    )
    role = _PACKAGES[missing[0]][3]
    raise DependencyError(
        f"Missing Python library on this host: {what}. The role vmforge.backup.{role} installs them.", libraries=missing
    )
