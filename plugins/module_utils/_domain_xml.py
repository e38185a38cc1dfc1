# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a domain's XML says about its disks and firmware. Pure: takes libvirt's text, asks nobody.

Source: libvirt's domain XML format, https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError

_TARGET = re.compile(r"[a-z]{2,4}[0-9]*[a-z]*\Z")
# What QEMU can export of a disk of this <disk type=…>; the others have no block layer that a backup could use.
_STOPPED_TYPES = ("file", "block", "volume")
_AGENT = "devices/channel/target[@name='org.qemu.guest_agent.0']"
_RUNNING_TYPES = (*_STOPPED_TYPES, "network", "nvme")


@dataclass(frozen=True)
class Disk:
    """One ``<disk>`` of a domain.

    Attributes:
        target: Such as ``vda``; unique in a domain, and checked to be safe as a file name.
        type: libvirt's disk type: ``file``, ``block``, ``volume``, ``network``…
        format: Of its image: ``qcow2``, ``raw``…
        source: Path, device, ``pool/volume`` or a URL-like text; empty for an empty drive.
        pool: Name of the storage pool of a ``volume``, else None.
        excluded: Why it is left out of every backup, or None.
        encrypted: It has a libvirt ``<encryption>``: QEMU would hand out its plain text.
    """

    target: str
    type: str
    format: str
    source: str
    pool: str | None = None
    excluded: str | None = None
    encrypted: bool = False

    def obstacle(self, *, running: bool) -> str | None:
        """Why this disk cannot be read in this state, or None."""
        if self.excluded is not None:
            return None
        if self.type not in _RUNNING_TYPES:
            return f"a disk of type {self.type} cannot be read through QEMU"
        if not running and self.type not in _STOPPED_TYPES:
            return f"a disk of type {self.type} can only be read while the domain runs"
        return None


@dataclass(frozen=True)
class DomainSpec:
    """The parts of a domain's definition that a backup deals with."""

    name: str
    uuid: str
    disks: tuple[Disk, ...]
    nvram: str | None
    tpm: bool
    agent: bool

    @property
    def included(self) -> tuple[Disk, ...]:
        """The disks that a backup holds."""
        return tuple(disk for disk in self.disks if disk.excluded is None)


def parse_domain(xml: str) -> DomainSpec:
    """Read a domain definition as libvirt prints it.

    Raises:
        FormatError: Not a domain, or a disk target that could not be a file name.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise FormatError(f"libvirt's domain XML cannot be read: {error}.") from error
    nvram = root.find("os/nvram")
    return DomainSpec(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", "").lower(),
        disks=tuple(_parse_disk(node) for node in root.findall("devices/disk")),
        nvram=_nvram_path(nvram),
        tpm=root.find("devices/tpm/backend[@type='emulator']") is not None,
        agent=root.find(_AGENT) is not None,
    )


def is_agent_connected(xml: str) -> bool:
    """Whether libvirt says in a running domain's definition that the guest agent holds its channel open."""
    return ElementTree.fromstring(xml).find(f"{_AGENT}[@state='connected']") is not None


def _nvram_path(node: ElementTree.Element | None) -> str | None:
    if node is None:
        return None
    source = node.find("source")
    return (node.text or "").strip() or (source.get("file") if source is not None else None)


def _parse_disk(node: ElementTree.Element) -> Disk:
    target_node, driver, source = node.find("target"), node.find("driver"), node.find("source")
    target = target_node.get("dev", "") if target_node is not None else ""
    if not _TARGET.match(target):
        raise FormatError(f"The domain has a disk with the unusual target {target!r}; it cannot be backed up.")
    kind = node.get("type", "file")
    encrypted = node.find("encryption") is not None or (source is not None and source.find("encryption") is not None)
    return Disk(
        target=target,
        type=kind,
        format=(driver.get("type") if driver is not None else None) or "raw",
        source=_describe_source(kind, source),
        pool=source.get("pool") if source is not None and kind == "volume" else None,
        excluded=_exclusion(node),
        encrypted=encrypted,
    )


def _exclusion(node: ElementTree.Element) -> str | None:
    device = node.get("device", "disk")
    if device in ("cdrom", "floppy"):
        return device
    for tag in ("readonly", "shareable", "transient"):
        if node.find(tag) is not None:
            return tag
    return None


def _describe_source(kind: str, source: ElementTree.Element | None) -> str:
    if source is None:
        return ""
    if kind == "network":
        return f"{source.get('protocol', '')}:{source.get('name', '')}"
    attribute = {"file": "file", "block": "dev", "volume": "volume", "dir": "dir"}.get(kind, "path")
    return source.get(attribute, "")
