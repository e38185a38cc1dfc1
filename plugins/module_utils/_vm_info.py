# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the domains of a hypervisor are, and why one could not be backed up. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk, DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    HypervisorError,
    NotFoundError,
    VMForgeError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import DEFAULT_URI, Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt_values import BlockInfo, DomainState
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._options import checked_names

VM_INFO_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vm": {"type": "list", "elements": "str"},
    "uri": {"type": "str", "default": DEFAULT_URI},
}


def list_vms(request: Request, connect: Callable[[str], Hypervisor] = Hypervisor) -> Outcome:
    """Describe the domains asked for, or all of them.

    Returns:
        ``vms`` by name, ``not_found``: names that no domain here has, and ``hypervisor``.

    Raises:
        HypervisorError: libvirt cannot be reached or does not answer.
        InputError: A name fits two domains.
    """
    hypervisor = connect(request.params["uri"])
    domains, not_found = _select(hypervisor, checked_names(request.params["vm"]))
    unsupported = _unsupported(hypervisor)
    described = (_describe(domain, unsupported) for domain in domains)
    return Outcome(
        changed=False,
        values={
            "vms": [vm for vm in described if vm is not None],
            "not_found": not_found,
            "hypervisor": dict(hypervisor.versions(), uri=hypervisor.uri, backup_supported=unsupported is None),
        },
    )


def _select(hypervisor: Hypervisor, names: tuple[str, ...]) -> tuple[list[Domain], list[str]]:
    """The domains by name, each once, and the names that none has: no error, for many nodes may be asked."""
    if not names:
        return hypervisor.domains(), []
    chosen: dict[str, Domain] = {}
    not_found: list[str] = []
    for name in names:
        try:
            domain = hypervisor.find(name)
        except NotFoundError:
            not_found.append(name)
        else:
            chosen[domain.uuid] = domain
    return sorted(chosen.values(), key=lambda domain: domain.name), not_found


def _unsupported(hypervisor: Hypervisor) -> str | None:
    """Why nothing here can be backed up, such as a libvirt that is too old, or one of containers."""
    try:
        hypervisor.check_backup_support()
    except HypervisorError as error:
        if error.code == "libvirt_unreachable":
            raise
        return error.message
    return None


def _describe(domain: Domain, unsupported: str | None) -> dict[str, Any] | None:
    """One domain; None for one that was undefined since the domains were listed."""
    try:
        state = domain.state()
        connected = state.active and domain.agent_connected()
        obstacles = [unsupported] if unsupported else []
        disks: list[dict[str, Any]] = []
        agent = False
        try:
            spec = domain.spec()
        except FormatError as error:
            obstacles.append(error.message)
        else:
            agent = spec.agent
            disks = [_describe_disk(domain, disk, state) for disk in spec.disks]
            obstacles += _obstacles(spec, disks)
    except NotFoundError:
        return None
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "state": state.state,
        "active": state.active,
        "agent": {"configured": agent, "connected": connected},
        "disks": disks,
        "obstacles": obstacles,
        "backup_possible": not obstacles,
    }


def _obstacles(spec: DomainSpec, disks: Iterable[dict[str, Any]]) -> list[str]:
    found = [f"disk {disk['target']}: {disk['obstacle']}" for disk in disks if disk["obstacle"]]
    if not spec.included:
        found.append("it has no disk that a backup could hold")
    return found


def _describe_disk(domain: Domain, disk: Disk, state: DomainState) -> dict[str, Any]:
    obstacle = disk.obstacle(running=state.active)
    source, info = disk.source, None
    if obstacle is None and source:
        try:
            source, info = domain.source_path(disk), domain.block_info(disk)
        except NotFoundError:
            raise
        except VMForgeError as error:
            # An image that is not there, or a storage pool that is off: the other disks are described all the same.
            obstacle = None if disk.excluded else error.message
    if obstacle is None and disk.encrypted and not disk.excluded:
        obstacle = (
            "it is encrypted, and a backup holds its plain text: allow_plaintext (with the playbooks: "
            "vmforge_backup_allow_plaintext) permits that while it runs"
        )
    return _disk_values(disk, source, info, obstacle)


def _disk_values(disk: Disk, source: str, info: BlockInfo | None, obstacle: str | None) -> dict[str, Any]:
    return {
        "target": disk.target,
        "type": disk.type,
        "format": disk.format,
        "source": source or None,
        "size": info.capacity if info else None,
        "allocation": info.allocation if info else None,
        "encrypted": disk.encrypted,
        "excluded": disk.excluded,
        "obstacle": obstacle,
    }
