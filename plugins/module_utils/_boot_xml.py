# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The definition of a machine that is only started to see whether it boots, and touches nothing of the host. Pure.

Source: libvirt's domain XML format, https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError
from ansible_collections.vmforge.backup.plugins.module_utils._restore_xml import Identity, NewDisk, new_xml

Element = ElementTree.Element
AGENT = "org.qemu.guest_agent.0"
# Networks, devices and directories of the host, screens that somebody could look at, locks and sounds.
_FOREIGN_DEVICES = (
    "interface", "hostdev", "redirdev", "redirfilter", "filesystem", "shmem", "vsock", "smartcard", "lease", "graphics",
    "sound", "audio", "hub", "watchdog", "memory",
)  # fmt: skip
# How the host's processors, memory and block devices are shared out; and labels of what the machine used to be.
_FOREIGN_SETTINGS = (
    "memoryBacking", "numatune", "cputune", "memtune", "blkiotune", "resource", "maxMemory", "seclabel", "keywrap",
    "launchSecurity", "throttlegroups",
)  # fmt: skip
_QEMU_COMMAND_LINE = "{http://libvirt.org/schemas/domain/qemu/1.0}commandline"
_CHARACTER_DEVICES = ("serial", "console", "parallel")
_KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "KB": 1000 / 1024, "MB": 1e6 / 1024, "GB": 1e9 / 1024, "k": 1, "KiB": 1}
_KIB.update({"M": 1 << 10, "MiB": 1 << 10, "G": 1 << 20, "GiB": 1 << 20, "T": 1 << 30, "TiB": 1 << 30})


@dataclass(frozen=True)
class BootPlaces:
    """Where the parts of such a machine lie.

    Attributes:
        disks: Target -> overlay.
        console: The file that its first serial port writes to.
        nvram: Of its firmware variables.
        files: Kernel and such, path in the backup's definition -> path of a copy.
    """

    disks: Mapping[str, Path]
    console: Path
    nvram: Path
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass
class BootDefinition:
    """The definition.

    Attributes:
        has_agent: Whether it has a channel for a guest agent.
        has_video: Whether there is a screen to take a picture of.
        has_tpm: Whether it has an emulated TPM.
    """

    xml: str
    has_agent: bool
    has_video: bool
    has_tpm: bool
    warnings: list[str]


def boot_xml(
    definition: str, *, name: str, uuid: str, places: BootPlaces, memory_mib: int, with_serial: bool
) -> BootDefinition:
    """Such a machine.

    Args:
        definition: The backup's ``domain.xml``.
        name: Of the new machine.
        uuid: Of the new machine, canonical.
        memory_mib: The most that it gets.
        with_serial: Give it a serial port if it has none.

    Raises:
        FormatError: It is no domain.
    """
    disks = {target: NewDisk(str(path), "qcow2") for target, path in places.disks.items()}
    made = new_xml(definition, Identity(name, uuid, str(places.nvram)), disks=disks)
    root = ElementTree.fromstring(made.xml)
    devices = root.find("devices")
    if devices is None:
        raise FormatError("The definition of the machine has no devices.")
    _strip(root, devices)
    _cap_memory(root, memory_mib)
    _use_copies(root, places)
    for node in devices.findall("disk"):
        _make_throwaway(node)
    _connect_console(devices, places.console, with_serial=with_serial)
    _keep_agent_only(devices)
    has_video = _simplify_video(devices)
    has_tpm = _keep_emulated_tpm(devices)
    ElementTree.indent(root)
    return BootDefinition(
        ElementTree.tostring(root, encoding="unicode") + "\n",
        has_agent=devices.find(f"channel/target[@name='{AGENT}']") is not None,
        has_video=has_video,
        has_tpm=has_tpm,
        warnings=[text for text in made.warnings if text.startswith("The disk")],
    )


def boot_files(definition: str) -> list[str]:
    """Paths of what it boots from besides its disks: a kernel and what belongs to it."""
    root = ElementTree.fromstring(definition)
    found = (root.findtext(f"os/{tag}") for tag in ("kernel", "initrd", "dtb"))
    return [path.strip() for path in found if path]


def _strip(root: Element, devices: Element) -> None:
    for tag in (*_FOREIGN_SETTINGS, _QEMU_COMMAND_LINE):
        for node in root.findall(tag):
            root.remove(node)
    for tag in _FOREIGN_DEVICES:
        for node in devices.findall(tag):
            devices.remove(node)
    for node in devices.findall("input"):
        if node.find("source") is not None:
            devices.remove(node)
    for node in devices.findall("rng"):
        if node.find("backend[@model='random']") is None:
            devices.remove(node)
    vcpu = root.find("vcpu")
    if vcpu is not None:
        vcpu.attrib.pop("cpuset", None)
    for tag in ("on_poweroff", "on_crash"):
        for node in root.findall(tag):
            root.remove(node)
        ElementTree.SubElement(root, tag).text = "destroy"


def _cap_memory(root: Element, memory_mib: int) -> None:
    node = root.find("memory")
    if node is None or not (node.text or "").strip():
        raise FormatError("The definition of the machine does not say how much memory it has.")
    wanted = int(float(str(node.text)) * _KIB.get(node.get("unit", "KiB"), 1))
    given = min(wanted, memory_mib << 10)
    node.attrib.clear()
    node.set("unit", "KiB")
    node.text = str(given)
    for other in root.findall("currentMemory"):
        root.remove(other)
    # Cells of memory add up to what it had.
    for numa in root.findall("cpu/numa"):
        root.findall("cpu")[0].remove(numa)


def _use_copies(root: Element, places: BootPlaces) -> None:
    system = root.find("os")
    if system is None:
        return
    for tag in ("kernel", "initrd", "dtb"):
        node = system.find(tag)
        if node is not None and (node.text or "").strip() in places.files:
            node.text = str(places.files[(node.text or "").strip()])
    if system.get("firmware") == "efi" and system.find("nvram") is None:
        # Or libvirt makes one where it would stay.
        ElementTree.SubElement(system, "nvram").text = str(places.nvram)


def _make_throwaway(node: Element) -> None:
    """What it writes is thrown away: nothing has to reach a disk, and nothing is rationed."""
    if node.get("device") in ("cdrom", "floppy"):
        return
    node.set("device", "disk")
    for tag in ("iotune", "backenddomain", "geometry", "reservations"):
        for child in node.findall(tag):
            node.remove(child)
    driver = node.find("driver")
    if driver is not None:
        driver.attrib.clear()
        for name, value in (("name", "qemu"), ("type", "qcow2"), ("cache", "unsafe"), ("discard", "unmap")):
            driver.set(name, value)


def _connect_console(devices: Element, path: Path, *, with_serial: bool) -> None:
    """The first port writes to a file, the others to nothing."""
    ports = []
    for tag in _CHARACTER_DEVICES:
        for node in devices.findall(tag):
            if tag == "console" and node.find("target[@type='serial']") is not None:
                # The other name of a serial port; libvirt adds it by itself.
                devices.remove(node)
            else:
                ports.append(node)
    if with_serial and not ports:
        ports.append(ElementTree.SubElement(devices, "serial"))
    for number, node in enumerate(ports):
        for child in list(node):
            if child.tag not in ("target", "alias", "address"):
                node.remove(child)
        node.attrib.clear()
        node.set("type", "null" if number else "file")
        if not number:
            node.insert(0, ElementTree.Element("source", path=str(path)))


def _keep_agent_only(devices: Element) -> None:
    for node in devices.findall("channel"):
        target = node.find("target")
        if target is None or target.get("name") != AGENT:
            devices.remove(node)
            continue
        for child in node.findall("source"):
            node.remove(child)
        target.attrib.pop("state", None)
        node.set("type", "unix")


def _simplify_video(devices: Element) -> bool:
    """Models that can do without a screen; whether there is one at all."""
    found = False
    for node in devices.findall("video"):
        model = node.find("model")
        kind = model.get("type", "") if model is not None else ""
        if model is None or kind == "none":
            continue
        found = True
        for child in list(model):
            model.remove(child)
        for child in node.findall("driver"):
            node.remove(child)
        model.attrib.clear()
        # QXL belongs to SPICE.
        model.set("type", "vga" if kind == "qxl" else kind)
    return found


def _keep_emulated_tpm(devices: Element) -> bool:
    found = False
    for node in devices.findall("tpm"):
        if node.find("backend[@type='emulator']") is None:
            devices.remove(node)
        else:
            found = True
    return found
