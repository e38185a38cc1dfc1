# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What decides: accounts, orders, forecasts, charts, progress; and that the role writes what the programs read."""

from __future__ import annotations

import json
import os
import time
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bcrypt
import pyotp
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jinja2.nativetypes import NativeEnvironment

from ansible_collections.vmforge.backup.plugins.plugin_utils._progress_line import progress_line
from tests.unit.ui.conftest import VM, entry
from vmforge_backup_ui.actions import order
from vmforge_backup_ui.auth import MAX_FAILED, Codes, hash_password, refusal, role_of, same_password
from vmforge_backup_ui.chart import HEIGHT, chart
from vmforge_backup_ui.config import RunnerConfig, WebConfig
from vmforge_backup_ui.entries import Machine, backup_of_entry, backup_of_row, dependants, depths
from vmforge_backup_ui.errors import MissingError, RefusedError
from vmforge_backup_ui.history import History
from vmforge_backup_ui.jobs import Jobs, remove
from vmforge_backup_ui.kept import Kept
from vmforge_backup_ui.progress import clean, progress
from vmforge_backup_ui.sessions import IDLE_SECONDS, LONGEST_SECONDS, Sessions
from vmforge_backup_ui.shown import age, moment, size
from vmforge_backup_ui.throttle import Throttle, network_of
from vmforge_backup_ui.timeline import compare, forecast, marks

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
ROLE = Path(__file__).resolve().parents[3] / "roles" / "ui"
ID = "20261122T010000Z"
SECRET = "JBSWY3DPEHPK3PXP"


@pytest.mark.parametrize(
    ("hashed", "right"),
    [
        # As PHP's password_hash("geheim") makes them.
        (bcrypt.hashpw(b"geheim", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$"), True),
        (hash_password("geheim"), True),
        (hash_password("other"), False),
        ("geheim", False),
        ("", False),
        ("$argon2id$broken", False),
        ("$2y$10$broken", False),
        ("5f4dcc3b5aa765d61d8327deb882cf99", False),
    ],
)
def test_passwords(hashed: str, right: bool) -> None:
    assert same_password("geheim", hashed) is right


def test_bcrypt_looks_at_72_bytes_as_in_php() -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert same_password("x" * 100, hashed)


@pytest.mark.parametrize("secret", [SECRET, "jbsw y3dp ehpk 3pxp", SECRET * 2, "MFRGGZDFMZTWQ2LK"])
def test_a_code_is_good_once_and_for_a_short_while(secret: str) -> None:
    codes, now = Codes(), time.time()
    plain = secret.replace(" ", "").upper()
    totp = pyotp.TOTP(plain if len(plain) >= 24 else plain + "A" * 16)
    # A short secret with zeros behind it makes the same codes.
    code = totp.at(now)
    assert codes.good("a", secret, f"{code[:3]} {code[3:]}", now=now)
    assert not codes.good("a", secret, code, now=now)
    assert codes.good("b", secret, code, now=now + 29)
    assert not codes.good("c", secret, code, now=now + 95)
    assert not codes.good("c", secret, "", now=now)


def test_a_secret_that_is_none_lets_nobody_in() -> None:
    for secret in ("!", "1", "encrypted:abc", ""):
        assert not Codes().good("a", secret, "000000", now=0)


@pytest.mark.parametrize(
    ("user", "locked"),
    [
        ({}, False),
        ({"locked_until": NOW.replace(tzinfo=None) + timedelta(seconds=1)}, True),
        ({"locked_until": NOW.replace(tzinfo=None)}, False),
        ({"locked_until": None, "failed_logins": 99}, False),
        ({"failed_logins": MAX_FAILED}, True),
        ({"failed_logins": MAX_FAILED - 1}, False),
    ],
)
def test_locks_of_the_panel(user: dict[str, Any], locked: bool) -> None:
    assert (refusal(user, now=NOW) is not None) is locked


@pytest.mark.parametrize(
    ("email", "panel", "role"),
    [
        ("op@x", "", "operator"),
        ("OP@x", "", "operator"),
        ("both@x", "", "operator"),
        ("me@x", "admin", "operator"),
        ("me@x", "user", None),
        ("me@x", None, None),
        ("see@x", "user", "reader"),
        ("role:admin", "", "operator"),
    ],
)
def test_roles(email: str, panel: str | None, role: str | None) -> None:
    assert role_of(email, panel, ["Op@x", "both@x", "role:admin"], ["see@x", "both@x"]) == role


def test_sessions_end() -> None:
    sessions, mine = Sessions(), ("me", "mark")
    token = sessions.open(*mine, now=0)
    assert sessions.find(token, now=IDLE_SECONDS - 1) == mine
    assert sessions.find(token, now=2 * IDLE_SECONDS - 2) == mine
    assert sessions.find(token, now=3 * IDLE_SECONDS - 2) is None
    assert sessions.find(token, now=0) is None
    token = sessions.open(*mine, now=0)
    for second in range(0, LONGEST_SECONDS, IDLE_SECONDS - 1):
        assert sessions.find(token, now=second) == mine
    assert sessions.find(token, now=LONGEST_SECONDS) is None
    token = sessions.open(*mine, now=0)
    # Nobody is there: it is the page that asks.
    assert sessions.find(token, now=IDLE_SECONDS - 1, used=False) == mine
    assert sessions.find(token, now=IDLE_SECONDS, used=False) is None


@given(st.lists(st.floats(min_value=0, max_value=1000), max_size=30).map(sorted))
def test_a_throttle_never_lets_more_through(times: list[float]) -> None:
    throttle, allowed = Throttle(3, 100), []
    for at in times:
        if not throttle.take("a", now=at):
            allowed.append(at)
    assert all(len([other for other in allowed if at - 100 < other <= at]) <= 3 for at in allowed)


def test_a_throttle_counts_tries_that_have_not_ended() -> None:
    throttle = Throttle(2, 100)
    assert [throttle.take("a", now=at) for at in (0, 1, 2)] == [0, 0, 98]
    throttle.give_back("a")
    assert [throttle.take("a", now=3), throttle.take("a", now=4)] == [0, 96]
    throttle.forget("a")
    throttle.give_back("a")
    assert throttle.take("a", now=5) == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_who_has_one_address_has_its_neighbours(address: str, network: str) -> None:
    assert network_of(address) == network


GOOD = {
    "backup": {},
    "delete": {"ids": [ID]},
    "hold": {"id": ID, "reason": "audit", "until": "2027-01-31T00:00:00Z"},
    "free": {"id": ID},
    "verify": {"id": ID},
    "restore": {"id": ID, "to": "web1-copy", "disconnect": True, "start": True},
    "policy": {"keep_daily": 3},
    "list": {},
    "status": {},
}


@pytest.mark.parametrize(("action", "values"), GOOD.items())
def test_orders_become_variables_of_playbooks(action: str, values: dict[str, Any]) -> None:
    made = order(action, VM, "me@x", values)
    root = Path(__file__).resolve().parents[3]
    playbook = (root / "playbooks" / f"{made.playbook}.yml").read_text()
    known = "".join(path.read_text() for path in (root / "roles").glob("*/defaults/main.yml")) + playbook
    assert [name for name in made.variables if name not in known] == []
    assert made.variables.get("vm", VM) == VM
    if action == "hold":
        assert made.variables["vmforge_backup_hold_by"] == "me@x"
    if action == "policy":
        assert "keep_weekly" in made.variables["vmforge_backup_policy_reset"]


BAD = ["{{ lookup('pipe', 'id') }}", "a {% b", "{#", "a\nb", "x" * 301, 7.5, ["a"], {"a": 1}]


@pytest.mark.parametrize("text", BAD, ids=repr)
def test_no_text_becomes_a_template(text: Any) -> None:
    for action, values in GOOD.items():
        with pytest.raises(RefusedError):
            order(action, VM, text, values)
        for name in values:
            with pytest.raises(RefusedError):
                order(action, VM, "me", {**values, name: text})
        with pytest.raises(RefusedError):
            order(action, VM, "me", {**values, "vmforge_backup_dir": "/"})
        if action not in ("list", "status"):
            with pytest.raises(RefusedError):
                order(action, text, "me", values)


@pytest.mark.parametrize("vm", ["", "..", "../x", "-e", "a b", "a,b", "@file", "web1\n", VM + "x/"])
def test_only_machines_are_machines(vm: str) -> None:
    for action in set(GOOD) - {"list", "status"}:
        with pytest.raises(RefusedError):
            order(action, vm, "me", GOOD[action])


@given(st.text(max_size=40))
def test_any_text_is_refused_or_harmless(text: str) -> None:
    try:
        made = order("hold", VM, "me", {"id": ID, "reason": text})
    except RefusedError:
        return
    assert "{{" not in made.variables["vmforge_backup_hold_reason"]


def days(count: int, **more: Any) -> list[Any]:
    """A backup on each of the last days, newest first."""
    ids = [(NOW - timedelta(days=number, hours=11)).strftime("%Y%m%dT%H%M%SZ") for number in range(count)]
    return [backup_of_entry(entry(backup_id, **more)) for backup_id in ids]


def test_what_the_next_prune_does_and_what_a_policy_changes() -> None:
    machine, backups, row = Machine(VM, "web1"), days(10), {"keep_weekly": 0, "keep_monthly": 0}
    before = forecast(machine, History(backups), {**row, "keep_daily": 7}, (None, {}), now=NOW)
    assert (len(before.kept), len(before.doomed), before.bytes(keep=False)) == (7, 3, 3 << 20)
    assert before.fates[backups[0].id].reasons == ("newest good", f"daily {NOW:%Y-%m-%d}")
    assert before.fates[backups[9].id].reasons == ("no rule keeps it",)
    change = compare(before, forecast(machine, History(backups), {**row, "keep_daily": 3}, (None, {}), now=NOW))
    assert change.lost == tuple(backup.id for backup in backups[3:7])
    assert (change.saved, change.asks) == ((), True)
    back = compare(change.after, before)
    assert (back.lost, len(back.saved), back.asks) == ((), 4, False)
    line = marks(backups, before, now=NOW)
    assert [mark.keep for mark in line] == [False] * 3 + [True] * 7
    assert [mark.x for mark in line] == sorted(mark.x for mark in line)
    assert line[0].x == 0


def test_a_plan_is_made_again_for_another_policy_or_minute() -> None:
    hold = {"reason": "audit", "until": (NOW + timedelta(seconds=90)).isoformat()}
    history = History([*days(1), backup_of_entry(entry("20260101T000000Z", hold=hold))])
    rule = {"keep_daily": 1, "keep_weekly": 0, "keep_monthly": 0}

    def plan(row: dict[str, int], seconds: int) -> Any:
        return forecast(Machine(VM, "web1"), history, row, (None, {}), now=NOW + timedelta(seconds=seconds))

    assert plan(rule, 0).fates is plan(rule, 59).fates
    assert [len(plan(rule, seconds).kept) for seconds in (0, 60, 120)] == [2, 2, 1]
    assert len(plan({**rule, "keep_daily": 2}, 120).kept) == 2


def test_where_nothing_is_pruned_it_says_why() -> None:
    machine, zero = Machine(VM, "web1"), dict.fromkeys(("keep_daily", "keep_weekly", "keep_monthly"), 0)
    assert "nothing would be kept" in forecast(machine, History(days(3)), zero, (None, {}), now=NOW).problem
    assert "keep_daily is" in forecast(machine, History(days(3)), None, ({"keep_daily": "x"}, {}), now=NOW).problem
    gone = Machine(VM, "web1", known=False)
    assert "panel does not have" in forecast(gone, History(days(3)), None, (None, {}), now=NOW).problem


def test_holds_chains_and_bad_copies_count_as_they_do_when_pruning() -> None:
    first, second, third = (backup.id for backup in reversed(days(3)))
    bad = {
        "manifest_sha256": str(third)[:8] * 8,
        "results": [{"copy": "local", "ok": False, "at": "x", "detail": "gone"}],
    }
    backups = [
        backup_of_entry(entry(str(first), hold={"reason": "audit", "until": None})),
        backup_of_entry(entry(str(second), parent=str(first))),
        backup_of_entry(entry(str(third), parent=str(second), verified=bad)),
    ]
    rule = {"keep_daily": 1, "keep_weekly": 0, "keep_monthly": 0}
    plan = forecast(Machine(VM, "web1"), History(backups), rule, (None, {}), now=NOW)
    assert "held: audit" in plan.fates[str(first)].reasons
    assert "newest good" in plan.fates[str(second)].reasons
    assert plan.fates[str(third)].reasons[0].startswith("bad, but nothing newer is good")
    assert backups[2].verified == "bad"
    assert depths(backups) == {first: 0, second: 1, third: 2}
    assert [backup.id for backup in dependants(backups, str(first))] == [third, second]


def test_a_row_is_the_entry_that_it_was_made_of() -> None:
    made = entry(ID)
    meta = {**made, "node": "node1", "vm_name": "web1", "state": "ready"}
    row = {"label": None, "vm_uuid": VM, "made": "2026-11-22 01:00:00", "status": "ready", "storage": "local"}
    row.update({name: made[name] for name in ("type", "size_bytes", "checksum_sha256")})
    found = backup_of_row({**row, "meta": json.dumps(meta)})
    assert (found.id, found.moment, found.status) == (ID, datetime(2026, 11, 22, 1, tzinfo=timezone.utc), "ready")
    same = set(made) - {"vm_name", "path", "s3_key"}
    assert {name: found.entry[name] for name in same} == {name: made[name] for name in same}
    for meta_text in (None, "{", "[]", '{"id": "../x", "node": "n"}', '{"id": 7}'):
        foreign = backup_of_row({**row, "meta": meta_text, "label": "nightly"})
        assert (foreign.id, foreign.entry["label"], foreign.moment) == (None, "nightly", found.moment)
    deleting = backup_of_row({**row, "status": "failed", "meta": json.dumps({**meta, "state": "deleting"})})
    assert deleting.status == "deleting"


@given(
    st.lists(
        st.tuples(
            st.dates(date(2024, 1, 1), date(2027, 1, 1)),
            st.sampled_from(["local", "s3", "hybrid"]),
            st.integers(0, 1 << 50),
        ),
        max_size=20,
    )
)
def test_a_chart_ends_with_all_that_there_is(added: list[tuple[date, str, int]]) -> None:
    made = chart(added, today=NOW.date())
    if not added:
        assert made is None
        return
    assert made is not None
    assert made.total == sum(size * (2 if storage == "hybrid" else 1) for _day, storage, size in added) <= made.top
    heights = [float(point.split(",")[1]) for point in f"{made.local} {made.s3}".split()]
    assert all(0 <= height <= HEIGHT for height in heights)


def test_what_is_gone_was_there() -> None:
    steps = [
        (date(2024, 12, 24), "local", 8),
        (date(2026, 9, 10), "s3", 4),
        (date(2026, 9, 10), "hybrid", 1),
        (date(2026, 10, 5), "local", -8),
        (NOW.date(), "hybrid", -1),
    ]
    made = chart(steps, today=NOW.date())
    assert made is not None
    assert made.table[0] == (date(2025, 11, 30), 8, 0)
    assert [row[1:] for row in made.table[-4:]] == [(8, 0), (9, 5), (1, 5), (0, 4)]
    assert made.total == 4
    backwards = chart([(NOW.date(), "local", 5), (date(2026, 11, 21), "local", -5)], today=NOW.date())
    assert backwards is not None
    assert backwards.table == ((NOW.date(), 0, 0),)


@pytest.mark.parametrize(
    ("lines", "task", "percent", "text"),
    [
        ([], "", None, ""),
        (["TASK [vmforge.backup.backup : Back up] ***"], "Back up", None, ""),
        (
            ["TASK [Back up] *", "web1  42 %  1.9 of 4.6 GiB  612 MiB/s  0:04 left", "ok: [node1]"],
            "Back up",
            42,
            "1.9 of 4.6 GiB 612 MiB/s 0:04 left",
        ),
        (["TASK [a] *", "web1  42 %  x", "TASK [b] *"], "b", None, ""),
        (["web1 420 %"], "", None, ""),
    ],
)
def test_progress(lines: list[str], task: str, percent: int | None, text: str) -> None:
    found = progress(lines)
    assert (found.task, found.percent, found.text) == (task, percent, text)


def test_lines_of_playbooks_are_understood() -> None:
    said = {"vm": {"name": "web 1"}, "phase": "syncing", "bytes_done": 42, "bytes_total": 100, "rate": 7, "eta": 9}
    for phase in ("reading", "syncing"):
        found = progress([progress_line({**said, "phase": phase})])
        assert (found.percent, found.text) == (42, "42 of 100 B 7 B/s 0:09 left")


def test_what_a_terminal_would_do_is_gone() -> None:
    assert clean("\x1b[0;32mok\x1b[0m\r\nnext\x07\x1b]0;title") == "ok\nnext]0;title"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 bytes"), (None, "0 bytes"), (1536, "1.5 KiB"), (5 << 30, "5 GiB"), (1 << 60, "1024 PiB")]
)
def test_sizes(value: int | None, text: str) -> None:
    assert size(value) == text


def test_times() -> None:
    assert [age(NOW - timedelta(**ago), NOW) for ago in ({"days": 3}, {"hours": 30}, {"minutes": 59}, {})] == [
        "3 d",
        "30 h",
        "59 min",
        "now",
    ]
    assert moment("2026-11-22T15:12:00.25+01:00") == "2026-11-22 14:12"
    assert (moment("x"), age(None, NOW), age(NOW + timedelta(1), NOW)) == ("", "never", "in the future")


def test_what_is_kept_is_made_anew_when_it_has_changed() -> None:
    kept: Kept[int] = Kept(2)
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    asked = [("a", 1), ("a", 1), ("b", 1), ("a", 2), ("c", 1), ("a", 2), ("b", 1)]
    assert [kept.get(key, stamp, make) for key, stamp in asked] == [0, 0, 1, 2, 3, 2, 4]


def test_jobs_are_kept_marked_and_forgotten(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", keep=2)
    made = [jobs.begin({"action": "backup", "vm": VM}) for _number in range(3)]
    jobs.mark_lost()
    assert {record["state"] for record in jobs.all()} == {"lost"}
    running = jobs.begin({"action": "backup", "vm": VM})
    jobs.forget_old()
    left = {record["job"] for record in jobs.all()}
    assert running["job"] in left
    assert len(left) == 3
    (tmp_path / "job.json").write_text("{}")
    for name in ("../jobs", "..", "", made[0]["job"] + "/../x", "20261122T151200Z-0123abcd"):
        with pytest.raises(MissingError):
            jobs.read(name)


def test_what_cannot_be_removed_or_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs(tmp_path / "jobs", keep=0)
    stuck, broken = (jobs.begin({"action": "backup", "vm": VM})["job"] for _number in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rmdir", _refuse)
        patch.setattr(os, "unlink", _refuse)
        jobs.mark_lost()
        jobs.forget_old()
    assert [message.split(" cannot be removed: ") for message in caplog.messages] == [
        [str(tmp_path / "jobs" / job), "no"] for job in sorted((stuck, broken), reverse=True)
    ]
    caplog.clear()
    (tmp_path / "jobs" / broken / "job.json").write_text("{")
    assert [record["job"] for record in jobs.all()] == [stuck]
    jobs.mark_lost()
    assert caplog.messages == [f"job {broken} is removed: The record of this job cannot be read."]
    jobs.forget_old()
    remove(tmp_path / "jobs" / stuck)
    assert list((tmp_path / "jobs").iterdir()) == []
    assert len(caplog.messages) == 1


def _refuse(*_unused: Any, **_options: Any) -> None:
    raise PermissionError("no")


def test_the_role_writes_what_the_programs_read(tmp_path: Path) -> None:
    values: dict[str, Any] = {"vmforge_backup_db_host": "db", "vmforge_backup_ui_admin_password_hash": "$argon2id$x"}
    environment = NativeEnvironment()

    def render(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: render(item) for name, item in value.items()}
        return environment.from_string(value).render(values) if isinstance(value, str) else value

    environment.filters["bool"] = bool
    for file in ("defaults", "vars"):
        for name, value in yaml.safe_load((ROLE / file / "main.yml").read_text()).items():
            values.setdefault(name, value if name in ("__ui_web", "__ui_runner") else render(value))
    for name, kind in (("web", WebConfig), ("runner", RunnerConfig)):
        # What is referred to may stand further down.
        values.update({part: render(values[part]) for part in ("__ui_database", "__ui_admin")})
        (tmp_path / name).write_text(json.dumps(render(values[f"__ui_{name}"])))
        found = kind.read(tmp_path / name)
        if isinstance(found, WebConfig):
            assert found.database is not None
            assert found.admin is not None
            assert (found.database["db_port"], found.secure, found.listen) == (3306, True, "127.0.0.1:8437")
    (tmp_path / "web").write_text('{"runner": "", "audit_log": "", "x": 1}')
    with pytest.raises(SystemExit, match="means nothing: x"):
        WebConfig.read(tmp_path / "web")
