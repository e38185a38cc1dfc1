# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention of a VM with very many backups: seconds from a listing to the decision on each."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import Backup
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._retention import GIB, plan_prune

BACKUPS = 100_000
TARGET_SECONDS = 2.0
_CHAIN = 30


def measure() -> dict[str, Any]:
    """Decide on hourly backups, all full ones and then in chains, by every rule and cap: name -> seconds."""
    now = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
    policy = Policy(
        keep_last=100,
        keep_daily=1000,
        keep_weekly=500,
        keep_monthly=120,
        keep_yearly=10,
        max_total_gb=2000,
        max_age_days=3650,
        timezone="Europe/Berlin",
    )
    result: dict[str, Any] = {"backups": BACKUPS}
    for name, chain in (("full", 1), ("chains", _CHAIN)):
        moments = [now - timedelta(hours=BACKUPS - index) for index in range(BACKUPS)]
        ids = [format_id(moment) for moment in moments]
        backups = [
            Backup(ids[i], "node1", moments[i], GIB, parent=ids[i - 1] if i % chain else None) for i in range(BACKUPS)
        ]
        began = time.monotonic()
        plan = plan_prune(backups, policy, now=now)
        result[name] = {"seconds": round(time.monotonic() - began, 2), "kept": len(plan.kept)}
    return result


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    found = []
    for name, words in (("full", "full backups of one VM"), ("chains", f"in chains of {_CHAIN}")):
        seconds = report[name]["seconds"]
        verdict = f"to reach: {TARGET_SECONDS:.0f} s  {'yes' if seconds <= TARGET_SECONDS else 'NO'}"
        text = f"retention, {report['backups']} {words}"
        found.append(f"{text:50}{seconds:6.2f} s, {report[name]['kept']} kept   {verdict}")
    return found
