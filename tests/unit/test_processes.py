# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process per VM: answers in order, deaths told apart, and signals that reach every one of them, once."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _processes
from ansible_collections.vmforge.backup.plugins.module_utils._processes import run_each
from ansible_collections.vmforge.backup.plugins.module_utils._signals import Interrupted


def wait_until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def died(index: int, why: str) -> dict[str, Any]:
    return {"index": index, "why": why}


def test_answers_come_in_order_whatever_ends_first() -> None:
    def work(number: int) -> Callable[[], Any]:
        def run() -> Any:
            time.sleep(0.2 - number * 0.06)
            return {"number": number, "pid": os.getpid(), "text": "é" * 100_000}

        return run

    found = run_each([work(number) for number in range(3)], parallel=3, died=died)
    assert [value["number"] for value in found] == [0, 1, 2]
    assert len({value["pid"] for value in found} | {os.getpid()}) == 4
    assert all(len(value["text"]) == 100_000 for value in found)


def test_never_more_than_so_many_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def note(mark: str) -> None:
        with log.open("a") as file:
            file.write(mark)

    def work() -> None:
        note("+")
        # The first does not end before the second has begun.
        wait_until(lambda: log.read_text().count("+") >= 2)
        note("-")

    run_each([work] * 5, parallel=2, died=died)
    marks = log.read_text()
    assert sorted(marks) == ["+"] * 5 + ["-"] * 5
    assert max(marks[:end].count("+") - marks[:end].count("-") for end in range(11)) == 2


def test_no_work() -> None:
    assert run_each([], parallel=2, died=died) == []


def test_ways_to_die_without_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def raises() -> None:
        raise KeyError("unexpected")

    found = run_each([killed, raises, lambda: "fine"], parallel=1, died=died)
    assert found[0] == {"index": 0, "why": "its process was killed by SIGKILL"}
    assert found[1]["index"] == 1
    assert "its process ended with" in found[1]["why"]
    assert found[2] == "fine"
    capfd.readouterr()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_nothing_more_is_begun(number: signal.Signals, tmp_path: Path) -> None:
    def work() -> str:
        try:
            (tmp_path / str(os.getpid())).touch()
            time.sleep(600)
        except Interrupted as error:
            # What cleans up is not interrupted again.
            os.kill(os.getpid(), number)
            return str(error)
        return "not cancelled"

    before = signal.getsignal(number)

    def send() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    found = run_each([work] * 3, parallel=2, died=died)
    sender.join()
    assert all(number.name in text for text in found[:2]), found
    assert found[2] == {"index": 2, "why": "it was not begun, for the run was stopped"}
    assert signal.getsignal(number) == before


def test_one_that_nobody_listens_to_does_not_go_on_as_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_values: Any) -> Any:
        raise BrokenPipeError

    monkeypatch.setattr(_processes.os, "fdopen", broken)
    parent = os.getpid()
    try:
        found = run_each([lambda: 1], parallel=1, died=died)
    finally:
        if os.getpid() != parent:
            (tmp_path / "went on").touch()
            os._exit(1)
    assert found == [{"index": 0, "why": "its process ended with no answer"}]
    assert not (tmp_path / "went on").exists()
