# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The definition of a restored machine, from that of a backup or from the one that libvirt has. Pure.

Source: libvirt's domain XML format, https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

import hashlib
import uuid as uuids
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError

Element = ElementTree.Element
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
# What describes another image than the one that is there now.
_OF_THE_OLD_IMAGE = ("source", "backingStore", "mirror", "encryption", "auth", "transient")
_MAC_PREFIX = "52:54:00"


@dataclass(frozen=True)
class NewDisk:
    """Where a disk lies now. ``is_device`` marks a block device."""

    path: str
    format: str
    is_device: bool = False


@dataclass(frozen=True)
class Identity:
    """What a new machine must not share with the old one.

    Attributes:
        name: Of the new machine.
        uuid: Canonical.
        nvram: Path of its firmware variables; None without any.
    """

    name: str
    uuid: str
    nvram: str | None = None


@dataclass
class Rewritten:
    """A definition, and what people should know of it."""

    xml: str
    warnings: list[str] = field(default_factory=list)


def in_place_xml(xml: str, *, name: str, disks: Mapping[str, NewDisk]) -> Rewritten:
    """The same machine with other images.

    Args:
        xml: The definition to go back to.
        name: Its name now; libvirt does not rename by defining.
        disks: By target.
    """
    root = _parse(xml)
    _set_text(root, "name", name)
    for target, disk in disks.items():
        _point_to(_disk(root, target), disk)
    return Rewritten(_text(root))


def new_xml(
    xml: str,
    identity: Identity,
    *,
    disks: Mapping[str, NewDisk],
    networks: str = "keep",
    network_map: Mapping[str, str] | None = None,
) -> Rewritten:
    """Another machine of the same kind, that can run beside the first.

    Args:
        xml: Of the old machine.
        identity: Of the new one.
        disks: By target. Disks that are not among them are left out, but for empty drives.
        networks: ``keep``, ``map`` or ``disconnect``.
        network_map: Names of networks and bridges -> new names.
    """
    root = _parse(xml)
    done = Rewritten("")
    _set_identity(root, identity)
    _rewrite_disks(root, disks, done)
    for index, interface in enumerate(root.findall("devices/interface")):
        _rewrite_interface(interface, identity, index)
        _reconnect(interface, networks, network_map or {}, done)
    _separate(root, identity, done)
    done.xml = _text(root)
    return done


def keep_secrets(xml: str, before: str | None) -> str:
    """The definition with the passwords of displays that the machine had; no backup holds them.

    Args:
        before: The machine's definition up to now, with secrets; None without one.
    """
    if before is None:
        return xml
    known = {node.get("type"): node for node in _parse(before).findall("devices/graphics")}
    root = _parse(xml)
    for node in root.findall("devices/graphics"):
        old = known.get(node.get("type"))
        if old is not None and node.get("passwd") is None:
            for name in ("passwd", "passwdValidTo"):
                value = old.get(name)
                if value is not None:
                    node.set(name, value)
    return _text(root)


def as_written(xml: str) -> str:
    """A definition in the form in which those here are written, so that a comparison shows what is different alone."""
    return _text(_parse(xml)) if xml else ""


def _parse(xml: str) -> Element:
    ElementTree.register_namespace("qemu", _QEMU)
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise FormatError(f"The definition of the machine cannot be read: {error}.") from error
    if root.tag != "domain":
        raise FormatError(f"The definition of the machine is a <{root.tag}>, not a <domain>.")
    # Of a running machine.
    root.attrib.pop("id", None)
    return root


def _text(root: Element) -> str:
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _set_text(root: Element, tag: str, text: str) -> None:
    node = root.find(tag)
    if node is None:
        node = ElementTree.SubElement(root, tag)
    node.text = text


def _disk(root: Element, target: str) -> Element:
    for node in root.findall("devices/disk"):
        place = node.find("target")
        if place is not None and place.get("dev") == target:
            return node
    raise FormatError(f"The definition of the machine has no disk {target}.")


def _point_to(node: Element, disk: NewDisk) -> None:
    for tag in _OF_THE_OLD_IMAGE:
        for child in node.findall(tag):
            node.remove(child)
    node.set("type", "block" if disk.is_device else "file")
    driver = node.find("driver")
    if driver is None:
        driver = ElementTree.Element("driver", name="qemu")
        node.insert(0, driver)
    driver.set("type", disk.format)
    source = ElementTree.Element("source", {"dev" if disk.is_device else "file": disk.path})
    node.insert(list(node).index(driver) + 1, source)


def _set_identity(root: Element, identity: Identity) -> None:
    _set_text(root, "name", identity.name)
    _set_text(root, "uuid", identity.uuid)
    for entry in root.findall("sysinfo/system/entry[@name='uuid']"):
        entry.text = identity.uuid
    if root.find("genid") is not None:
        # A guest learns from it that it is another one.
        _set_text(root, "genid", str(uuids.uuid5(uuids.UUID(identity.uuid), "genid")))
    nvram = root.find("os/nvram")
    if nvram is not None and identity.nvram is not None:
        for child in list(nvram):
            nvram.remove(child)
        nvram.attrib.pop("type", None)
        nvram.text = identity.nvram


def _rewrite_disks(root: Element, disks: Mapping[str, NewDisk], done: Rewritten) -> None:
    devices = root.find("devices")
    if devices is None:
        raise FormatError("The definition of the machine has no devices.")
    for node in devices.findall("disk"):
        place = node.find("target")
        target = place.get("dev", "") if place is not None else ""
        if target in disks:
            _point_to(node, disks[target])
        elif node.get("device") in ("cdrom", "floppy"):
            source = node.find("source")
            if source is not None:
                node.remove(source)
                done.warnings.append(f"The drive {target} is empty in the new machine.")
        else:
            devices.remove(node)
            done.warnings.append(f"The disk {target} is not in the new machine, for it is not restored.")


def _rewrite_interface(interface: Element, identity: Identity, index: int) -> None:
    digest = hashlib.sha256(f"{identity.uuid}/{index}".encode()).hexdigest()
    address = ":".join((_MAC_PREFIX, digest[:2], digest[2:4], digest[4:6]))
    mac = interface.find("mac")
    if mac is None:
        mac = ElementTree.Element("mac")
        interface.insert(0, mac)
    mac.set("address", address)
    # Names and ids that belong to one port of one switch.
    target = interface.find("target")
    if target is not None and target.get("dev"):
        interface.remove(target)
    for parameters in interface.findall("virtualport/parameters"):
        parameters.attrib.pop("interfaceid", None)


def _reconnect(interface: Element, networks: str, network_map: Mapping[str, str], done: Rewritten) -> None:
    if networks == "disconnect":
        link = interface.find("link")
        if link is None:
            link = ElementTree.SubElement(interface, "link")
        link.set("state", "down")
    source = interface.find("source")
    if networks != "map" or source is None:
        return
    for name in ("network", "bridge", "dev"):
        old = source.get(name)
        if old is None:
            continue
        if old in network_map:
            source.set(name, network_map[old])
            source.attrib.pop("portid", None)
        else:
            done.warnings.append(f"network_map says nothing of {old}, so that it is kept.")


def _separate(root: Element, identity: Identity, done: Rewritten) -> None:
    """What two machines cannot both have: ports, sockets, log files, devices of the host."""
    devices = root.find("devices")
    for node in devices if devices is not None else ():
        source = node.find("source")
        if node.tag in ("serial", "console", "parallel", "channel") and source is not None:
            path = source.get("path")
            if node.get("type") == "file" and path:
                source.set("path", f"{path}.{identity.name}")
            elif node.get("type") == "unix" and node.find("target[@type='virtio']") is not None:
                # libvirt chooses another.
                node.remove(source)
        if node.tag == "graphics":
            _free_ports(node)
        if node.tag == "vsock":
            cid = node.find("cid")
            if cid is not None:
                cid.attrib.pop("address", None)
                cid.set("auto", "yes")
    for node in devices.findall("hostdev") if devices is not None else ():
        if devices is not None:
            devices.remove(node)
            done.warnings.append("A device of the host is not in the new machine, for the old one has it.")


def _free_ports(node: Element) -> None:
    if node.get("port") is not None or node.get("tlsPort") is not None:
        node.attrib.pop("port", None)
        node.attrib.pop("tlsPort", None)
        node.set("autoport", "yes")
    if node.get("socket"):
        node.attrib.pop("socket")
