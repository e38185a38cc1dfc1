# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes whose clocks are apart: what each of them deletes of its own must leave the others' backups whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_time
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._prune_options import PRUNE_ARGUMENTS, PruneOptions
from ansible_collections.vmforge.backup.plugins.module_utils._retention import Backup
from tests.unit.test_retention import NOW, SOUND, is_good, plan, vms

APART = st.sampled_from([0, 10, 3600, 10 * 86400, 400 * 86400])


@given(vms(), SOUND, APART, st.booleans())
def test_the_newest_good_one_outlives_clocks_that_are_apart(
    backups: list[Backup], policy: Policy, apart: int, ahead: bool
) -> None:
    """Even where each node would decide by its own clock."""
    other = NOW + timedelta(seconds=apart if ahead else -apart)
    kept = [item for item in plan(backups, policy).kept if item.node == "n1"]
    kept += [item for item in plan(backups, policy, now=other).kept if item.node == "n2"]
    full = [item for item in backups if item.parent is None]
    good = [item for item in full if item.flaw is None and item.instant <= min(NOW, other)]
    assert not good or any(is_good(item, kept) for item in kept)


def params(**more: Any) -> dict[str, Any]:
    values = {name: spec.get("default") for name, spec in PRUNE_ARGUMENTS.items()}
    return {**values, "node": "n1", "listings": [{"node": "n1", "backups": []}], **more}


@pytest.mark.parametrize("seconds", [-400 * 86400, -1, 0, 299])
def test_all_nodes_decide_for_one_moment(seconds: int) -> None:
    moment = NOW + timedelta(seconds=seconds)
    assert PruneOptions.from_params(params(at=format_time(moment)), now=NOW).at == moment
    assert PruneOptions.from_params(params(), now=NOW).at == NOW


@pytest.mark.parametrize(("at", "word"), [(format_time(NOW + timedelta(seconds=301)), "apart"), ("soon", "no time")])
def test_a_moment_of_the_future_is_refused(at: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        PruneOptions.from_params(params(at=at), now=NOW)
