# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Third-party libraries: imported once and guarded here, with one message per missing library."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module

from ansible_collections.vmforge.backup.plugins.module_utils._errors import DependencyError

try:
    import libvirt
except ImportError:
    libvirt = None

try:
    import nbd
except ImportError:
    nbd = None

try:
    import zstandard
except ImportError:
    zstandard = None

try:
    import boto3
    import botocore
except ImportError:
    boto3 = None
    botocore = None

# Library -> (what it is for, Debian/Ubuntu package, Enterprise Linux package)
_PACKAGES = {
    "libvirt": ("to talk to libvirt", "python3-libvirt", "python3-libvirt"),
    "nbd": ("to read disks over NBD", "python3-libnbd", "python3-libnbd"),
    "zstandard": ("for zstd compression", "python3-zstandard", "python3-zstandard (EPEL)"),
    "boto3": ("to talk to S3", "python3-boto3", "python3-boto3"),
}

# The distributions' own interpreters: their packages are not visible from a virtualenv or a newer Python.
_SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/libexec/platform-python")


def need(*libraries: str) -> None:
    """Make sure that libraries can be imported, under the system's Python if need be.

    Respawns the module under the distribution's interpreter when only that one has them; does not return then.

    Args:
        libraries: Import names, keys of the table above.

    Raises:
        DependencyError: A library is missing everywhere; names the package for each distribution.
    """
    loaded: dict[str, Any] = {"libvirt": libvirt, "nbd": nbd, "zstandard": zstandard, "boto3": boto3}
    missing = [name for name in libraries if loaded[name] is None]
    if not missing:
        return
    if not has_respawned():
        for name in missing:
            interpreter = probe_interpreters_for_module(list(_SYSTEM_PYTHONS), name)
            if interpreter:
                respawn_module(interpreter)
    what = "; ".join(
        f"{name} ({why}): package {debian} on Debian and Ubuntu, {redhat} on Enterprise Linux"
        for name, (why, debian, redhat) in ((name, _PACKAGES[name]) for name in missing)
    )
    raise DependencyError(f"Missing Python library on this host: {what}. The role vmforge.backup.node installs them.")
