# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's nodes as hosts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.plugin_utils._panel_inventory import address, panel_nodes

VMS = [
    {"node_id": 1, "uuid": "u2", "name": "web2", "type": "kvm"},
    {"node_id": 1, "uuid": "u1", "name": "web1", "type": "lxc"},
    {"node_id": 2, "uuid": "u3", "name": "mail"},
]


def row(number: int, name: str, url: Any = "https://h", **more: Any) -> dict[str, Any]:
    return {"id": number, "name": name, "mgmt_url": url, **more}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://node1", "node1"),
        ("https://node1.example.com:8443/api?x=1", "node1.example.com"),
        ("http://10.0.0.5:9000", "10.0.0.5"),
        ("https://[2001:db8::1]:8443", "2001:db8::1"),
        ("https://user:pw@node1", "node1"),
        ("node1:8443", "node1"),
        ("", None),
        (None, None),
        ("https://", None),
        ("https://[x", None),
    ],
)
def test_the_address_of_a_node(url: Any, host: str | None) -> None:
    assert address(url) == host


@given(st.text())
def test_any_url_has_an_address_or_none(url: str) -> None:
    assert address(url) != ""


def test_nodes_have_their_machines_in_order() -> None:
    first, second = panel_nodes([row(2, "b", ""), row(1, "a", status="online")], VMS)
    assert (first.name, second.name) == ("a", "b")
    assert first.variables == {
        "vmforge_node_id": 1,
        "vmforge_node_status": "online",
        "vmforge_vms": [
            {"name": "web1", "uuid": "u1", "type": "lxc"},
            {"name": "web2", "uuid": "u2", "type": "kvm"},
        ],
        "ansible_host": "h",
    }
    assert second.variables["vmforge_vms"] == [{"name": "mail", "uuid": "u3", "type": None}]
    assert not {"ansible_host", "vmforge_node_status"} & set(second.variables)


def test_states_can_be_left_out_and_names_must_differ() -> None:
    nodes = [row(1, "a", status="offline"), row(2, "a", status="online"), row(3, "b")]
    assert [node.name for node in panel_nodes(nodes, [], without=["offline"])] == ["a", "b"]
    with pytest.raises(ValueError, match="called 'a'"):
        panel_nodes(nodes, [])
