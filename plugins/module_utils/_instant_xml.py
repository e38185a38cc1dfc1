# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The definition of a machine while its disks are filled from a backup, and the one it has afterwards. Pure.

Meanwhile a disk says what is under it, so that it cannot be started without that, and a read that fails pauses the
machine: the guest's file systems must not learn of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

Element = ElementTree.Element
_POLICIES = ("error_policy", "rerror_policy")
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"


def error_policies(xml: str, targets: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """What a definition says of errors, by target; of those disks that are named."""
    found = {}
    for target, node in _disks(ElementTree.fromstring(xml)):
        driver = node.find("driver")
        if target in targets and driver is not None:
            found[target] = {name: driver.get(name, "") for name in _POLICIES if driver.get(name)}
    return found


def on_exports(xml: str, sockets: Mapping[str, Path]) -> str:
    """The same machine on overlays.

    Args:
        sockets: Target -> where what is under the disk is served.
    """
    root = _parse(xml)
    for target, node in _disks(root):
        if target in sockets:
            _set_policies(node, dict.fromkeys(_POLICIES, "stop"))
            _remove(node, "backingStore")
            node.insert(_behind_source(node), _backing(sockets[target]))
    return _text(root)


def on_its_own(xml: str, policies: Mapping[str, Mapping[str, str]]) -> str:
    """The same machine, whose disks are whole.

    Args:
        policies: Target -> what the definition said of errors before.
    """
    root = _parse(xml)
    for target, node in _disks(root):
        if target in policies:
            _remove(node, "backingStore")
            _set_policies(node, policies[target])
    return _text(root)


def _backing(socket: Path) -> Element:
    backing = ElementTree.Element("backingStore", type="network")
    ElementTree.SubElement(backing, "format", type="raw")
    source = ElementTree.SubElement(backing, "source", protocol="nbd")
    ElementTree.SubElement(source, "host", transport="unix", socket=str(socket))
    ElementTree.SubElement(backing, "backingStore")
    return backing


def _behind_source(node: Element) -> int:
    source = node.find("source")
    return list(node).index(source) + 1 if source is not None else len(node)


def _set_policies(node: Element, policies: Mapping[str, str]) -> None:
    driver = node.find("driver")
    if driver is None:
        return
    for name in _POLICIES:
        driver.attrib.pop(name, None)
        if policies.get(name):
            driver.set(name, policies[name])


def _remove(node: Element, tag: str) -> None:
    for child in node.findall(tag):
        node.remove(child)


def _disks(root: Element) -> Iterator[tuple[str, Element]]:
    for node in root.findall("devices/disk"):
        target = node.find("target")
        if target is not None:
            yield target.get("dev", ""), node


def _parse(xml: str) -> Element:
    ElementTree.register_namespace("qemu", _QEMU)
    return ElementTree.fromstring(xml)


def _text(root: Element) -> str:
    return ElementTree.tostring(root, encoding="unicode") + "\n"
