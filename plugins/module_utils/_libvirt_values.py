# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt says of domains, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.vmforge.backup.plugins.module_utils._deps import libvirt


@dataclass(frozen=True)
class DomainState:
    """``state`` is one of libvirt's words; ``io_error`` marks a pause that QEMU made because a write failed."""

    state: str
    active: bool
    io_error: bool


@dataclass(frozen=True)
class BlockInfo:
    """Bytes: what the guest sees, and what is allocated on the host (0 where libvirt cannot tell)."""

    capacity: int
    allocation: int


def domain_state(state: int, reason: int, *, active: bool) -> DomainState:
    """The state that libvirt tells in numbers."""
    names: Mapping[int, str] = {
        libvirt.VIR_DOMAIN_RUNNING: "running",
        libvirt.VIR_DOMAIN_BLOCKED: "blocked",
        libvirt.VIR_DOMAIN_PAUSED: "paused",
        libvirt.VIR_DOMAIN_SHUTDOWN: "shutdown",
        libvirt.VIR_DOMAIN_SHUTOFF: "shutoff",
        libvirt.VIR_DOMAIN_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
    }
    word = names.get(state, "unknown")
    io_error = state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR
    # Not from the word: a crashed one whose QEMU was preserved still has its disks open.
    return DomainState(state=word, active=active, io_error=io_error)


def version_text(number: int) -> str:
    """A version that libvirt tells as a number: ``9.0.0``."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
