# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The XML of a backup job: every disk is named, and nothing in a path can break out of its attribute."""

from __future__ import annotations

from xml.etree import ElementTree

from ansible_collections.vmforge.backup.plugins.module_utils._backup_xml import backup_xml, job_socket

SOCKET = "/var/lib/libvirt/qemu/domain-1-a'b<c>&\"d/vmforge-20261122T151200Z"


def test_every_disk_is_named() -> None:
    scratch = {"vda": "/s/a.scratch", "vdb": "/s/<b>&.scratch"}
    root = ElementTree.fromstring(backup_xml(socket=SOCKET, scratch=scratch, left_out=["sda"]))
    assert root.attrib == {"mode": "pull"}
    disks = {node.get("name"): node for node in root.findall("disks/disk")}
    assert {name: node.get("backup") for name, node in disks.items()} == {"vda": "yes", "vdb": "yes", "sda": "no"}
    for target, path in scratch.items():
        node = disks[target]
        assert (node.get("type"), node.get("exportname")) == ("file", target)
        found = node.find("scratch")
        assert found is not None
        assert found.get("file") == path
    assert disks["sda"].find("scratch") is None


def test_the_socket_is_read_back() -> None:
    assert job_socket(backup_xml(socket=SOCKET, scratch={"vda": "/s"}, left_out=[])) == SOCKET


def test_a_job_of_another_kind_has_no_socket() -> None:
    assert job_socket("<domainbackup mode='push'><disks/></domainbackup>") is None
    tcp = "<domainbackup mode='pull'><server transport='tcp' name='localhost' port='10809'/></domainbackup>"
    assert job_socket(tcp) is None
