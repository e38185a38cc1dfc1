# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What retention will do next with the backups of a machine, and why; and what another policy would change. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy, effective
from ansible_collections.vmforge.backup.plugins.module_utils._retention import Decision
from vmforge_backup_ui.entries import Backup, Machine
from vmforge_backup_ui.history import History

WIDTH = 1000


@dataclass(frozen=True)
class Forecast:
    """What the next prune does.

    Attributes:
        fates: By id. Empty where nothing is pruned at all, and then ``problem`` says why.
        policy: What holds, resolved; ``sources`` tells where each value comes from.
    """

    fates: Mapping[str, Decision] = field(default_factory=dict)
    policy: Policy | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def kept(self) -> list[str]:
        """Ids of those that stay, newest first."""
        return [backup_id for backup_id, fate in self.fates.items() if fate.keep]

    @property
    def doomed(self) -> list[str]:
        """Ids of those that go, newest first."""
        return [backup_id for backup_id, fate in self.fates.items() if not fate.keep]

    def bytes(self, *, keep: bool) -> int:
        """Of all those that stay, or that go."""
        return sum(fate.backup.size for fate in self.fates.values() if fate.keep is keep)


@dataclass(frozen=True)
class Change:
    """What another policy would do otherwise.

    Attributes:
        lost: Ids that it would let go and that stay today; ``saved`` is the reverse.
        asks: Whether the next prune would want to be confirmed.
    """

    before: Forecast
    after: Forecast
    lost: tuple[str, ...]
    saved: tuple[str, ...]

    @property
    def asks(self) -> bool:
        """Whether the next prune stops until somebody confirms: it would delete more than it keeps."""
        return len(self.after.doomed) > len(self.after.kept)


@dataclass(frozen=True)
class Mark:
    """A backup on the line of time; ``x`` goes from 0 to 1000, the oldest first."""

    id: str
    x: float
    moment: datetime
    keep: bool | None
    incremental: bool
    held: bool
    text: str


def forecast(
    machine: Machine,
    history: History,
    row: Mapping[str, Any] | None,
    variables: tuple[Mapping[str, Any] | None, Mapping[str, Any]],
    *,
    now: datetime,
) -> Forecast:
    """Plan the next prune as the playbook does, from what the catalogue says.

    Args:
        row: Of ``backup_policies``; None without one.
        variables: Those of this machine and those of all.
    """
    own, everybody = variables
    try:
        policy, sources = effective(row, own, everybody)
    except VMForgeError as error:
        return Forecast(problem=error.message)
    if not machine.known:
        return Forecast(
            policy=policy,
            sources=sources,
            problem="The panel does not have this machine any more, so nothing is pruned unless libvirt has it.",
        )
    try:
        fates = history.decide(policy, now=now)
    except VMForgeError as error:
        return Forecast(policy=policy, sources=sources, problem=error.message)
    return Forecast(fates, policy, sources)


def compare(before: Forecast, after: Forecast) -> Change:
    """What changes from one policy to the other."""
    stays, will_stay = set(before.kept), set(after.kept)
    return Change(
        before,
        after,
        lost=tuple(backup_id for backup_id in after.doomed if backup_id in stays),
        saved=tuple(backup_id for backup_id in before.doomed if backup_id in will_stay),
    )


def marks(backups: Sequence[Backup], plan: Forecast, *, now: datetime, most: int = 500) -> list[Mark]:
    """The newest backups on a line from the oldest of them to now."""
    shown = [backup for backup in backups if backup.id and backup.status == "ready"][:most]
    if not shown:
        return []
    first = min(backup.moment for backup in shown)
    span = max((now - first) / timedelta(seconds=1), 1.0)
    found = []
    for backup in reversed(shown):
        fate = plan.fates.get(str(backup.id))
        share = min(max((backup.moment - first) / timedelta(seconds=1) / span, 0.0), 1.0)
        says = "; ".join(fate.reasons) if fate else "not decided"
        word = "stays" if fate and fate.keep else "goes" if fate else ""
        found.append(
            Mark(
                id=str(backup.id),
                x=round(share * WIDTH, 1),
                moment=backup.moment,
                keep=fate.keep if fate else None,
                incremental=backup.parent is not None,
                held=backup.hold is not None,
                text=f"{backup.id} {word}: {says}",
            )
        )
    return found
