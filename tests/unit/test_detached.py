# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that follows work on a node: what it asks, what it shows, and what it bears."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure

from ansible_collections.vmforge.backup.plugins.plugin_utils import _detached
from ansible_collections.vmforge.backup.plugins.plugin_utils._detached import DetachedAction
from ansible_collections.vmforge.backup.plugins.plugin_utils._patience import patiently

DONE = {"changed": True, "backups": []}
LOST = AnsibleConnectionFailure("the line is dead")
VARIABLE = "vmforge_backup_progress_interval"


def going(percent: int, *, joined: bool = False) -> dict[str, Any]:
    """What a node says of work that goes on."""
    said = {"vm": {"name": "web1"}, "phase": "reading", "bytes_done": percent << 20, "bytes_total": 100 << 20}
    return {"job": {"job": "0a" * 16, "joined": joined, "begun": "2026-11-22T01:00:00Z", "progress": [said]}}


class Action(DetachedAction):
    """One whose node answers from a list. ``asked`` has what each call was about, and what else was done."""

    def __init__(self, answers: Sequence[Any], **task: Any) -> None:
        kept = {"async_val": 0, "check_mode": False, "no_log": False, "environment": [{"A": "1"}], "action": "backup"}
        self._task = SimpleNamespace(**{**kept, **task})
        self._connection = SimpleNamespace(
            has_native_async=False,
            _shell=SimpleNamespace(tmpdir="/tmp/x"),
            reset=lambda: self.asked.append("reconnect"),
        )
        self._templar = SimpleNamespace(template=lambda value: value)
        self._answers = list(answers)
        self.asked: list[Any] = []

    def _execute_module(self, *_args: Any, **given: Any) -> dict[str, Any]:
        environment = [name for values in self._task.environment for name in values]
        about = (given.get("module_args") or {}).get("job", "wait" if "VMFORGE_BACKUP_WAIT" in environment else "plain")
        self.asked.append((about, bool(given.get("wrap_async"))))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def _remove_tmp_path(self, *_args: Any, **_more: Any) -> None:
        self.asked.append("tidy")


BEGIN, ASK, PLAIN = ("wait", False), ("0a" * 16, False), ("plain", False)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that were printed; nobody waits."""
    lines: list[str] = []
    monkeypatch.setattr(_detached, "show", lines.extend)
    monkeypatch.setattr(_detached, "patiently", partial(patiently, sleep=lambda _seconds: None))
    monkeypatch.setattr(_detached, "Display", lambda: SimpleNamespace(warning=lines.append))
    monkeypatch.delenv(VARIABLE.upper(), raising=False)
    return lines


def test_short_work_is_one_call(shown: list[str]) -> None:
    action = Action([DONE])
    assert (action.run(None, {}), action.asked, shown) == (DONE, [BEGIN], [])
    # What the task itself sets is as it was.
    assert action._task.environment == [{"A": "1"}]


def test_long_work_is_followed_with_lines(shown: list[str]) -> None:
    action = Action([going(10), going(60), DONE])
    assert action.run(None, {}) == DONE
    assert action.asked == [BEGIN, "tidy", ASK, ASK]
    assert shown == ["web1  10 %  10.0 of 100 MiB", "web1  60 %  60.0 of 100 MiB"]


def test_a_second_call_is_told_that_it_joined(shown: list[str]) -> None:
    assert Action([going(10, joined=True), DONE]).run(None, {}) == DONE
    assert "begun at 2026-11-22T01:00:00Z by an earlier call" in shown[0]


@pytest.mark.parametrize(("variables", "task"), [({VARIABLE: 0}, {}), ({VARIABLE: "0"}, {}), ({}, {"no_log": True})])
def test_lines_can_be_turned_off(shown: list[str], variables: dict[str, Any], task: dict[str, Any]) -> None:
    assert Action([going(10), going(60), DONE], **task).run(None, variables) == DONE
    assert shown == []


def test_a_connection_that_comes_back_loses_nothing(shown: list[str]) -> None:
    action = Action([going(10), LOST, LOST, going(60), LOST, DONE])
    assert action.run(None, {}) == DONE
    assert action.asked == [BEGIN, "tidy", ASK, "reconnect", ASK, "reconnect", ASK, ASK, "reconnect", ASK]


def test_one_that_does_not_is_an_error_and_nothing_is_begun_anew(shown: list[str]) -> None:
    action = Action([going(10), *[LOST] * 7])
    with pytest.raises(AnsibleConnectionFailure):
        action.run(None, {})
    assert action.asked.count(BEGIN) == 1


def test_what_is_left_of_a_killed_playbook_takes_no_answer(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([100, 100, 1])
    monkeypatch.setattr(_detached.os, "getppid", lambda: next(parents))
    action = Action([going(10), going(60), DONE])
    with pytest.raises(AnsibleActionFail, match="playbook has ended"):
        action.run(None, {})
    assert action.asked == [BEGIN, "tidy", ASK]


@pytest.mark.parametrize(
    ("task", "asked"),
    [({"check_mode": True}, PLAIN), ({"async_val": 60}, ("plain", True))],
)
def test_check_mode_and_async_are_an_ordinary_module(shown: list[str], task: dict[str, Any], asked: Any) -> None:
    action = Action([DONE], **task)
    assert action.run(None, {}) == DONE
    assert action.asked == [asked]


@pytest.mark.parametrize("value", ["often", -1])
def test_a_wrong_interval_is_named_before_anything_is_begun(shown: list[str], value: Any) -> None:
    action = Action([DONE])
    with pytest.raises(AnsibleActionFail, match=VARIABLE):
        action.run(None, {VARIABLE: value})
    assert action.asked == []
