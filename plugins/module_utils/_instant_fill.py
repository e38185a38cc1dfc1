# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fills the disks of a machine that runs on overlays.

That nothing stands under an image any more does not show that it is whole: QEMU says so before it has written the
image's tables, and may die in between. Whole is what was seen on disk while the QEMU that filled it was alive, and was
noted then; whatever else says so is put over the backup again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.vmforge.backup.plugins.module_utils._define import (
    define_domain,
    destroy_domain,
    find_domain,
    secret_xml,
    start_domain,
)
from ansible_collections.vmforge.backup.plugins.module_utils._domain_sockets import make_socket_directory, put_under
from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError
from ansible_collections.vmforge.backup.plugins.module_utils._instant_domain import (
    begin_pull,
    pulled_bytes,
    reads_from,
    settle,
    unfilled_bytes,
)
from ansible_collections.vmforge.backup.plugins.module_utils._instant_record import InstantDisk, InstantRecord
from ansible_collections.vmforge.backup.plugins.module_utils._instant_serve import IncompleteError, is_open, serve
from ansible_collections.vmforge.backup.plugins.module_utils._instant_xml import on_exports, on_its_own
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress
from ansible_collections.vmforge.backup.plugins.module_utils._services import Services

_POLL_SECONDS, _TELL_SECONDS, _RESUME_SECONDS = 0.2, 1.0, 5.0
# Without any progress: an S3 that is away is waited for about as long by what serves it.
_PATIENCE = 900.0


@dataclass
class Filling:
    """One machine's disks, with its locks held.

    Attributes:
        warnings: What people should know.
    """

    record: InstantRecord
    hypervisor: Hypervisor
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._domain = Domain(self.hypervisor, self.record.uuid, self.record.name)
        self._services = Services(self.record.directory)
        self._resumed = 0.0

    def attach(self) -> None:
        """Have all run that is needed, after whatever has happened.

        Raises:
            IncompleteError: Its machine was started on a disk that has lost what was under it.
        """
        left = self._left()
        if not left:
            return
        domain, record = self._domain, self.record
        active = domain.state().active
        self._refuse_what_was_lost(left, active=active)
        make_socket_directory(record.name)
        cut_off = False
        for disk in left.values():
            for number, service in enumerate(disk.services):
                if not self._services.running(service):
                    cut_off = cut_off or service == disk.services[-1]
                    serve(self._services, disk, number)
        if active and cut_off:
            self.warnings.append(f"{record.name!r} was cut off from the backup, and had to be started anew.")
            destroy_domain(self.hypervisor, record.uuid, record.name)
            active = False
        if not active:
            self._start(left)
        elif record.settling and domain.state().state == "paused":
            domain.resume()
        record.runtime, record.settling = domain.runtime_id(), False
        record.write()

    def pull(self, progress: Progress) -> None:
        """Fill what is left.

        Raises:
            IncompleteError: The disks are not whole, and what serves them or the machine itself has stopped.
        """
        left = self._left()
        progress.enter("pulling", total=sum(disk.size for disk in left.values()))
        at: dict[str, int] = dict.fromkeys(left, 0)
        why, told, moved = "its disks were not filled", 0.0, time.monotonic()
        while left:
            now = time.monotonic()
            self._look_after(left, now)
            # One after the other: QEMU has crashed where two were filled at once (7.2).
            for target, disk in list(left.items())[:1]:
                try:
                    position = self._push(target, disk)
                except HypervisorError as error:
                    # The job is ending just now, or the machine is; the next turn knows.
                    why, position = error.message.rstrip("."), None
                if disk.whole:
                    del left[target]
                    position = disk.size
                if position is not None and position > at[target]:
                    progress.advance(position - at[target])
                    at[target], moved = position, now
            if now - moved > _PATIENCE:
                raise IncompleteError(self.record.name, f"nothing has moved for {_PATIENCE:.0f} seconds ({why})")
            if now - told > _TELL_SECONDS:
                told = now
                progress.write()
            time.sleep(_POLL_SECONDS if left else 0)

    def _left(self) -> dict[str, InstantDisk]:
        return {target: disk for target, disk in self.record.disks.items() if not disk.whole}

    def _refuse_what_was_lost(self, left: Mapping[str, InstantDisk], *, active: bool) -> None:
        if not active or self._domain.runtime_id() == self.record.runtime:
            return
        for disk in left.values():
            if not is_open(disk) and not reads_from(self._domain, disk.socket):
                raise IncompleteError(
                    self.record.name,
                    f"it was started anew, and nothing shows that all of {disk.path} was on disk when it ended before; "
                    "stop it, for what it reads there may be wrong",
                )

    def _start(self, left: Mapping[str, InstantDisk]) -> None:
        """Start it, on the exports where a disk is not whole, whatever its image and libvirt say."""
        record = self.record
        for disk in left.values():
            if not is_open(disk):
                put_under(disk.path, disk.socket)
        whole = {target: disk.policies for target, disk in record.disks.items() if disk.whole}
        xml = on_its_own(secret_xml(self._domain), whole)
        xml = on_exports(xml, {target: disk.socket for target, disk in left.items()})
        define_domain(self.hypervisor, xml, record.name)
        start_domain(self.hypervisor, record.uuid, record.name)

    def _push(self, target: str, disk: InstantDisk) -> int | None:
        """Have a disk filled; how far that is, None where nothing fills it now."""
        if self.record.settling and self._domain.state().state == "paused":
            # libvirt went away while we held it.
            self._domain.resume()
        position = pulled_bytes(self._domain, target)
        if position is not None:
            return position
        if is_open(disk) or reads_from(self._domain, disk.socket):
            begin_pull(self._domain, target)
            return None
        self.record.settling = True
        self.record.write()
        settled = settle(self._domain)
        self.record.settling = False
        if not settled:
            raise HypervisorError(f"{self.record.name!r} is paused; only while it runs its disks can be finished.")
        if self._domain.runtime_id() == self.record.runtime:
            missing = unfilled_bytes(disk.path, disk.socket)
            if missing:
                raise IncompleteError(
                    self.record.name,
                    f"QEMU calls {disk.path} filled, but {missing} bytes are not there; stop it",
                )
            disk.whole = True
        self.record.write()
        return None

    def _look_after(self, left: Mapping[str, InstantDisk], now: float) -> None:
        """Keep its helpers alive, and itself."""
        record = self.record
        if find_domain(self.hypervisor, record.uuid) is None:
            raise IncompleteError(record.name, "it is not defined any more")
        state = self._domain.state()
        if not state.active:
            raise IncompleteError(record.name, "it was stopped before all of its disks were there")
        if self._domain.runtime_id() != record.runtime:
            raise IncompleteError(record.name, "it was started anew before all of its disks were there")
        for disk in left.values():
            for number, service in enumerate(disk.services):
                if self._services.running(service):
                    continue
                if not service.revived:
                    raise IncompleteError(record.name, f"what serves its disk {disk.path} has died")
                serve(self._services, disk, number)
        if state.io_error and now - self._resumed > _RESUME_SECONDS:
            self._resumed = now
            self._domain.resume()
