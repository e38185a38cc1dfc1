# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``restic forget`` keeps the same of the same backups."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import Backup
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._retention import plan_prune

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
OFF = Policy(keep_daily=0, keep_weekly=0, keep_monthly=0, max_total_gb=None)


def restic(repository: Path, *argv: str, zone: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(repository),
        "RESTIC_REPOSITORY": str(repository / "repository"),
        "RESTIC_PASSWORD": "of this test alone",
        "TZ": zone,
    }
    done = subprocess.run(["restic", "--no-cache", *argv], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


# Uneven gaps, several a day, over changes of the clocks and over two new years.
RESTIC_HOURS = [0, 3, 5, 30, 31, 55, 80, 200, 208, 230, 400, 560, 700, 1400, 2100, 5500, 5524, 5530, 8000, 9000, 12000]
_MORE = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[int]]:
    """A real repository with real snapshots of these hours ago, seen from a time zone."""
    (zone, ago), place = request.param, tmp_path_factory.mktemp("restic")
    (place / "file").write_text("content")
    restic(place, "init", zone=zone)
    for hours in ago:
        local = (NOW - timedelta(hours=hours)).astimezone(ZoneInfo(zone))
        restic(place, "backup", str(place / "file"), "--time", f"{local:%Y-%m-%d %H:%M:%S}", zone=zone)
    return place, zone, ago


@pytest.mark.parametrize(
    "repository",
    [
        pytest.param(("Europe/Berlin", RESTIC_HOURS[::2]), id="some"),
        *(pytest.param((zone, RESTIC_HOURS), id=zone, marks=_MORE) for zone in ("Europe/Berlin", "UTC")),
    ],
    indirect=True,
)
@pytest.mark.parametrize(
    "rules",
    [
        {"keep_last": 1, "keep_daily": 3, "keep_weekly": 3, "keep_monthly": 3, "keep_yearly": 2},
        *(
            pytest.param({f"keep_{rule}": count}, marks=_MORE)
            for rule, count in {"last": 3, "daily": 5, "weekly": 4, "monthly": 4, "yearly": 2}.items()
        ),
    ],
    ids="+".join,
)
def test_restic_forget_keeps_the_same(repository: tuple[Path, str, list[int]], rules: dict[str, int]) -> None:
    """Its rules are ours, as long as there are more periods than are kept: else it keeps the oldest as well."""
    place, zone, ago = repository
    options = [text for rule, count in rules.items() for text in (f"--{rule.replace('_', '-')}", str(count))]
    groups = json.loads(restic(place, "forget", "--dry-run", "--json", *options, zone=zone))
    theirs = {datetime.fromisoformat(item["time"][:19]) for item in groups[0]["keep"]}
    moments = [NOW - timedelta(hours=hours) for hours in ago]
    backups = [Backup(id=format_id(moment), node="n1", instant=moment, size=1) for moment in moments]
    found = plan_prune(backups, replace(OFF, timezone=zone, **rules), now=NOW)
    ours = {item.instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for item in found.kept}
    assert ours == theirs
    assert len(ours) < len(ago)
