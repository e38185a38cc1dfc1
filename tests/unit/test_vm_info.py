# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of domains; libvirt's part is played by values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, parse_domain
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    HypervisorError,
    InputError,
    NotFoundError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt_values import BlockInfo, DomainState
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._vm_info import list_vms

AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
DISK = "<disk type='file' device='disk'><driver type='qcow2'/><source file='/i/{0}'/><target dev='{0}'/>{1}</disk>"
CDROM = "<disk type='file' device='cdrom'><target dev='sda'/></disk>"
NETWORK = "<disk type='network' device='disk'><source protocol='rbd' name='p/i'/><target dev='vdn'/></disk>"


@dataclass
class FakeDomain:
    name: str
    devices: str
    active: bool = True
    fails: dict[str, VMForgeError] = field(default_factory=dict)
    gone: bool = False

    @property
    def uuid(self) -> str:
        return f"uuid-of-{self.name}"

    def state(self) -> DomainState:
        if self.gone:
            raise NotFoundError("it was undefined")
        return DomainState(state="running" if self.active else "shutoff", active=self.active, io_error=False)

    def spec(self) -> Any:
        return parse_domain(f"<domain><name>{self.name}</name><devices>{self.devices}</devices></domain>")

    def agent_connected(self) -> bool:
        return AGENT in self.devices

    def block_info(self, disk: Disk) -> BlockInfo:
        if disk.target in self.fails:
            raise self.fails[disk.target]
        return BlockInfo(capacity=1000, allocation=10)

    def source_path(self, disk: Disk) -> str:
        return disk.source


@dataclass
class FakeHypervisor:
    all: list[FakeDomain]
    supported: bool = True
    uri: str = "qemu:///system"

    def domains(self) -> list[FakeDomain]:
        return sorted(self.all, key=lambda domain: domain.name)

    def find(self, name: str) -> FakeDomain:
        found = [domain for domain in self.all if name in (domain.name, domain.uuid)]
        if len(found) > 1:
            raise InputError("two", code="ambiguous")
        if not found:
            raise NotFoundError("none")
        return found[0]

    def check_backup_support(self) -> None:
        if not self.supported:
            raise HypervisorError("libvirt 5 is too old.", code="no_backup_support")

    def versions(self) -> dict[str, str]:
        return {"libvirt": "9.0.0", "qemu": "7.2.0"}


def ask(*domains: FakeDomain, vm: list[str] | None = None, supported: bool = True) -> dict[str, Any]:
    fake = FakeHypervisor(list(domains), supported)
    outcome = list_vms(Request(params={"uri": fake.uri, "vm": vm}), connect=lambda _uri: fake)
    assert not outcome.changed
    return dict(outcome.values)


def test_a_healthy_domain_has_no_obstacle() -> None:
    [vm] = ask(FakeDomain("web", DISK.format("vda", "") + CDROM + AGENT))["vms"]
    assert vm["backup_possible"]
    assert vm["agent"] == {"configured": True, "connected": True}
    assert [(disk["target"], disk["size"], disk["excluded"]) for disk in vm["disks"]] == [
        ("vda", 1000, None),
        ("sda", None, "cdrom"),
    ]


@pytest.mark.parametrize(
    ("devices", "active", "said"),
    [
        (CDROM, True, "no disk that a backup could hold"),
        ("", False, "no disk that a backup could hold"),
        (DISK.format("vda", "<readonly/>"), True, "no disk that a backup could hold"),
        (NETWORK, False, "disk vdn: a disk of type network can only be read while the domain runs"),
        (DISK.format("vda", "<encryption/>"), True, "disk vda: it is encrypted"),
        (DISK.format("../etc", ""), True, "unusual target"),
    ],
)
def test_what_keeps_a_domain_from_being_backed_up_is_said(devices: str, active: bool, said: str) -> None:
    [vm] = ask(FakeDomain("web", devices, active=active))["vms"]
    assert not vm["backup_possible"]
    assert said in "; ".join(vm["obstacles"])


def test_a_missing_image_is_an_obstacle_of_that_disk_alone() -> None:
    fails: dict[str, VMForgeError] = {"vdb": HypervisorError("no such file")}
    broken = FakeDomain("web", DISK.format("vda", "") + DISK.format("vdb", ""), fails=fails)
    first, second = ask(broken, FakeDomain("xyz", DISK.format("vda", "")))["vms"]
    assert first["obstacles"] == ["disk vdb: no such file"]
    assert first["disks"][0]["size"] == 1000
    assert second["backup_possible"]


def test_an_excluded_disk_that_cannot_be_asked_is_no_obstacle() -> None:
    fails: dict[str, VMForgeError] = {"vdb": HypervisorError("no such file")}
    domain = FakeDomain("web", DISK.format("vda", "") + DISK.format("vdb", "<shareable/>"), fails=fails)
    [vm] = ask(domain)["vms"]
    assert vm["backup_possible"]


def test_names_that_no_domain_has_are_returned_and_no_error() -> None:
    web, db = FakeDomain("web", DISK.format("vda", "")), FakeDomain("db", DISK.format("vda", ""))
    answer = ask(web, db, vm=["web", "nope", "uuid-of-web"])
    assert [vm["name"] for vm in answer["vms"]] == ["web"]
    assert answer["not_found"] == ["nope"]
    assert [vm["name"] for vm in ask(web, db)["vms"]] == ["db", "web"]


def test_a_name_that_fits_two_domains_is_an_error() -> None:
    with pytest.raises(InputError):
        ask(FakeDomain("web", ""), FakeDomain("uuid-of-web", ""), vm=["uuid-of-web"])


def test_a_domain_that_went_away_meanwhile_is_left_out() -> None:
    assert ask(FakeDomain("web", "", gone=True))["vms"] == []


def test_a_libvirt_that_cannot_back_up_is_an_obstacle_of_all() -> None:
    answer = ask(FakeDomain("web", DISK.format("vda", "")), supported=False)
    assert answer["vms"][0]["obstacles"] == ["libvirt 5 is too old."]
    assert answer["hypervisor"] == {
        "libvirt": "9.0.0",
        "qemu": "7.2.0",
        "uri": "qemu:///system",
        "backup_supported": False,
    }
