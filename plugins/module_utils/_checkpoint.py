# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints in libvirt, and the bitmaps behind them.

libvirt knows our checkpoints only while they are needed: a domain that has any cannot be undefined, and more. The
bitmaps stay in the images and go on recording. All that is done here was seen with libvirt 9.0.
"""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint_xml import (
    checkpoint_xml,
    created_at,
    is_checkpoint_of,
)
from ansible_collections.vmforge.backup.plugins.module_utils._deps import libvirt
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    BusyError,
    HypervisorError,
    NotFoundError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain


class Checkpoints:
    """Those that we made of one domain. Others' are left alone.

    Args:
        domain: Which.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def known(self) -> list[str]:
        """Names of ours that libvirt knows now."""
        handles = self._domain.call("listing the checkpoints of", lambda d: d.listAllCheckpoints(0))
        return [name for name in (handle.getName() for handle in handles) if is_checkpoint_of(name, self._domain.uuid)]

    def forget(self, *, but: str | None = None) -> None:
        """Let libvirt forget ours. Their bitmaps stay and record. Works also while the domain is off or has a job.

        Args:
            but: One that it shall still know.
        """
        for name in self.known():
            if name == but:
                continue
            try:
                self._delete(name, libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
            except NotFoundError:
                # Another thread, or its domain went away.
                continue

    def xml(self, name: str) -> str:
        """A checkpoint that libvirt knows, with the definition of its domain; without secrets."""
        return self._domain.call("reading a checkpoint of", lambda d: str(d.checkpointLookupByName(name).getXMLDesc(0)))

    def define(self, name: str, targets: Iterable[str], *, validate: bool = True) -> None:
        """Make a checkpoint known to libvirt whose bitmaps are there already. Replaces one of this name.

        Args:
            targets: Disks that have its bitmap.
            validate: Have libvirt ask QEMU whether they are there, whole, and record; only while the domain runs.

        Raises:
            HypervisorError: Code ``bitmap_lost``: one is not.
        """
        xml = checkpoint_xml(name, targets, created=created_at(name))
        flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
        if validate:
            flags |= libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
        self._domain.call("defining a checkpoint of", lambda d: d.checkpointCreateXML(xml, flags))

    def missing(self, name: str, targets: Iterable[str]) -> dict[str, str]:
        """Which disks of a running domain have not the bitmap of a checkpoint, and why."""
        found: dict[str, str] = {}
        try:
            for target in targets:
                try:
                    self.define(name, [target])
                except HypervisorError as error:
                    lost = error.code == "bitmap_lost"
                    found[target] = f"its bitmap {name} is missing or broken" if lost else error.message
        finally:
            self.forget()
        return found

    def remove(self, name: str, targets: Iterable[str]) -> list[str]:
        """Remove a checkpoint's bitmaps from disks of a running domain, also those that are broken.

        Returns:
            What libvirt says of those that could not be removed.
        """
        problems: list[str] = []
        try:
            for target in targets:
                try:
                    self.define(name, [target], validate=False)
                    self._delete(name, 0)
                except (HypervisorError, BusyError) as error:
                    problems.append(error.message)
        finally:
            # Whatever happened: a domain of which libvirt knows a checkpoint cannot be undefined.
            self.forget()
        return problems

    def remove_if_there(self, name: str, targets: Iterable[str]) -> list[str]:
        """The same for bitmaps of which nobody can say whether they are there."""
        wanted = list(targets)
        absent = self.missing(name, wanted)
        return self.remove(name, [target for target in wanted if target not in absent])

    def _delete(self, name: str, flags: int) -> None:
        self._domain.call("deleting a checkpoint of", lambda d: d.checkpointLookupByName(name).delete(flags))
