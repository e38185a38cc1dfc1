# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that is booted to prove a backup: nothing of the host, nobody's identity, and little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._boot_options import BOOT_ARGUMENTS, BootOptions
from ansible_collections.vmforge.backup.plugins.module_utils._boot_xml import (
    BootDefinition,
    BootPlaces,
    boot_files,
    boot_xml,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._verified import Check, merge_checks

UUID = "11111111-2222-4333-8444-555555555555"
OLD_UUID = "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"
DOMAIN = f"""<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name><uuid>{OLD_UUID}</uuid>
  <memory unit='GiB'>8</memory><currentMemory unit='GiB'>8</currentMemory><maxMemory slots='4' unit='GiB'>32</maxMemory>
  <memoryBacking><hugepages/></memoryBacking><vcpu cpuset='1-3'>2</vcpu><cputune><shares>9</shares></cputune>
  <os firmware='efi'><type>hvm</type><kernel>/boot/k</kernel><initrd>/boot/i</initrd><nvram>/n/web1_VARS.fd</nvram></os>
  <cpu><numa><cell id='0' cpus='0-1' memory='8' unit='GiB'/></numa></cpu>
  <on_poweroff>restart</on_poweroff>
  <devices>
    <disk type='block' device='lun'><driver name='qemu' type='raw' cache='none' io='native'/><source dev='/dev/vg/a'/>
      <target dev='vda' bus='scsi'/><iotune><total_iops_sec>5</total_iops_sec></iotune></disk>
    <disk type='file' device='disk'><source file='/x/data.img'/><target dev='vdb'/><shareable/></disk>
    <disk type='file' device='cdrom'><source file='/x/cd.iso'/><target dev='sda'/><readonly/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface>
    <hostdev mode='subsystem' type='pci'><source/></hostdev>
    <filesystem type='mount'><source dir='/srv'/><target dir='srv'/></filesystem>
    <serial type='tcp'><source mode='bind' host='0.0.0.0' service='4555'/><protocol type='telnet'/>
      <target port='0'/></serial>
    <serial type='file'><source path='/var/log/web1'/><target port='1'/></serial>
    <console type='tcp'><source mode='bind' host='0.0.0.0' service='4555'/><target type='serial' port='0'/></console>
    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/x'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <graphics type='spice' autoport='yes' passwd='x'/>
    <video><model type='qxl' ram='65536' vgamem='16384'><acceleration accel3d='yes'/></model></video>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <rng model='virtio'><backend model='egd' type='udp'><source mode='bind' service='1'/></backend></rng>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
  <seclabel type='static' model='dac'><label>root:root</label></seclabel>
  <qemu:commandline><qemu:arg value='-s'/></qemu:commandline>
</domain>"""
ROOM = Path("/s/boot")
PLACES = BootPlaces(
    disks={"vda": ROOM / "vda.qcow2"},
    console=ROOM / "console.log",
    nvram=ROOM / "nvram.fd",
    files={"/boot/k": ROOM / "boot-0", "/boot/i": ROOM / "boot-1"},
)


def boot(xml: str = DOMAIN, **more: Any) -> BootDefinition:
    values: dict[str, Any] = {"name": "t", "uuid": UUID, "places": PLACES, "memory_mib": 512, "with_serial": False}
    return boot_xml(xml, **{**values, **more})


def test_nothing_of_the_host_and_nobodys_identity() -> None:
    made = boot()
    # Every path, and with it every socket and device, is in the one directory that goes away.
    root = ElementTree.fromstring(made.xml)
    texts = [value for node in root.iter() for value in (*node.attrib.values(), node.text or "")]
    assert {text for text in texts if text.startswith("/")} == {
        *(str(ROOM / name) for name in ("vda.qcow2", "console.log", "nvram.fd", "boot-0", "boot-1")),
        "/dev/urandom",
    }
    for word in (
        OLD_UUID,
        "web1",
        "br0",
        "52:54",
        "spice",
        "0.0.0.0",
        "hugepages",
        "commandline",
        "passwd",
        "root:root",
    ):
        assert word not in made.xml, word
    devices = root.find("devices")
    assert devices is not None
    assert {node.tag for node in devices} == {"disk", "serial", "channel", "video", "tpm", "rng"}
    assert (made.has_agent, made.has_video, made.has_tpm) == (True, True, True)
    assert made.warnings == ["The disk vdb is not in the new machine, for it is not restored."]


def test_its_disk_is_thrown_away_and_its_console_is_kept() -> None:
    root = ElementTree.fromstring(boot().xml)
    disk = root.find("devices/disk")
    assert disk is not None
    assert (disk.get("type"), disk.get("device"), disk.find("iotune")) == ("file", "disk", None)
    driver = disk.find("driver")
    assert driver is not None
    assert driver.attrib == {"name": "qemu", "type": "qcow2", "cache": "unsafe", "discard": "unmap"}
    assert [node.get("type") for node in root.findall("devices/serial")] == ["file", "null"]
    model = root.find("devices/video/model")
    assert model is not None
    assert model.attrib == {"type": "vga"}


@pytest.mark.parametrize(("cap", "given"), [(512, 512), (8192, 8192), (16384, 8192)])
def test_memory_is_capped_and_never_raised(cap: int, given: int) -> None:
    root = ElementTree.fromstring(boot(memory_mib=cap).xml)
    memory = root.find("memory")
    assert memory is not None
    assert (memory.text, memory.attrib) == (str(given << 10), {"unit": "KiB"})
    assert [root.find(tag) for tag in ("currentMemory", "maxMemory", "cpu/numa")] == [None, None, None]


def test_a_serial_port_is_made_only_where_one_is_needed() -> None:
    bare = "<domain type='kvm'><name>a</name><memory>9999999</memory><os firmware='efi'/><devices/></domain>"
    without = boot(bare)
    assert "serial" not in without.xml
    assert (without.has_agent, without.has_video, without.has_tpm) == (False, False, False)
    # libvirt would make one where it stays.
    assert "<nvram>/s/boot/nvram.fd</nvram>" in without.xml
    assert str(PLACES.console) in boot(bare, with_serial=True).xml
    assert boot_files(bare) == []
    assert boot_files(DOMAIN) == ["/boot/k", "/boot/i"]


def test_what_is_no_machine_is_refused() -> None:
    with pytest.raises(FormatError):
        boot("<domain><name>a</name><devices/></domain>")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"boot_timeout": 0}, "boot_timeout is 0"),
        ({"boot_memory": 1}, "boot_memory is 1"),
        ({"boot_pattern": "("}, "no regular expression"),
        ({"scratch_dir": "x"}, "absolute path"),
    ],
)
def test_options_out_of_range_are_refused(more: dict[str, Any], message: str) -> None:
    params = {name: spec.get("default") for name, spec in BOOT_ARGUMENTS.items()}
    assert BootOptions.from_params(params).pattern is None
    with pytest.raises(InputError, match=message):
        BootOptions.from_params({**params, **more})


def test_that_it_did_not_boot_takes_nothing_from_its_data() -> None:
    data, bad = Check("local", "data", True, "2"), Check("local", "boot", False, "2", "it did not boot")
    record = merge_checks([], "s", [data, bad])
    assert [(one["level"], one["ok"]) for one in record["results"]] == [("data", True), ("boot", False)]
    record = merge_checks([record], "s", [Check("local", "boot", True, "3")])
    assert [(one["level"], one["ok"]) for one in record["results"]] == [("boot", True)]
