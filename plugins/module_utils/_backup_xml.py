# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The XML of a pull-mode backup job: what libvirt is asked for, and what it says of a job that runs. Pure.

Source: https://libvirt.org/formatbackup.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from xml.etree import ElementTree


def backup_xml(
    *,
    socket: str,
    scratch: Mapping[str, str],
    left_out: Iterable[str],
    since: str | None = None,
    changed: Collection[str] = (),
) -> str:
    """Build the request for a pull backup over a unix socket.

    Args:
        socket: Path of the NBD socket that QEMU shall listen on.
        scratch: Target of each disk that takes part -> its scratch file. Without an explicit one begin fails.
        left_out: Targets of all other disks. Named too, for a disk that is not listed is silently left out.
        since: Name of a checkpoint.
        changed: Targets of the disks of which the export shall tell what changed since then.
    """
    root = ElementTree.Element("domainbackup", mode="pull")
    ElementTree.SubElement(root, "server", transport="unix", socket=socket)
    disks = ElementTree.SubElement(root, "disks")
    for target, path in scratch.items():
        disk = ElementTree.SubElement(disks, "disk", name=target, backup="yes", type="file", exportname=target)
        if since is not None and target in changed:
            disk.attrib.update(backupmode="incremental", incremental=since, exportbitmap=exported_bitmap(target))
        else:
            disk.set("backupmode", "full")
        ElementTree.SubElement(disk, "scratch", file=path)
    for target in left_out:
        ElementTree.SubElement(disks, "disk", name=target, backup="no")
    return ElementTree.tostring(root, encoding="unicode")


def exported_bitmap(target: str) -> str:
    """The name under which the export of a disk tells what changed."""
    return f"changes-{target}"


def job_socket(xml: str) -> str | None:
    """The NBD socket of a running backup job, or None for a job without one."""
    server = ElementTree.fromstring(xml).find("server")
    return server.get("socket") if server is not None else None
