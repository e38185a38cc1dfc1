# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus is told: every machine, the truth of each, and text and rules that ``promtool`` accepts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.plugin_utils._metrics import render

RULES = Path(__file__).resolve().parents[2] / "docs" / "alerts.yml"
WEB, DB = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
VMS = [{"uuid": WEB, "name": "web1"}, {"uuid": DB, "name": "db1"}]
NOW = 1795000000.0


def entry(uuid: str = WEB, backup_id: str = "20261122T010000Z", **more: Any) -> dict[str, Any]:
    instant = f"2026-11-{backup_id[6:8]}T01:00:00Z"
    values = {"status": "ready", "instant": instant, "size_bytes": 100, "error": None, "offsite_pending": False}
    return {"vm": {"uuid": uuid, "name": "old name"}, "id": backup_id, **values, **more}


def attempt(uuid: str, result: str, **more: Any) -> dict[str, Any]:
    return {"vm": {"uuid": uuid}, "result": result, "seconds": 2.5, "bytes_read": 7, "size_bytes": 5, **more}


def values(text: str, vm: str = "web1") -> dict[str, str]:
    """Name without its prefix -> value, of one machine."""
    found = {}
    for line in text.splitlines():
        name, _space, value = line.rpartition(" ")
        if not line.startswith("#") and (f'name="{vm}"' in name if vm else "{" not in name):
            found[name.partition("{")[0].replace("vmforge_backup_", "")] = value
    return found


def promtool(*argv: str, text: str = "") -> str:
    done = subprocess.run(["promtool", *argv], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_machine_is_told_of_and_the_newest_good_backup_counts() -> None:
    backups = [
        entry(),
        entry(backup_id="20261123T010000Z", size_bytes=40),
        entry(backup_id="20261124T010000Z", status="partial", size_bytes=None, instant=None),
        entry(backup_id="20261125T010000Z", error="its image is damaged", offsite_pending=True),
        entry("99999999-1111-4111-8111-111111111111"),
    ]
    text = render(VMS, backups, now=NOW)
    assert values(text) == {
        "vm_info": "1",
        "missing": "0",
        "last_success_timestamp_seconds": "1795395600",
        "last_success_size_bytes": "40",
        "good": "2",
        "stored_bytes": "140",
        "offsite_pending": "1",
        "bad": "0",
    }
    assert values(text, "db1") == {
        "vm_info": "1",
        "missing": "1",
        "good": "0",
        "stored_bytes": "0",
        "offsite_pending": "0",
        "bad": "0",
    }
    assert values(text, "") == {"updated_timestamp_seconds": "1795000000"}
    assert "99999999" not in text
    promtool("check", "metrics", text=text)


@pytest.mark.parametrize(
    ("result", "success", "stored"),
    [("created", "1", "5"), ("fresh", "1", "0"), ("uploaded", "1", "5"), ("failed", "0", "0")],
)
def test_an_attempt_is_told_of(result: str, success: str, stored: str) -> None:
    told = values(render(VMS, [], now=NOW, attempts=[attempt(WEB, result)], assigned=[WEB]))
    assert {name: value for name, value in told.items() if name.startswith("last_attempt")} == {
        "last_attempt_timestamp_seconds": "1795000000",
        "last_attempt_success": success,
        "last_attempt_duration_seconds": "2.500",
        "last_attempt_read_bytes": "7",
        "last_attempt_stored_bytes": stored,
    }


def test_what_was_to_be_backed_up_and_nobody_tells_of_failed() -> None:
    text = render(VMS, [], now=NOW, attempts=[attempt(WEB, "created")], assigned=[WEB, DB])
    assert values(text)["last_attempt_success"] == "1"
    assert values(text, "db1")["last_attempt_success"] == "0"


def test_what_a_run_tells_nothing_new_of_stays_and_machines_that_are_gone_do_not() -> None:
    first = render(VMS, [], now=NOW, attempts=[attempt(WEB, "failed"), attempt(DB, "created")])
    first = render(VMS, [], now=NOW, prune={"success": False, "deleted": 3}, before=first)
    renamed = [{"uuid": WEB, "name": "web2"}]
    text = render(renamed, [entry()], now=NOW + 60, before=first)
    assert values(text, "web2")["last_attempt_success"] == "0"
    assert values(text, "web2")["last_attempt_timestamp_seconds"] == "1795000000"
    assert "db1" not in text
    assert "web1" not in text
    assert values(text, "") == {
        "last_prune_timestamp_seconds": "1795000000",
        "last_prune_success": "0",
        "last_prune_deleted": "3",
        "updated_timestamp_seconds": "1795000060",
    }


@given(st.text(max_size=30), st.text(max_size=200))
def test_names_are_escaped_and_whatever_was_there_before_does_no_harm(name: str, before: str) -> None:
    text = render([{"uuid": WEB, "name": name}], [entry()], now=NOW, attempts=[attempt(WEB, "created")], before=before)
    again = render([{"uuid": WEB, "name": name}], [entry()], now=NOW, before=text)
    assert again == text
    # An odd number of quotes on a line would be a name that broke out of its label.
    for line in text.split("\n"):
        if "{" in line:
            bare = line.replace("\\\\", "").replace('\\"', "")
            assert bare.count('"') == 4


def test_names_that_need_escapes_are_accepted() -> None:
    text = render([{"uuid": WEB, "name": 'a"b\\c\nd{}'}], [entry()], now=NOW)
    promtool("check", "metrics", text=text)


def test_the_rules_are_sound_and_use_metrics_that_exist(tmp_path: Path) -> None:
    assert "10 rules found" in promtool("check", "rules", str(RULES))
    text = render(
        VMS,
        [entry(verified={"results": [{"level": "data", "ok": True, "at": "2026-11-21T00:00:00Z"}]})],
        now=NOW,
        attempts=[attempt(WEB, "created")],
        prune={"success": True, "deleted": 0},
    )
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        names = set(re.findall(r"vmforge_backup_[a-z_]+", rule["expr"]))
        assert all(name in recorded or f"# TYPE {name} gauge" in text for name in names), rule


def verified(*results: tuple[str, str, bool, str]) -> dict[str, Any]:
    names = ("copy", "level", "ok", "at")
    return {"verified": {"manifest_sha256": "x", "results": [dict(zip(names, result)) for result in results]}}


DAY = {day: f"2026-11-{day}T00:00:00Z" for day in (20, 21, 22)}
SECONDS = {20: "1795132800", 21: "1795219200", 22: "1795305600"}


@pytest.mark.parametrize(
    ("backups", "bad", "told"),
    [
        ([[]], "0", {}),
        # Booted, so read and found whole.
        ([[("local", "boot", True, DAY[20])]], "0", dict.fromkeys(("manifest", "data", "boot"), (20, "1"))),
        # The newest word counts, of whichever backup.
        (
            [[("local", "data", True, DAY[20])], [("local", "data", False, DAY[21])]],
            "1",
            {"manifest": (20, "1"), "data": (21, "0")},
        ),
        (
            [[("local", "data", True, DAY[20]), ("s3", "data", False, DAY[20])]],
            "1",
            {"manifest": (20, "1"), "data": (20, "0")},
        ),
        # That it does not boot takes nothing from its data.
        (
            [[("local", "data", True, DAY[21]), ("local", "boot", False, DAY[22])]],
            "0",
            {"manifest": (21, "1"), "data": (21, "1"), "boot": (22, "0")},
        ),
        # What cannot be understood tells nothing.
        ([[("local", "smell", True, DAY[21]), ("local", "data", True, "yesterday")]], "0", {}),
    ],
)
def test_what_was_verified(
    backups: list[list[tuple[str, str, bool, str]]], bad: str, told: dict[str, tuple[int, str]]
) -> None:
    entries = [entry(backup_id=f"202611{22 + i}T010000Z", **verified(*one)) for i, one in enumerate(backups)]
    text = render(VMS, [*entries, entry(DB, verified={"results": 7})], now=NOW)
    assert values(text)["bad"] == bad
    found = {}
    for level in ("manifest", "data", "boot"):
        label = f'{{uuid="{WEB}",name="web1",level="{level}"}}'
        lines = [line.split()[1] for line in text.splitlines() if line.startswith("vmforge_") and label in line]
        found.update({level: tuple(lines)} if lines else {})
    assert found == {level: (SECONDS[day], ok) for level, (day, ok) in told.items()}
    assert f'uuid="{DB}",name="db1",level' not in text
    promtool("check", "metrics", text=text)
    # They are of the listing, and not of the file as it was.
    assert "last_verified" not in render(VMS, [], now=NOW, before=text)


@pytest.mark.once
def test_the_rules_tell_what_is_wrong(tmp_path: Path) -> None:
    labels = f'{{instance="n1",name="web1",uuid="{WEB}"}}'
    expected = {
        "VMForgeBackupMissing": f"vmforge_backup_missing{labels}",
        "VMForgeBackupFailed": f"vmforge_backup_last_attempt_success{labels}",
    }
    series = [
        {"series": expected["VMForgeBackupMissing"], "values": "1x200"},
        {"series": expected["VMForgeBackupFailed"], "values": "0x200"},
        {"series": f"vmforge_backup_last_success_timestamp_seconds{labels}", "values": "0x200"},
        {"series": f"vmforge_backup_bad{labels}", "values": "2x200"},
        {"series": f"vmforge_backup_good{labels}", "values": "2x2000"},
        {"series": 'vmforge_backup_updated_timestamp_seconds{instance="n1"}', "values": "0x400"},
    ]
    fired = [
        {
            "eval_time": at,
            "alertname": name,
            "exp_alerts": [{"exp_labels": told, "exp_annotations": {"summary": summary}}],
        }
        for at, name, told, summary in (
            (
                "27h",
                "VMForgeBackupMissing",
                {"instance": "n1", "name": "web1", "uuid": WEB, "severity": "critical"},
                "web1 on n1 has no backup at all",
            ),
            (
                "27h",
                "VMForgeBackupOld",
                {"instance": "n1", "name": "web1", "uuid": WEB, "severity": "warning"},
                "The newest backup of web1 on n1 is 1d 3h 0m 0s old",
            ),
            (
                "20m",
                "VMForgeBackupFailed",
                {"instance": "n1", "name": "web1", "uuid": WEB, "severity": "warning"},
                "The last backup of web1 on n1 failed",
            ),
            (
                "20m",
                "VMForgeBackupBad",
                {"instance": "n1", "name": "web1", "uuid": WEB, "severity": "critical"},
                "2 backups of web1 on n1 were found bad",
            ),
            (
                "193h",
                "VMForgeBackupUnverified",
                {"instance": "n1", "name": "web1", "uuid": WEB, "severity": "warning"},
                "No backup of web1 on n1 was read and compared for long",
            ),
            (
                "51h",
                "VMForgeBackupSilent",
                {"instance": "n1", "severity": "critical"},
                "Nothing was heard of the backups of n1 for 2d 3h 0m 0s",
            ),
        )
    ]
    quiet = [
        {"eval_time": "1h", "alertname": name, "exp_alerts": []}
        for name in ("VMForgeBackupOld", "VMForgeBackupMissing", "VMForgeBackupUnverified")
    ]
    test = {"interval": "10m", "input_series": series, "alert_rule_test": [*fired, *quiet]}
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "10m", "tests": [test]}))
    promtool("test", "rules", str(path))
