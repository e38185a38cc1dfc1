# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes are shown by the names that the inventory has for them, whatever their backups call them."""

from __future__ import annotations

import socket
from collections.abc import Mapping

_THIS_HOST = "localhost"


def node_of(host: str, name: str | None = None) -> str:
    """What the backups of a host call its node.

    Args:
        host: As the inventory calls it.
        name: What it was told to call itself; None or empty where nobody said anything.
    """
    return name or (socket.gethostname() if host == _THIS_HOST else host)


def hosts_by_node(names: Mapping[str, str | None]) -> dict[str, str]:
    """Node -> host, for what is shown: host -> what it was told to call itself. A node that no host is stays out."""
    return {node_of(host, name): host for host, name in names.items()}
