# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of an inventory, from the panel's tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Node:
    """A hypervisor.

    Attributes:
        name: As the panel calls it, and so the inventory.
        variables: ``vmforge_*``, and ``ansible_host`` where the panel knows an address.
    """

    name: str
    variables: Mapping[str, Any]


def address(url: Any) -> str | None:
    """The host in a node's ``mgmt_url``, which some write without a scheme; None where there is none."""
    text = str(url or "").strip()
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname
    except ValueError:
        return None


def panel_nodes(
    nodes: Iterable[Mapping[str, Any]], vms: Sequence[Mapping[str, Any]], *, without: Iterable[str] = ()
) -> list[Node]:
    """Make hosts of nodes.

    Args:
        nodes: Rows with ``id``, ``name``, ``mgmt_url`` and perhaps ``status``.
        vms: Rows with ``node_id``, ``uuid``, ``name`` and perhaps ``type``.
        without: Nodes with these states are left out.

    Raises:
        ValueError: Two nodes have one name.
    """
    left_out = set(without)
    found: dict[str, Node] = {}
    for row in sorted(nodes, key=lambda row: str(row["name"])):
        name = str(row["name"])
        if row.get("status") in left_out:
            continue
        if name in found:
            raise ValueError(f"Two nodes of the panel are called {name!r}. Rename one of them.")
        found[name] = Node(name, _variables(row, vms))
    return list(found.values())


def _variables(row: Mapping[str, Any], vms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    variables: dict[str, Any] = {
        "vmforge_node_id": row["id"],
        "vmforge_vms": sorted(
            (
                {"name": vm["name"], "uuid": vm["uuid"], "type": vm.get("type")}
                for vm in vms
                if vm["node_id"] == row["id"]
            ),
            key=lambda vm: (str(vm["name"]), str(vm["uuid"])),
        ),
    }
    if row.get("status") is not None:
        variables["vmforge_node_status"] = row["status"]
    host = address(row["mgmt_url"])
    return {**variables, "ansible_host": host} if host else variables
