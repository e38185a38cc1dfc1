# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a domain's XML says: which disks take part, why others do not, firmware and TPM."""

from __future__ import annotations

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, DomainSpec, parse_domain
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._plan import choose_disks

UUID = "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"


def domain(devices: str = "", os: str = "") -> str:
    return f"""<domain type='kvm'><name>web &lt;1&gt;</name><uuid>{UUID.upper()}</uuid>
        <os><type>hvm</type>{os}</os><devices>{devices}</devices></domain>"""


def disk(inside: str, *, kind: str = "file", device: str = "disk") -> Disk:
    """Parse one disk with a driver and a target."""
    xml = f"<disk type='{kind}' device='{device}'><driver name='qemu' type='qcow2'/>{inside}<target dev='vda'/></disk>"
    (found,) = parse_domain(domain(xml)).disks
    return found


FILE = "<source file='/a/b.qcow2'/>"


@pytest.mark.parametrize(
    ("kind", "inside", "source"),
    [
        ("file", FILE, "/a/b.qcow2"),
        ("file", "<source file='/a/&lt;b&gt; &amp; c.qcow2' index='1'/>", "/a/<b> & c.qcow2"),
        ("block", "<source dev='/dev/vg/lv'/>", "/dev/vg/lv"),
        ("volume", "<source pool='fast' volume='web1.qcow2'/>", "web1.qcow2"),
        ("network", "<source protocol='rbd' name='pool/image'><host name='mon1'/></source>", "rbd:pool/image"),
        ("nvme", "<source type='pci' managed='yes' namespace='1'><address bus='1'/></source>", ""),
        ("vhostuser", "<source type='unix' path='/tmp/vhost'/>", "/tmp/vhost"),
        ("dir", "<source dir='/a'/>", "/a"),
        ("file", "", ""),
    ],
)
def test_sources(kind: str, inside: str, source: str) -> None:
    found = disk(inside, kind=kind)
    assert (found.type, found.source, found.format, found.excluded) == (kind, source, "qcow2", None)
    assert found.pool == ("fast" if kind == "volume" else None)


@pytest.mark.parametrize(
    ("device", "inside", "reason"),
    [
        ("disk", FILE, None),
        ("lun", FILE, None),
        ("cdrom", FILE + "<readonly/>", "cdrom"),
        ("cdrom", "", "cdrom"),
        ("floppy", FILE, "floppy"),
        ("disk", FILE + "<readonly/>", "readonly"),
        ("disk", FILE + "<shareable/>", "shareable"),
        ("disk", FILE + "<transient/>", "transient"),
        ("disk", FILE + "<transient shareBacking='yes'/>", "transient"),
    ],
)
def test_what_is_left_out(device: str, inside: str, reason: str | None) -> None:
    assert disk(inside, device=device).excluded == reason


def test_a_backing_chain_does_not_speak_for_the_disk() -> None:
    chain = (
        FILE + "<backingStore type='file'><format type='raw'/><source file='/base'><encryption format='luks'/></source>"
        "<readonly/></backingStore>"
    )
    found = disk(chain)
    assert (found.source, found.excluded, found.encrypted) == ("/a/b.qcow2", None, False)


@pytest.mark.parametrize(
    "inside",
    [
        FILE + "<encryption format='luks'><secret type='passphrase' uuid='x'/></encryption>",
        "<source file='/a/b.qcow2'><encryption format='luks2'/></source>",
    ],
    ids=["old place", "new place"],
)
def test_encryption_in_both_places(inside: str) -> None:
    assert disk(inside).encrypted


def test_a_disk_without_a_driver_is_raw() -> None:
    xml = domain(f"<disk>{FILE}<target dev='hda'/></disk>")
    assert parse_domain(xml).disks[0].format == "raw"
    without_type = domain(f"<disk type='file'><driver name='qemu'/>{FILE}<target dev='hda'/></disk>")
    assert parse_domain(without_type).disks[0].format == "raw"


@pytest.mark.parametrize("target", ["", "../vda", "vda/x", "VDA", "vda\n", "v", "vda.qcow2", "vda b", "vdà"])
def test_a_target_that_could_be_no_file_name(target: str) -> None:
    text = target.replace("\n", "&#10;")
    with pytest.raises(FormatError, match="unusual target"):
        parse_domain(domain(f"<disk type='file'>{FILE}<target dev='{text}'/></disk>"))


@pytest.mark.parametrize("target", ["vda", "sda", "hdc", "xvda1", "fda", "vdaaa", "ubda"])
def test_usual_targets(target: str) -> None:
    assert parse_domain(domain(f"<disk type='file'>{FILE}<target dev='{target}'/></disk>")).disks[0].target == target


@pytest.mark.parametrize(
    ("os", "nvram"),
    [
        ("", None),
        ("<nvram>/nv/web1_VARS.fd</nvram>", "/nv/web1_VARS.fd"),
        ("<nvram template='/usr/share/OVMF.fd'>/nv/a.fd</nvram>", "/nv/a.fd"),
        ("<nvram type='file'><source file='/nv/b.fd'/></nvram>", "/nv/b.fd"),
        ("<nvram type='file' template='/t'>\n  <source file='/nv/c.fd'/>\n</nvram>", "/nv/c.fd"),
        ("<nvram type='block'><source dev='/dev/nv'/></nvram>", None),
        ("<nvram template='/t'/>", None),
    ],
)
def test_nvram(os: str, nvram: str | None) -> None:
    assert parse_domain(domain(os=os)).nvram == nvram


def test_names_tpm_and_agent() -> None:
    agent = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/></channel>"
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    spec = parse_domain(domain(agent + tpm))
    assert (spec.name, spec.uuid, spec.agent, spec.tpm, spec.disks) == ("web <1>", UUID, True, True, ())
    real_chip = "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>"
    spec = parse_domain(domain(real_chip))
    assert (spec.agent, spec.tpm) == (False, False)


@pytest.mark.parametrize("text", ["", "no xml", "<domain>"])
def test_what_is_no_xml(text: str) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        parse_domain(text)


def spec_of(*disks: str) -> DomainSpec:
    return parse_domain(domain("".join(disks)))


def one(target: str, inside: str = FILE, *, kind: str = "file", device: str = "disk") -> str:
    return f"<disk type='{kind}' device='{device}'><driver type='qcow2'/>{inside}<target dev='{target}'/></disk>"


ENCRYPTED = FILE + "<encryption format='luks'/>"
NETWORK = "<source protocol='rbd' name='pool/image'/>"


@pytest.mark.parametrize(
    ("xml", "running", "plaintext", "exclude", "outcome"),
    [
        (one("vda"), True, False, [], ["vda"]),
        (one("vda") + one("sda", device="cdrom"), False, False, [], ["vda"]),
        (one("vda") + one("vdb"), True, False, ["vdb"], ["vda"]),
        (one("vda", kind="network", inside=NETWORK), True, False, [], ["vda"]),
        (one("vda", kind="network", inside=NETWORK), False, False, [], "disk_unsupported"),
        (one("vda") + one("vdb", kind="network", inside=NETWORK), False, False, ["vdb"], ["vda"]),
        (one("vda", kind="vhostuser"), True, False, [], "disk_unsupported"),
        (one("vda", kind="nvme"), True, False, [], ["vda"]),
        (one("vda", kind="nvme"), False, False, [], "disk_unsupported"),
        (one("vda", inside=ENCRYPTED), True, False, [], "disk_encrypted"),
        (one("vda", inside=ENCRYPTED), True, True, [], ["vda"]),
        (one("vda", inside=ENCRYPTED), False, True, [], "disk_encrypted"),
        (one("vda") + one("vdb", inside=ENCRYPTED), True, False, ["vdb"], ["vda"]),
        (one("sda", device="cdrom"), True, False, [], "no_disks"),
        (one("vda"), True, False, ["vda"], "no_disks"),
        ("", True, False, [], "no_disks"),
    ],
)
def test_choice_of_disks(
    xml: str, running: bool, plaintext: bool, exclude: list[str], outcome: list[str] | str
) -> None:
    spec = spec_of(xml)
    if isinstance(outcome, str):
        with pytest.raises(InputError) as caught:
            choose_disks(spec, exclude=exclude, running=running, allow_plaintext=plaintext)
        assert caught.value.code == outcome
        return
    taken, excluded = choose_disks(spec, exclude=exclude, running=running, allow_plaintext=plaintext)
    assert [item.target for item in taken] == outcome
    assert {target for target, _reason in excluded} == {item.target for item in spec.disks} - set(outcome)
