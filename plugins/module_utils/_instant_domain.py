# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pulling what is under a disk into it, while its machine runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._extents import subtract, total
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._model import Extent
from ansible_collections.vmforge.backup.plugins.module_utils._programs import need_program, run_program
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded

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


def settle(domain: Domain) -> bool:
    """Have QEMU write out all that it holds of its images, which it does when it pauses; whether it could.

    QEMU takes the backing file out of an image's header before it has written the image's own tables: if it is killed
    then, all that was filled in last reads as zeroes (seen, 7.2).
    """
    if domain.state().state not in ("running", "blocked"):
        return False
    with shielded():
        domain.call("pausing", lambda handle: handle.suspend())
        domain.resume()
    return True


def backing_of(path: Path) -> str | None:
    """What an image says is under it; None where there is nothing. It may be in use.

    Raises:
        SourceError: It cannot be read.
    """
    found = _ask("info", "-f", "qcow2", str(path)).get("backing-filename")
    return str(found) if found else None


def unfilled_bytes(path: Path, socket: Path) -> int:
    """How much of what an export holds is not in an image that has nothing under it, going by what is on disk.

    Raises:
        SourceError: One of them cannot be read.
    """
    under = _ask("map", "-f", "raw", f"nbd+unix:///?socket={quote(str(socket))}")
    image = _ask("map", "-f", "qcow2", str(path))
    return total(subtract(_extents(under, "data"), _extents(image, "present")))


def _extents(entries: Any, kind: str) -> list[Extent]:
    """Those of a kind, merged where they touch."""
    found: list[Extent] = []
    for entry in entries:
        if entry[kind] and found and found[-1].offset + found[-1].length == entry["start"]:
            found[-1] = Extent(found[-1].offset, found[-1].length + entry["length"])
        elif entry[kind]:
            found.append(Extent(entry["start"], entry["length"]))
    return found


def _ask(command: str, *argv: str) -> Any:
    """What qemu-img says of an image, which is named last."""
    program, image = need_program("qemu-img", debian="qemu-utils", redhat="qemu-img"), argv[-1]
    try:
        done = run_program([program, command, "-U", "--output=json", *argv], timeout=_SECONDS)
    except TimeoutError as error:
        raise SourceError(f"The disk image {image} did not answer within {_SECONDS} seconds.") from error
    if done.status:
        raise SourceError(f"The disk image {image} cannot be opened: {done.errors.strip()}.", code="disk_unreadable")
    return json.loads(done.output)
