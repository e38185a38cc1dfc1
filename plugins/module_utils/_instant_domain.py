# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pulling what is under a disk into it, while its machine runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._programs import need_program, run_program

_SECONDS = 60


def begin_pull(domain: Domain, target: str) -> None:
    """Begin to fill a disk. Raises ``HypervisorError``."""
    domain.call(f"filling disk {target} of", lambda handle: handle.blockPull(target, 0, 0))


def pulled_bytes(domain: Domain, target: str) -> int | None:
    """How far that is; None where no job runs, which says nothing of how it ended."""
    info: dict[str, Any] = domain.call(
        f"asking for the job on disk {target} of", lambda handle: handle.blockJobInfo(target, 0)
    )
    return int(info["cur"]) if info else None


def reads_from(domain: Domain, socket: Path) -> bool:
    """Whether libvirt still knows of what is served there: it forgets that a little after QEMU let go of it."""
    hosts = ElementTree.fromstring(domain.xml(inactive=False)).iterfind("./devices/disk//source/host")
    return any(host.get("socket") == str(socket) for host in hosts)


def backing_of(path: Path) -> str | None:
    """What an image says is under it; None where there is nothing. It may be in use.

    Raises:
        SourceError: It cannot be read.
    """
    program = need_program("qemu-img", debian="qemu-utils", redhat="qemu-img")
    try:
        done = run_program([program, "info", "-U", "-f", "qcow2", "--output=json", str(path)], timeout=_SECONDS)
    except TimeoutError as error:
        raise SourceError(f"The disk image {path} did not answer within {_SECONDS} seconds.") from error
    if done.status:
        raise SourceError(f"The disk image {path} cannot be opened: {done.errors.strip()}.", code="disk_unreadable")
    found = json.loads(done.output).get("backing-filename")
    return str(found) if found else None
