# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Defining, starting and ending domains: what a restore asks of libvirt."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._deps import libvirt
from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError, NotFoundError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor

_POLL_SECONDS = 0.2


def find_domain(hypervisor: Hypervisor, uuid: str) -> Domain | None:
    """The domain with a UUID, if there is one."""
    return next((domain for domain in hypervisor.domains() if domain.uuid == uuid), None)


def secret_xml(domain: Domain) -> str:
    """The inactive definition with its secrets, to be able to go back to it."""
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    return domain.call("reading the whole definition of", lambda handle: str(handle.XMLDesc(flags)))


def define_domain(hypervisor: Hypervisor, xml: str, name: str) -> None:
    """Define a domain, or define it anew. Raises ``HypervisorError`` with libvirt's reason."""
    hypervisor.call(f"defining domain {name!r}", lambda connection: connection.defineXML(xml))


def undefine_domain(hypervisor: Hypervisor, uuid: str) -> None:
    """Take a definition away; its disks and firmware variables stay. One that is not there is fine."""

    def undefine(handle: Any) -> None:
        flags = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        handle.undefineFlags(
            flags | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        )

    try:
        Domain(hypervisor, uuid, uuid).call("undefining", undefine)
    except NotFoundError:
        return


def start_domain(hypervisor: Hypervisor, uuid: str, name: str) -> None:
    """Start a domain. Raises ``HypervisorError`` with libvirt's reason."""
    Domain(hypervisor, uuid, name).call("starting", lambda handle: handle.create())


def destroy_domain(hypervisor: Hypervisor, uuid: str, name: str) -> None:
    """Pull the plug of a domain that runs; one that does not, or is not there, is fine."""
    domain = Domain(hypervisor, uuid, name)
    try:
        if domain.state().active:
            domain.call("stopping", lambda handle: handle.destroy())
    except NotFoundError:
        return
    except HypervisorError:
        # It ended by itself meanwhile.
        if domain.state().active:
            raise


def discard_saved_state(domain: Domain) -> None:
    """Remove the saved memory of a domain: it belongs to other disks."""
    domain.call("removing the saved state of", lambda handle: handle.managedSaveRemove(0))


def wait_until_up(domain: Domain, *, has_agent: bool, seconds: int) -> None:
    """Wait until a domain has come up: its guest agent holds the channel or, without one, it still runs at the end.

    Raises:
        HypervisorError: It has not; with code ``not_booted``.
    """
    deadline = time.monotonic() + seconds
    while True:
        state = domain.state()
        if not state.active or state.state == "paused":
            raise HypervisorError(
                f"Domain {domain.name!r} was started and is {state.state} now. Its log in /var/log/libvirt/qemu says "
                "more.",
                code="not_booted",
            )
        if has_agent and domain.agent_connected():
            return
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    if has_agent:
        raise HypervisorError(
            f"The guest agent of domain {domain.name!r} did not answer within {seconds} seconds. Look at its console, "
            "or raise boot_timeout.",
            code="not_booted",
        )
