# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What retention keeps: tables and properties."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import Backup
from ansible_collections.vmforge.backup.plugins.module_utils._errors import PolicyError
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._retention import GIB, NOT_WANTED, PrunePlan, plan_prune

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
OFF = Policy(keep_last=0, keep_daily=0, keep_weekly=0, keep_monthly=0, keep_yearly=0, max_total_gb=None)
BERLIN = "Europe/Berlin"


def backup(moment: datetime | str, **more: Any) -> Backup:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment).replace(tzinfo=timezone.utc)
    return Backup(**{"id": format_id(moment), "node": "n1", "instant": moment, "size": GIB, **more})


def daily(count: int, *, newest: datetime = NOW, step: timedelta = timedelta(days=1), **more: Any) -> list[Backup]:
    return [backup(newest - index * step, **more) for index in range(count)]


def kept(backups: Sequence[Backup], policy: Policy, **more: Any) -> list[str]:
    """Dates of what is kept, newest first."""
    return [f"{item.instant:%Y-%m-%d}" for item in plan(backups, policy, **more).kept]


def plan(backups: Sequence[Backup], policy: Policy, *, now: datetime = NOW) -> PrunePlan:
    return plan_prune(backups, policy, now=now)


def reasons(backups: Sequence[Backup], policy: Policy) -> dict[str, list[str]]:
    return {f"{item.backup.instant:%y-%m-%d}": list(item.reasons) for item in plan(backups, policy).decisions}


def test_every_rule_adds_up_and_gives_its_reason() -> None:
    found = reasons(daily(400), replace(OFF, keep_last=1, keep_daily=2, keep_weekly=2, keep_monthly=2, keep_yearly=2))
    found = {day: why for day, why in found.items() if why != [NOT_WANTED]}
    assert found == {
        "26-11-22": ["newest good", "last", "daily 2026-11-22", "weekly 2026-W47", "monthly 2026-11", "yearly 2026"],
        "26-11-21": ["daily 2026-11-21"],
        "26-11-15": ["weekly 2026-W46"],
        "26-10-31": ["monthly 2026-10"],
        "25-12-31": ["yearly 2025"],
    }


def test_a_rule_of_0_is_off_and_does_not_keep_every_day() -> None:
    assert kept(daily(400), replace(OFF, keep_daily=0, keep_weekly=1)) == ["2026-11-22"]
    assert kept(daily(400), replace(OFF, keep_daily=0, max_age_days=3)) == [
        "2026-11-22",
        "2026-11-21",
        "2026-11-20",
        "2026-11-19",
    ]


def test_periods_without_a_backup_do_not_count() -> None:
    every_third = daily(10, step=timedelta(days=3))
    assert kept(every_third, replace(OFF, keep_daily=3)) == ["2026-11-22", "2026-11-19", "2026-11-16"]


@pytest.mark.parametrize("cap", [{"max_age_days": 1}, {"max_total_gb": 1}, {"max_age_days": 1, "max_total_gb": 1}])
def test_no_cap_deletes_the_newest_good_one(cap: dict[str, int]) -> None:
    old = daily(3, newest=NOW - timedelta(days=900), size=50 * GIB)
    found = plan(old, replace(OFF, keep_daily=7, **cap))
    assert found.kept == (old[0],)
    assert found.decisions[0].reasons[0] == "newest good"
    assert found.decisions[1].reasons == (("older than 1 days",) if "max_age_days" in cap else ("over 1 GiB",))


def test_min_keep_raises_the_floor() -> None:
    old = daily(5, newest=NOW - timedelta(days=900))
    assert plan(old, replace(OFF, keep_daily=7, max_age_days=1, min_keep=3)).kept == tuple(old[:3])


def test_without_rules_the_age_cap_keeps_everything_younger() -> None:
    hourly = daily(100, step=timedelta(hours=1))
    found = plan(hourly, replace(OFF, max_age_days=2))
    assert found.kept == tuple(hourly[:49])
    assert found.decisions[1].reasons == ("younger than 2 days",)


@pytest.mark.parametrize(
    "wrong",
    [
        OFF,
        replace(OFF, max_total_gb=5),
        replace(OFF, keep_daily=-1),
        replace(OFF, keep_daily=1, max_age_days=-5),
        replace(OFF, keep_daily=1, max_total_gb=-5),
        replace(OFF, keep_daily=1, min_keep=0),
        replace(OFF, keep_daily=1, timezone="Europe/Brelin"),
        replace(OFF, keep_daily=1, timezone="Europe"),
        replace(OFF, keep_daily=1, timezone="../../etc/passwd"),
        replace(OFF, keep_daily=1, timezone=""),
        replace(OFF, keep_daily=1, timezone="a\0b"),
    ],
)
def test_a_policy_that_cannot_be_obeyed_is_refused(wrong: Policy) -> None:
    with pytest.raises(PolicyError):
        plan(daily(3), wrong)


def test_huge_numbers_cap_nothing() -> None:
    huge = replace(OFF, keep_daily=2**31, max_age_days=2**31, max_total_gb=2**31, min_keep=2**31)
    assert len(plan(daily(400), huge).kept) == 400


def test_a_cap_of_0_is_off() -> None:
    assert len(plan(daily(40), replace(OFF, keep_daily=40, max_age_days=0, max_total_gb=0)).kept) == 40


def test_the_size_cap_takes_the_oldest_first() -> None:
    found = plan(daily(10), replace(OFF, keep_daily=10, max_total_gb=4))
    assert [item.backup.instant.day for item in found.decisions if item.keep] == [22, 21, 20, 19]
    assert found.decisions[-1].reasons == ("over 4 GiB",)
    assert found.rules() == {
        "newest good": {"count": 1, "bytes": GIB},
        "daily": {"count": 4, "bytes": 4 * GIB},
    }


def test_what_is_held_stays_and_counts_for_the_size() -> None:
    backups = daily(10)
    backups[9] = backup(backups[9].instant, hold="audit 7")
    found = plan(backups, replace(OFF, keep_daily=10, max_total_gb=3))
    assert [item.backup.instant.day for item in found.decisions if item.keep] == [22, 21, 13]
    assert found.decisions[-1].reasons == ("held: audit 7", "daily 2026-11-13")
    assert kept(backups, replace(OFF, keep_daily=1, max_age_days=2)) == ["2026-11-22", "2026-11-13"]


def test_flawed_backups_take_no_slot_and_go_when_a_newer_one_is_good() -> None:
    newer, good, older = daily(3)
    newer, older = (backup(item.instant, flaw="verified as bad: part 3") for item in (newer, older))
    found = plan([newer, good, older], replace(OFF, keep_daily=1))
    assert [item.keep for item in found.decisions] == [True, True, False]
    assert found.decisions[0].reasons == ("bad, but nothing newer is good: verified as bad: part 3",)
    assert found.decisions[1].reasons == ("newest good", "daily 2026-11-21")
    assert found.decisions[2].reasons == ("bad, and a newer one is good: verified as bad: part 3",)
    assert all(item.keep for item in plan([newer, older], replace(OFF, keep_daily=1, max_age_days=1)).decisions)


def test_stamps_of_the_future_are_kept_and_take_no_slot() -> None:
    ahead = backup(NOW + timedelta(minutes=6))
    nearly = backup(NOW + timedelta(minutes=4))
    backups = [ahead, nearly, *daily(3)]
    found = plan(backups, replace(OFF, keep_last=1, max_age_days=1))
    assert found.kept == (ahead, nearly)
    assert found.decisions[0].reasons == ("in the future",)
    assert plan([ahead], replace(OFF, keep_last=1)).kept == (ahead,)


def chain(*sizes: int, first: datetime) -> list[Backup]:
    """Each builds on the one before it; oldest first."""
    made: list[Backup] = []
    for index, size in enumerate(sizes):
        parent = made[-1].id if made else None
        made.append(backup(first + timedelta(days=index), size=size * GIB, parent=parent))
    return made


def test_ancestors_of_what_is_kept_are_kept() -> None:
    full, one, two = chain(5, 1, 1, first=NOW - timedelta(days=2))
    found = plan([full, one, two], replace(OFF, keep_daily=1, max_age_days=1, max_total_gb=1))
    assert found.kept == (two, one, full)
    assert found.decisions[2].reasons == (f"ancestor of {one.id}",)
    assert found.rules()["ancestor"] == {"count": 2, "bytes": 6 * GIB}


def test_the_size_cap_takes_a_chain_from_its_end_and_its_ancestors_with_it() -> None:
    old = chain(5, 1, 1, first=NOW - timedelta(days=9))
    new = chain(5, 1, first=NOW - timedelta(days=1))
    policy = replace(OFF, keep_weekly=2)
    assert plan([*old, *new], policy).kept == (new[1], new[0], old[2], old[1], old[0])
    assert plan([*old, *new], replace(policy, max_total_gb=12)).kept == (new[1], new[0])
    # With a slot of its own the full one stays where its children went.
    both = plan([*old, *new], replace(OFF, keep_daily=5, max_total_gb=11))
    assert both.kept == (new[1], new[0], old[0])
    assert both.decisions[-1].reasons == (f"daily {old[0].instant:%Y-%m-%d}",)


def test_a_broken_chain_is_no_good_backup() -> None:
    full, one, two = chain(5, 1, 1, first=NOW - timedelta(days=2))
    orphan = plan([one, two, backup(NOW - timedelta(days=5))], replace(OFF, keep_last=1))
    assert [item.reasons[0][:11] for item in orphan.decisions] == ["bad, but no", "bad, but no", "newest good"]
    bad_full = backup(full.instant, flaw="no copy of its disks is left")
    found = plan([bad_full, one, two, backup(NOW + timedelta(minutes=1))], replace(OFF, keep_last=4))
    assert [item.keep for item in found.decisions] == [True, False, False, False]
    assert found.decisions[1].reasons == (
        f"bad, and a newer one is good: its ancestor {full.id}: no copy of its disks is left",
    )


def test_a_parent_that_is_no_older_is_none() -> None:
    one = backup(NOW - timedelta(days=1))
    one = backup(one.instant, parent=one.id)
    assert not plan([one, backup(NOW)], replace(OFF, keep_last=5)).decisions[1].keep


def test_days_are_those_of_the_zone_that_was_given() -> None:
    late, early = backup("2026-11-20T23:30:00"), backup("2026-11-20T22:30:00")
    assert plan([late, early], replace(OFF, keep_daily=9, timezone="UTC")).kept == (late,)
    found = plan([late, early], replace(OFF, keep_daily=9, timezone=BERLIN))
    assert found.kept == (late, early)
    assert found.decisions[0].reasons == ("newest good", "daily 2026-11-21")


def test_two_backups_of_one_second_are_two() -> None:
    one, other = backup(NOW - timedelta(days=3)), backup(NOW - timedelta(days=3), node="n2")
    found = plan([one, other, backup(NOW)], replace(OFF, keep_last=2))
    assert len(found.decisions) == 3
    assert len(found.kept) == 2


@pytest.mark.parametrize(
    ("moments", "days"),
    [
        # The hour that comes twice on 2026-10-25, 02:30 CEST and 02:30 CET, and midnight before and after it.
        (["2026-10-24T21:59:00", "2026-10-24T22:01:00", "2026-10-25T00:30:00", "2026-10-25T01:30:00"], 2),
        (["2026-10-25T22:59:00", "2026-10-25T23:01:00"], 2),
        # The night without 02:30, 2026-03-29.
        (["2026-03-28T22:59:00", "2026-03-28T23:01:00", "2026-03-29T00:59:00", "2026-03-29T01:01:00"], 2),
        (["2026-03-29T21:59:00", "2026-03-29T22:01:00"], 2),
    ],
)
def test_the_days_on_which_the_clocks_change(moments: list[str], days: int) -> None:
    backups = [backup(moment) for moment in moments]
    assert len(plan(backups, replace(OFF, keep_daily=9, timezone=BERLIN)).kept) == days


@pytest.mark.parametrize(
    ("moment", "week"),
    [
        ("2026-01-01", "2026-W01"),
        ("2025-12-29", "2026-W01"),
        ("2025-12-28", "2025-W52"),
        ("2021-01-03", "2020-W53"),
        ("2021-01-04", "2021-W01"),
    ],
)
def test_weeks_are_iso_weeks(moment: str, week: str) -> None:
    assert f"weekly {week}" in plan([backup(moment)], replace(OFF, keep_weekly=1)).decisions[0].reasons


MANY = [10_000, pytest.param(100_000, marks=pytest.mark.exhaustive)]
EVERYTHING = Policy(
    keep_last=10**6,
    keep_daily=10**6,
    keep_weekly=10**6,
    keep_monthly=10**6,
    keep_yearly=10**6,
    max_total_gb=100,
    timezone=BERLIN,
)
ONE = replace(OFF, keep_last=1)


def links(count: int) -> list[Backup]:
    return chain(*[1] * count, first=NOW - timedelta(days=count + 1))


@pytest.mark.once
@pytest.mark.parametrize("count", MANY)
def test_very_many_backups_are_not_too_many(count: int) -> None:
    assert len(plan(daily(count, step=timedelta(hours=1)), EVERYTHING).kept) == 100


@pytest.mark.once
@pytest.mark.parametrize("count", MANY)
def test_no_chain_is_too_long(count: int) -> None:
    assert len(plan(links(count), ONE).kept) == count


def steps(work: Callable[[], object]) -> int:
    """How many lines and calls a function takes: what a clock would tell, on a machine of any speed."""
    count = 0

    def trace(_frame: object, event: str, _value: object) -> Any:
        nonlocal count
        count += event in ("call", "line")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.once
@pytest.mark.parametrize(
    ("make", "policy"),
    [(daily, EVERYTHING), (links, ONE), (links, EVERYTHING)],
    ids=["each for itself", "a chain", "a chain over the cap"],
)
def test_four_times_the_backups_are_four_times_the_work(
    make: Callable[[int], list[Backup]], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that it counts how often one is looked for in a list.
    monkeypatch.setattr(Backup, "__eq__", lambda one, other: one is other)
    few, many = make(250), make(1000)
    assert steps(lambda: plan(many, policy)) <= 6 * steps(lambda: plan(few, policy))


MOMENTS = st.integers(0, 3 * 365 * 24 * 4).map(
    lambda quarter: NOW + timedelta(hours=1) - timedelta(minutes=15 * quarter)
)


@st.composite
def vms(draw: st.DrawFn) -> list[Backup]:
    """The backups of a VM, chains, holds, flaws and stamps of the future among them."""
    made: list[Backup] = []
    for moment in sorted(draw(st.lists(MOMENTS, max_size=25, unique=True))):
        parent = draw(st.sampled_from([None, None, *made[-3:]]))
        made.append(
            backup(
                moment,
                node=draw(st.sampled_from(["n1", "n2"])),
                size=draw(st.integers(0, 40)) * GIB // 4,
                flaw=draw(st.sampled_from([None, None, None, None, "bad"])),
                hold=draw(st.sampled_from([None, None, None, None, "why"])),
                parent=parent.id if parent else None,
            )
        )
    return made


COUNTS = st.sampled_from([0, 1, 2, 5, 30, 10**6])
POLICIES = st.builds(
    Policy,
    keep_last=COUNTS,
    keep_daily=COUNTS,
    keep_weekly=COUNTS,
    keep_monthly=COUNTS,
    keep_yearly=COUNTS,
    min_keep=st.integers(1, 3),
    max_total_gb=st.sampled_from([None, 0, 1, 20, 100]),
    max_age_days=st.sampled_from([None, 0, 1, 30, 400, 10**9]),
    timezone=st.sampled_from(["UTC", BERLIN, "Pacific/Kiritimati", "America/St_Johns"]),
)
RULES = ("keep_last", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")


def has_rule(policy: Policy) -> bool:
    return any(getattr(policy, rule) for rule in RULES)


SOUND = POLICIES.filter(lambda policy: has_rule(policy) or bool(policy.max_age_days))


def ids(backups: Sequence[Backup]) -> set[tuple[str, str]]:
    return {(item.id, item.node) for item in backups}


def is_good(item: Backup, backups: Sequence[Backup]) -> bool:
    """Written otherwise than the code that is tested."""
    while item.flaw is None:
        if item.parent is None:
            return True
        found = [other for other in backups if other.id == item.parent]
        if not found:
            return False
        item = found[0]
    return False


@given(vms(), SOUND)
def test_every_backup_is_decided_once_with_a_reason(backups: list[Backup], policy: Policy) -> None:
    found = plan(backups, policy)
    assert len(found.decisions) == len(backups)
    assert {item.backup for item in found.decisions} == set(backups)
    assert all(item.reasons for item in found.decisions)
    assert ids(found.kept).isdisjoint(ids(found.deleted))


@given(vms(), SOUND)
def test_the_newest_good_ones_are_never_deleted(backups: list[Backup], policy: Policy) -> None:
    good = [item for item in backups if is_good(item, backups) and item.instant <= NOW + timedelta(minutes=5)]
    newest = sorted(good, key=lambda item: item.instant, reverse=True)[: policy.min_keep]
    assert set(newest) <= set(plan(backups, policy).kept)


@given(vms(), SOUND)
def test_what_is_held_of_the_future_or_an_ancestor_is_never_deleted(backups: list[Backup], policy: Policy) -> None:
    found = plan(backups, policy)
    stay = set(found.kept)
    for item in backups:
        assert item in stay or item.hold is None
        assert item in stay or item.instant <= NOW + timedelta(minutes=5)
    parents = {item.parent for item in found.kept}
    assert not {item.id for item in found.deleted} & parents
    # Deleted in this order, no child is ever without its parent.
    order = [item.id for item in found.deleted]
    assert order == sorted(order, reverse=True)


@given(vms(), SOUND, st.sampled_from([*RULES, "min_keep", "max_age_days"]), st.integers(1, 40))
def test_a_longer_policy_keeps_a_superset(backups: list[Backup], policy: Policy, field: str, more: int) -> None:
    policy = replace(policy, max_total_gb=None)
    before = getattr(policy, field)
    if field == "max_age_days":
        longer = replace(policy, max_age_days=None if not before else before + more)
    else:
        longer = replace(policy, **{field: before + more})
    # To turn the first rule on ends the other way of counting, in which everything younger stays.
    if has_rule(policy) == has_rule(longer) and (has_rule(longer) or longer.max_age_days):
        assert ids(plan(backups, policy).kept) <= ids(plan(backups, longer).kept)


@given(vms(), SOUND, st.integers(1, 100), st.integers(0, 100))
def test_a_larger_size_keeps_a_superset(backups: list[Backup], policy: Policy, size: int, more: int) -> None:
    small, large = replace(policy, max_total_gb=size), replace(policy, max_total_gb=size + more)
    assert ids(plan(backups, small).kept) <= ids(plan(backups, large).kept)


@given(vms(), SOUND)
def test_rules_are_independent_and_add_up(backups: list[Backup], policy: Policy) -> None:
    policy = replace(policy, max_total_gb=None)
    if not has_rule(policy):
        return
    alone = [replace(policy, **{**dict.fromkeys(RULES, 0), rule: getattr(policy, rule)}) for rule in RULES]
    union = set().union(*(ids(plan(backups, one).kept) for one in alone if has_rule(one)))
    assert ids(plan(backups, policy).kept) == union


@given(vms(), SOUND)
def test_the_caps_hold_but_for_what_is_protected(backups: list[Backup], policy: Policy) -> None:
    found = plan(backups, policy)
    firm = ("newest good", "held", "in the future", "bad", "ancestor")
    free = [
        item.backup
        for item in found.decisions
        if item.keep and not any(reason.startswith(firm) for reason in item.reasons)
    ]
    if policy.max_age_days:
        assert all(NOW - item.instant <= timedelta(days=min(policy.max_age_days, 10**6)) for item in free)
    if policy.max_total_gb and sum(item.size for item in found.kept) > policy.max_total_gb * GIB:
        # Whatever is still kept is protected, or something protected builds on it.
        assert not free or all(any(other.parent == item.id for other in found.kept) for item in free)


@given(vms(), SOUND)
def test_the_order_of_the_listing_does_not_matter(backups: list[Backup], policy: Policy) -> None:
    assert plan(backups, policy).decisions == plan(list(reversed(backups)), policy).decisions


@given(vms(), SOUND)
def test_to_prune_again_deletes_nothing_more(backups: list[Backup], policy: Policy) -> None:
    left = list(plan(backups, policy).kept)
    assert plan(left, policy).deleted == ()


@given(vms(), POLICIES)
@example([], OFF)
@example([], replace(OFF, max_age_days=0))
def test_a_policy_that_keeps_nothing_is_refused_and_no_other(backups: list[Backup], policy: Policy) -> None:
    if has_rule(policy) or policy.max_age_days:
        plan(backups, policy)
    else:
        with pytest.raises(PolicyError):
            plan(backups, policy)
