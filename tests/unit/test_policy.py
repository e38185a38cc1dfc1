# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Effective policies: the row, else variables, else defaults."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import PolicyError
from ansible_collections.vmforge.backup.plugins.module_utils._policy import (
    CAPS,
    FIELDS,
    RULES,
    Policy,
    checked_fields,
    effective,
)

ROW: dict[str, Any] = {
    "vm_uuid": "u",
    "keep_daily": None,
    "keep_weekly": None,
    "keep_monthly": None,
    "max_total_gb": None,
    "max_age_days": None,
    "offsite": "s3",
    "delete_local_after_upload": 0,
}


def test_without_anything_the_built_in_policy_holds() -> None:
    policy, sources = effective(None, None, None)
    assert policy == Policy()
    assert (policy.keep_daily, policy.keep_weekly, policy.keep_monthly) == (7, 4, 12)
    assert (policy.max_total_gb, policy.max_age_days, policy.min_keep) == (200, None, 1)
    assert sources == dict.fromkeys(FIELDS, "defaults")


@pytest.mark.parametrize(
    ("row", "variables", "defaults", "field", "value", "source"),
    [
        ({"keep_daily": 3}, {"keep_daily": 5}, {"keep_daily": 9}, "keep_daily", 3, "row"),
        ({"keep_daily": 0}, {"keep_daily": 5}, {}, "keep_daily", 0, "row"),
        ({}, {"keep_daily": 5}, {"keep_daily": 9}, "keep_daily", 5, "variables"),
        ({}, {"keep_daily": None}, {"keep_daily": 9}, "keep_daily", 9, "defaults"),
        (None, {"keep_daily": "5"}, {}, "keep_daily", 5, "variables"),
        # NULL means no size cap where there is a row; 200 GiB without one.
        ({}, {}, {}, "max_total_gb", None, "defaults"),
        ({}, {"max_total_gb": 50}, {}, "max_total_gb", 50, "variables"),
        (None, {"keep_daily": 1}, {}, "max_total_gb", 200, "defaults"),
        (None, {}, {"max_total_gb": 0}, "max_total_gb", None, "defaults"),
        ({"max_total_gb": 0}, {"max_total_gb": 50}, {}, "max_total_gb", None, "row"),
        ({"max_age_days": 30}, {}, {}, "max_age_days", 30, "row"),
        ({}, {"offsite": "none"}, {}, "offsite", "s3", "row"),
        ({"offsite": "nfs"}, {"offsite": "s3"}, {}, "offsite", "none", "row"),
        (None, {}, {"offsite": "s3"}, "offsite", "s3", "defaults"),
        ({"delete_local_after_upload": 1}, {}, {}, "delete_local_after_upload", True, "row"),
        (None, {"delete_local_after_upload": "no"}, {}, "delete_local_after_upload", False, "variables"),
        ({}, {}, {"keep_yearly": 3, "timezone": "Europe/Berlin"}, "keep_yearly", 3, "defaults"),
        ({"keep_yearly": 2}, {}, {"keep_yearly": 3}, "keep_yearly", 2, "row"),
        ({}, {"timezone": " Europe/Berlin "}, {}, "timezone", "Europe/Berlin", "variables"),
    ],
)
def test_the_nearest_that_is_set_wins(
    row: dict[str, Any] | None, variables: Any, defaults: Any, field: str, value: Any, source: str
) -> None:
    policy, sources = effective(None if row is None else {**ROW, **row}, variables, defaults)
    assert (getattr(policy, field), sources[field]) == (value, source)
    assert type(getattr(policy, field)) is type(value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"keep_daily": -1}, "keep_daily is -1"),
        ({"keep_daily": "many"}, "keep_daily is 'many'"),
        ({"keep_daily": True}, "keep_daily is True"),
        ({"keep_daily": 1.5}, "keep_daily is 1.5"),
        ({"keep_daily": 2**31}, "keep_daily is 2147483648"),
        ({"keep_daily": "9" * 5000}, "keep_daily is"),
        ({"min_keep": 0}, "min_keep is 0"),
        ({"offsite": "tape"}, "offsite is 'tape'"),
        ({"delete_local_after_upload": "perhaps"}, "delete_local_after_upload is 'perhaps'"),
        ({"timezone": ""}, "timezone is ''"),
        ({"keep_dialy": 3}, "no field keep_dialy. There are: keep_last, keep_daily"),
    ],
)
def test_what_has_no_meaning_is_refused_and_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        checked_fields(values, "vmforge_backup_policies of web1")
    assert said in caught.value.message
    assert "vmforge_backup_policies of web1" in caught.value.message


def test_a_policy_that_keeps_nothing_is_refused_unless_an_age_keeps_what_is_younger() -> None:
    nothing = dict.fromkeys(RULES, 0)
    with pytest.raises(PolicyError, match="nothing would be kept"):
        effective(None, nothing, None)[0].check()
    effective(None, {**nothing, "max_age_days": 30}, None)[0].check()
    for rule in RULES:
        effective(None, {**nothing, rule: 1}, None)[0].check()


counts = st.one_of(st.none(), st.integers(0, 2**31 - 1))
layers = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys((*RULES, *CAPS), counts),
        "min_keep": st.one_of(st.none(), st.integers(1, 100)),
        "offsite": st.sampled_from([None, "none", "s3"]),
        "delete_local_after_upload": st.sampled_from([None, True, False]),
        "timezone": st.sampled_from([None, "UTC", "Europe/Berlin"]),
    },
)


@given(row=st.one_of(st.none(), layers), variables=layers, defaults=layers)
def test_every_value_comes_from_where_it_is_said_to(row: Any, variables: Any, defaults: Any) -> None:
    policy, sources = effective(row, variables, defaults)
    for name in FIELDS:
        order = [
            source for source, layer in (("row", row or {}), ("variables", variables)) if layer.get(name) is not None
        ]
        assert sources[name] == (order[0] if order else "defaults")
        given_ = {"row": row, "variables": variables, "defaults": defaults}[sources[name]] or {}
        if given_.get(name) is not None:
            wanted = given_[name] or None if name in CAPS else given_[name]
            assert getattr(policy, name) == wanted
    assert Policy.from_values({**policy.values(), "sources": sources}) == policy
    assert all(getattr(policy, name) is not None for name in FIELDS if name not in CAPS)
