# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hypervisor: domains, their state, and libvirt's backup job, over a connection that outlives libvirtd."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Callable, TypeVar

from ansible_collections.vmforge.backup.plugins.module_utils._deps import libvirt, need
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import (
    Disk,
    DomainSpec,
    is_agent_connected,
    parse_domain,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError, InputError, NotFoundError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt_errors import (
    ignore_message,
    is_disconnect,
    translate,
)
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt_job import abort_job, socket_of_job
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt_values import (
    BlockInfo,
    DomainState,
    domain_state,
    version_text,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid

T = TypeVar("T")

DEFAULT_URI = "qemu:///system"
# virDomainBackupBegin came with libvirt 6.0; without incremental backup support in QEMU it is refused before 7.2.
_MIN_LIBVIRT = 6_000_000
# A domain that powers itself off during a job lets go of it only after half a minute (seen, libvirt 9.0).
_ABORT_SECONDS, _ABORT_AGAIN_SECONDS = 120.0, 2.0
_THAW_SECONDS = 30
_RECONNECT_SECONDS, _RECONNECT_PAUSE = 30.0, 0.5


class Hypervisor:
    """A connection to libvirt, opened again when libvirtd was restarted.

    Args:
        uri: libvirt's connection URI.

    Raises:
        DependencyError: libvirt's Python binding is missing.
    """

    def __init__(self, uri: str = DEFAULT_URI) -> None:
        need("libvirt")
        self.uri = uri
        self._connection: Any = None
        self._reached = False
        # libvirt prints every error to stderr by itself; ours say more.
        libvirt.registerErrorHandler(ignore_message, None)

    def connection(self) -> Any:
        """The live connection.

        Raises:
            HypervisorError: libvirt cannot be reached, or is too old.
        """
        try:
            # A variable of its own: another thread may find the connection dead at the same time.
            connection = self._connection
            if connection is None or not connection.isAlive():
                connection = self._connection = libvirt.open(self.uri)
                self._reached = True
        except libvirt.libvirtError as error:
            raise HypervisorError(
                f"Cannot reach libvirt at {self.uri}: {error.get_error_message()}. "
                "Is libvirtd (or virtqemud) running on this host?",
                code="libvirt_unreachable",
            ) from error
        return connection

    def close(self) -> None:
        """Close the connection, before a fork for instance; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # One that was lost is closed.
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    def call(self, what: str, work: Callable[[Any], T]) -> T:
        """Run ``work(connection)``, again when the connection was lost: a restart of libvirtd takes some seconds.

        Raises:
            HypervisorError: libvirt refused; says ``what`` failed and why.
        """
        deadline = time.monotonic() + _RECONNECT_SECONDS
        while True:
            try:
                return work(self.connection())
            except libvirt.libvirtError as error:
                if not is_disconnect(error) or time.monotonic() > deadline:
                    raise translate(what, error) from error
            except HypervisorError:
                # Never reached at all: an error. Away after it was there: being restarted.
                if not self._reached or time.monotonic() > deadline:
                    raise
            self._connection = None
            time.sleep(_RECONNECT_PAUSE)

    def versions(self) -> dict[str, str]:
        """The versions of ``libvirt`` and ``qemu``, as text."""
        library = self.call("asking for libvirt's version", lambda c: c.getLibVersion())
        qemu = self.call("asking for QEMU's version", lambda c: c.getVersion())
        return {"libvirt": version_text(library), "qemu": version_text(qemu)}

    def check_backup_support(self) -> None:
        """Raise ``HypervisorError`` when this libvirt cannot make pull backups."""
        driver = self.call("asking for the driver", lambda c: str(c.getType()))
        if driver != "QEMU":
            raise HypervisorError(f"{self.uri} is libvirt's {driver} driver; only QEMU domains can be backed up.")
        version = self.call("asking for libvirt's version", lambda c: c.getLibVersion())
        if version < _MIN_LIBVIRT or not hasattr(libvirt.virDomain, "backupBegin"):
            raise HypervisorError(
                f"libvirt {version_text(version)} on this host cannot back up running domains: 6.0 or newer is needed.",
                code="no_backup_support",
            )

    def domains(self) -> list[Domain]:
        """All domains, running or not, by name."""
        handles = self.call("listing domains", lambda c: c.listAllDomains(0))
        return sorted((Domain(self, handle.UUIDString(), handle.name()) for handle in handles), key=lambda d: d.name)

    def find(self, name_or_uuid: str) -> Domain:
        """Look a domain up by name or UUID; what looks like a UUID is looked up as both.

        Raises:
            NotFoundError: There is none; names those that exist.
            InputError: A name and a UUID match different domains.
        """
        everything = self.domains()
        wanted_uuid = canonical_uuid(name_or_uuid)
        found = [domain for domain in everything if domain.name == name_or_uuid or domain.uuid == wanted_uuid]
        if len(found) > 1:
            raise InputError(
                f"{name_or_uuid!r} is the name of one domain and the UUID of another on {self.uri}: "
                + ", ".join(f"{domain.name} ({domain.uuid})" for domain in found)
                + ". Use the UUID of the one with that name, or rename it.",
                code="ambiguous",
            )
        if not found:
            names = ", ".join(domain.name for domain in everything) or "none"
            raise NotFoundError(
                f"Domain {name_or_uuid!r} was not found on {self.uri}. Defined here: {names}.", code="vm_not_found"
            )
        return found[0]

    def volume_path(self, pool: str, volume: str) -> str:
        """The path of a storage volume."""
        return self.call(
            f"resolving volume {volume!r} of pool {pool!r}",
            lambda c: str(c.storagePoolLookupByName(pool).storageVolLookupByName(volume).path()),
        )

    def volume_info(self, pool: str, volume: str) -> BlockInfo:
        """Size and allocation of a storage volume."""
        _type, capacity, allocation = self.call(
            f"asking for volume {volume!r} of pool {pool!r}",
            lambda c: c.storagePoolLookupByName(pool).storageVolLookupByName(volume).info(),
        )
        return BlockInfo(capacity=capacity, allocation=allocation)


class Domain:
    """One domain, by UUID. Calls go through the hypervisor's connection and so outlive a restart of libvirtd."""

    def __init__(self, hypervisor: Hypervisor, uuid: str, name: str) -> None:
        self.hypervisor = hypervisor
        self.uuid = uuid
        self.name = name

    def call(self, what: str, work: Callable[[Any], T]) -> T:
        """Run ``work(virDomain)``. Raises ``HypervisorError``."""
        return self.hypervisor.call(f"{what} domain {self.name!r}", lambda c: work(c.lookupByUUIDString(self.uuid)))

    def state(self) -> DomainState:
        """What it is doing now."""
        (state, reason), active = self.call("asking for the state of", lambda d: (d.state(), bool(d.isActive())))
        return domain_state(state, reason, active=active)

    def xml(self, *, inactive: bool) -> str:
        """The definition, without secrets: libvirt leaves passwords out unless asked for them."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        return self.call("reading the definition of", lambda d: str(d.XMLDesc(flags)))

    def spec(self) -> DomainSpec:
        """The parsed definition: the live one of a running domain."""
        return parse_domain(self.xml(inactive=False))

    def has_saved_state(self) -> bool:
        """Whether its memory was saved when it stopped (managed save): its disks are then those of a running one."""
        return bool(self.call("asking for the saved state of", lambda d: d.hasManagedSaveImage(0)))

    def runtime_id(self) -> int:
        """libvirt's number of this run of the domain, -1 when it does not run."""
        return self.call("asking for the id of", lambda d: int(d.ID()))

    def block_info(self, disk: Disk) -> BlockInfo:
        """Size and allocation of a disk."""
        if disk.pool is not None:
            # By its target libvirt cannot tell it while the domain is off: "missing storage backend" (seen, 9.0).
            return self.hypervisor.volume_info(disk.pool, disk.source)
        what = f"asking for disk {disk.target} of"
        capacity, allocation, _physical = self.call(what, lambda d: d.blockInfo(disk.target, 0))
        return BlockInfo(capacity=capacity, allocation=allocation)

    def source_path(self, disk: Disk) -> str:
        """The path of a disk that lies in a file, a device or a storage volume."""
        if disk.pool is not None:
            return self.hypervisor.volume_path(disk.pool, disk.source)
        return disk.source

    def agent_connected(self) -> bool:
        """Whether a guest agent holds its channel open."""
        return is_agent_connected(self.xml(inactive=False))

    def freeze(self, *, timeout: int) -> int:
        """Freeze the guest's filesystems; the number frozen. The agent has ``timeout`` seconds to answer."""
        with self._agent_deadline(timeout):
            return self.call("freezing the filesystems of", lambda d: int(d.fsFreeze()))

    def thaw(self, *, timeout: int = _THAW_SECONDS) -> int:
        """Thaw the guest's filesystems; the number thawed. The agent has ``timeout`` seconds to answer."""
        with self._agent_deadline(timeout):
            return self.call("thawing the filesystems of", lambda d: int(d.fsThaw()))

    @contextlib.contextmanager
    def _agent_deadline(self, seconds: int) -> Iterator[None]:
        """Without one, libvirt waits for an agent's answer for good."""
        self.call("setting the agent's deadline of", lambda d: d.agentSetResponseTimeout(seconds, 0))
        try:
            yield
        finally:
            forever = libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK
            self.call("resetting the agent's deadline of", lambda d: d.agentSetResponseTimeout(forever, 0))

    def begin_backup(self, xml: str, checkpoint: str | None = None) -> None:
        """Start a backup job, and make a checkpoint of its instant.

        Raises:
            BusyError: Another job holds the domain.
            HypervisorError: Refused; with code ``bitmap_lost`` where a bitmap is not what it should be.
        """
        self.call("starting a backup of", lambda d: d.backupBegin(xml, checkpoint, 0))

    def backup_socket(self) -> str | None:
        """The NBD socket of the backup job that runs, ``""`` for a job without one, None when no job runs."""
        return self.call("asking for the backup job of", socket_of_job)

    def abort_backup(self) -> None:
        """End the backup job and wait until it is gone; a domain without one is fine.

        Raises:
            HypervisorError: The job did not end within two minutes.
        """
        job = self.backup_socket()
        deadline = time.monotonic() + _ABORT_SECONDS
        ask_again = 0.0
        # Another socket is that of another job, begun when this one had ended.
        while job is not None and self.backup_socket() == job:
            if time.monotonic() >= ask_again:
                # More than once: a libvirtd that dies right behind its answer forgets what it was asked for.
                self.call("aborting the backup of", abort_job)
                ask_again = time.monotonic() + _ABORT_AGAIN_SECONDS
            if time.monotonic() > deadline:
                raise HypervisorError(
                    f"The backup job of domain {self.name!r} did not end within {_ABORT_SECONDS:.0f} seconds. "
                    f"End it with: virsh domjobabort {self.name}"
                )
            time.sleep(0.02)

    def resume(self) -> None:
        """Let a paused domain run on."""
        self.call("resuming", lambda d: d.resume())
