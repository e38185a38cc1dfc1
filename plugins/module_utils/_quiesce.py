# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezing a guest's file systems while a backup job begins, and thawing them whatever has happened."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._freeze import ThawWatchdog
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain

# What an agent's own "no" is called; all else says nothing of the guest.
_ANSWERED = ("hypervisor", "unsupported")


@dataclass
class Quiesce:
    """Of one running domain.

    Args:
        watchdog: Thaws when this process cannot; None leaves the guest as it is.
        timeout: Seconds for the agent's answer.
        warnings: Takes what went wrong.
    """

    domain: Domain
    watchdog: ThawWatchdog | None
    timeout: int
    warnings: list[str]

    def freeze(self) -> int | None:
        """The number of file systems frozen; None when nothing was attempted and nothing needs a thaw."""
        if self.watchdog is None:
            return None
        if self.domain.state().state != "running" or not self.domain.agent_connected():
            return None
        self.watchdog.arm()
        try:
            return self.domain.freeze(timeout=self.timeout)
        except VMForgeError as error:
            self.warnings.append(f"The guest's file systems could not be frozen: {error}")
            if error.code != "agent_silent" and self._is_thawed():
                self.watchdog.disarm()
                return None
            # The guest may have frozen some, or will in a moment: thawed all the same.
            return 0

    def thaw(self) -> int:
        """The number thawed. The watchdog stays armed until a thaw has answered."""
        try:
            thawed = self.domain.thaw()
        except VMForgeError as error:
            self.warnings.append(f"The guest's file systems could not be thawed at once; it is tried on: {error}")
            return 0
        if self.watchdog is not None:
            self.watchdog.disarm()
        return thawed

    def _is_thawed(self) -> bool:
        """Make sure of it: the freeze may have been done, and only its answer lost with a libvirtd that restarted.

        An agent that cannot freeze cannot thaw either, and says so.
        """
        try:
            self.domain.thaw()
        except VMForgeError as error:
            return error.code in _ANSWERED
        return True
