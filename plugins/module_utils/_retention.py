# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups of one VM to keep, and why. Pure: no clock, no files, no libvirt.

The rules are those of ``restic forget``: each keeps the newest backup of each of its most recent periods that have one,
and they add up. Then the age cap, then the size cap; then what nothing may delete is kept all the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Callable
from zoneinfo import ZoneInfo

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import ANCESTOR, Backup, Chains
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, PolicyError
from ansible_collections.vmforge.backup.plugins.module_utils._model import MAX_CLOCK_AHEAD
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy

GIB = 1 << 30
NOT_WANTED = "no rule keeps it"
# Name of a rule, the policy's field, and what of a local time names its period.
_PERIODS: tuple[tuple[str, str, Callable[[datetime], tuple[int, ...]], str], ...] = (
    ("daily", "keep_daily", lambda local: (local.year, local.month, local.day), "{:04}-{:02}-{:02}"),
    ("weekly", "keep_weekly", lambda local: tuple(local.isocalendar()[:2]), "{:04}-W{:02}"),
    ("monthly", "keep_monthly", lambda local: (local.year, local.month), "{:04}-{:02}"),
    ("yearly", "keep_yearly", lambda local: (local.year,), "{:04}"),
)
# What a backup is kept for whatever the caps say.
_FIRM = ("newest good", "held", "in the future", "bad")


@dataclass(frozen=True)
class Decision:
    """What becomes of a backup.

    Attributes:
        reasons: Every rule that keeps it, as ``daily 2026-11-20``; or why it goes.
    """

    backup: Backup
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class PrunePlan:
    """What becomes of all backups of a VM, newest first."""

    decisions: tuple[Decision, ...]

    @property
    def kept(self) -> tuple[Backup, ...]:
        """Those that stay."""
        return tuple(decision.backup for decision in self.decisions if decision.keep)

    @property
    def deleted(self) -> tuple[Backup, ...]:
        """Those that go, newest first, so that a child goes before its parent."""
        return tuple(decision.backup for decision in self.decisions if not decision.keep)

    def rules(self) -> dict[str, dict[str, int]]:
        """How many backups and bytes each rule keeps; a backup that several keep counts for each."""
        totals: dict[str, dict[str, int]] = {}
        for decision in self.decisions:
            names = dict.fromkeys(_rule_of(reason) for reason in decision.reasons) if decision.keep else {}
            for name in names:
                total = totals.setdefault(name, {"count": 0, "bytes": 0})
                total["count"] += 1
                total["bytes"] += decision.backup.size
        return totals


def plan_prune(backups: Sequence[Backup], policy: Policy, *, now: datetime) -> PrunePlan:
    """Decide which backups of one VM to keep.

    Args:
        backups: Of a single VM, from all places, in any order, each once.
        policy: Counts are numbers of periods, 0 for none; sizes are GiB; ages are days.
        now: An aware time.

    Raises:
        PolicyError: The policy would keep nothing, has a value that it cannot have, or an unknown zone.
    """
    _check(policy)
    zone = find_zone(policy.timezone)
    newest_first = sorted(backups, key=lambda backup: (backup.instant, backup.id, backup.node), reverse=True)
    chains = Chains(newest_first)
    past = [backup for backup in newest_first if backup.instant - now <= MAX_CLOCK_AHEAD]
    good = [backup for backup in past if chains.flaw(backup) is None]
    reasons: dict[Backup, list[str]] = {backup: [] for backup in newest_first}
    _apply_rules(good, policy, zone, reasons)
    doomed = _apply_age(reasons, policy, now=now)
    _protect(newest_first, good, past, policy, chains, reasons)
    chains.keep_ancestors(reasons)
    doomed.update(_apply_size(newest_first, policy, chains, reasons))
    return PrunePlan(
        tuple(
            Decision(backup, bool(kept), tuple(kept) if kept else (doomed.get(backup) or _why_not(backup, chains),))
            for backup, kept in ((backup, reasons[backup]) for backup in newest_first)
        )
    )


def plan_deletion(backups: Sequence[Backup], ids: Collection[str]) -> PrunePlan:
    """Delete what a person named, and nothing else.

    Raises:
        InputError: One is held, or another backup builds on it that stays.
    """
    newest_first = sorted(backups, key=lambda backup: (backup.instant, backup.id, backup.node), reverse=True)
    for backup in newest_first:
        if backup.id in ids and backup.hold is not None:
            raise InputError(f"Backup {backup.id} is held ({backup.hold}); free it first.", code="held")
        children = sorted(other.id for other in newest_first if other.parent == backup.id and other.id not in ids)
        if backup.id in ids and children:
            raise InputError(
                f"Backup {backup.id} is the parent of {', '.join(children)}, which could not be restored without it. "
                "Name what builds on it, too.",
                code="has_child",
            )
    return PrunePlan(
        tuple(
            Decision(backup, False, ("asked for",)) if backup.id in ids else Decision(backup, True, ("not asked for",))
            for backup in newest_first
        )
    )


def find_zone(name: str) -> tzinfo:
    """The zone in which periods are counted.

    Raises:
        PolicyError: This host knows none of that name.
    """
    if name.upper() == "UTC":
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise PolicyError(
            f"timezone is {name!r}, which this host does not know. Write a name such as Europe/Berlin; if that is one, "
            "install the package tzdata here."
        ) from error


def _check(policy: Policy) -> None:
    for name in (*(field for _rule, field, _key, _text in _PERIODS), "keep_last", "max_total_gb", "max_age_days"):
        value = getattr(policy, name)
        if value is not None and value < 0:
            raise PolicyError(f"{name} is {value}; it must be 0 or more.")
    if policy.min_keep < 1:
        raise PolicyError(f"min_keep is {policy.min_keep}; the newest good backup is always kept, so it is at least 1.")
    policy.check()


def _apply_rules(good: Sequence[Backup], policy: Policy, zone: tzinfo, reasons: dict[Backup, list[str]]) -> None:
    """Each rule on its own. Only good backups that are not of the future take a slot."""
    for backup in good[: policy.keep_last]:
        reasons[backup].append("last")
    local = [(backup, backup.instant.astimezone(zone)) for backup in good]
    for rule, field, key, text in _PERIODS:
        for backup, period in _newest_of_each(local, key, getattr(policy, field)):
            reasons[backup].append(f"{rule} {text.format(*period)}")
    rules = ("keep_last", *(field for _rule, field, _key, _text in _PERIODS))
    if not any(getattr(policy, field) for field in rules):
        for backup in good:
            reasons[backup].append(f"younger than {policy.max_age_days} days")


def _newest_of_each(
    local: Iterable[tuple[Backup, datetime]], key: Callable[[datetime], tuple[int, ...]], count: int
) -> Iterable[tuple[Backup, tuple[int, ...]]]:
    """The newest backup of each of the first ``count`` periods; a clock that was set back opens none anew."""
    seen: set[tuple[int, ...]] = set()
    if count == 0:
        return
    for backup, moment in local:
        period = key(moment)
        if period not in seen:
            seen.add(period)
            yield backup, period
            if len(seen) == count:
                return


def _apply_age(reasons: dict[Backup, list[str]], policy: Policy, *, now: datetime) -> dict[Backup, str]:
    """Take the rules' reasons from what is too old. An age longer than the calendar caps nothing."""
    days = policy.max_age_days
    if not days or days > (now - datetime.min.replace(tzinfo=timezone.utc)).days:
        return {}
    oldest, doomed = now - timedelta(days=days), {}
    for backup, kept in reasons.items():
        if kept and backup.instant < oldest:
            kept.clear()
            doomed[backup] = f"older than {days} days"
    return doomed


def _protect(
    newest_first: Sequence[Backup],
    good: Sequence[Backup],
    past: Sequence[Backup],
    policy: Policy,
    chains: Chains,
    reasons: dict[Backup, list[str]],
) -> None:
    """What is kept whatever the rules and caps say. A bad one is, until there is a newer good one to replace it."""
    for backup in good[: policy.min_keep]:
        reasons[backup].insert(0, "newest good")
    replaced = good[0].instant if good else None
    for backup in past:
        flaw = chains.flaw(backup)
        if flaw and (replaced is None or backup.instant > replaced):
            reasons[backup].insert(0, f"bad, but nothing newer is good: {flaw}")
    for backup in newest_first[: len(newest_first) - len(past)]:
        reasons[backup].insert(0, "in the future")
    for backup in newest_first:
        if backup.hold is not None:
            reasons[backup].insert(0, f"held: {backup.hold}")


def _apply_size(
    newest_first: Sequence[Backup], policy: Policy, chains: Chains, reasons: dict[Backup, list[str]]
) -> dict[Backup, str]:
    """Let the oldest go that no kept one builds on, until what is left is small enough; firm reasons stay."""
    limit = policy.max_total_gb
    total = sum(backup.size for backup in newest_first if reasons[backup])
    if not limit or total <= limit * GIB:
        return {}
    doomed: dict[Backup, str] = {}
    order = {backup: -index for index, backup in enumerate(newest_first)}
    children = dict.fromkeys(newest_first, 0)
    for backup in newest_first:
        if reasons[backup]:
            for parent in chains.parents(backup):
                children[parent] += 1
    leaves = [(order[backup], backup) for backup in newest_first if reasons[backup] and not children[backup]]
    heapq.heapify(leaves)
    while leaves and total > limit * GIB:
        _order, backup = heapq.heappop(leaves)
        if any(_rule_of(reason) in _FIRM for reason in reasons[backup]):
            continue
        gone = [backup]
        while gone:
            victim = gone.pop()
            reasons[victim].clear()
            doomed[victim] = f"over {limit} GiB"
            total -= victim.size
            for parent in chains.parents(victim):
                children[parent] -= 1
                if children[parent]:
                    continue
                reasons[parent] = [reason for reason in reasons[parent] if _rule_of(reason) != ANCESTOR]
                if reasons[parent]:
                    heapq.heappush(leaves, (order[parent], parent))
                else:
                    gone.append(parent)
    chains.keep_ancestors(reasons)
    return doomed


def _why_not(backup: Backup, chains: Chains) -> str:
    flaw = chains.flaw(backup)
    return f"bad, and a newer one is good: {flaw}" if flaw else NOT_WANTED


def _rule_of(reason: str) -> str:
    """The rule that a reason tells of."""
    for rule in (*_FIRM, ANCESTOR, "younger"):
        if reason.startswith(rule):
            return rule
    return reason.split(" ", 1)[0]
