# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All backups of one machine, for the tables and for plans of retention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._prune_plan import VmListing, gather
from ansible_collections.vmforge.backup.plugins.module_utils._retention import Decision, plan_prune
from vmforge_backup_ui.entries import Backup, depths, newest_first
from vmforge_backup_ui.kept import Kept


class History:
    """They never change; another state of the machine is another history.

    Attributes:
        backups: Newest first.
    """

    def __init__(self, backups: Iterable[Backup] = ()) -> None:
        self.backups = tuple(newest_first(backups))
        self._plans: Kept[dict[str, Decision]] = Kept(2)

    @cached_property
    def depths(self) -> dict[str, int]:
        """How many backups each one builds on, by id."""
        return depths(self.backups)

    @cached_property
    def _listings(self) -> list[VmListing]:
        by_node: dict[str, list[Mapping[str, Any]]] = {}
        for backup in self.backups:
            if backup.id is not None:
                by_node.setdefault(str(backup.entry["vm"]["node"]), []).append(backup.entry)
        listings = [{"node": node, "backups": entries} for node, entries in by_node.items()]
        return list(gather(listings, None, missing=(), ignored=()).vms.values())

    def decide(self, policy: Policy, *, now: datetime) -> Mapping[str, Decision]:
        """What a prune by this policy does, by id, newest first; VMForgeError where it does nothing.

        It is worked out once a minute.
        """
        minute = now.replace(second=0, microsecond=0)
        return self._plans.get(policy, minute, lambda: self._decide(policy, now))

    def _decide(self, policy: Policy, now: datetime) -> dict[str, Decision]:
        known = [backup for listing in self._listings for backup in listing.backups(now=now)]
        return {decision.backup.id: decision for decision in plan_prune(known, policy, now=now).decisions}
