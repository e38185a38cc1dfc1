# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that goes on by itself: it is found again, told once, and its end is noticed whatever it is."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _follow_job, _job
from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._job import Job, Jobs, job_key
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._progress import Progress

FACTS = {"module": "m", "vm": ["web1"]}
Work = Callable[[], Mapping[str, Any]]


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "run" / "jobs")


def waiting_for(path: Path, answer: Mapping[str, Any]) -> Work:
    """Work that goes on until a file is there."""

    def work() -> Mapping[str, Any]:
        progress = Progress(None, {"vm": {"name": "web1"}})
        progress.enter("reading", total=10)
        while not path.exists():
            time.sleep(0.01)
        return answer

    return work


def begun(job: Job) -> Mapping[str, Any]:
    """Wait until it says how far it is."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if (job.path / "job.json").exists() and job.state()["progress"]:
            return job.state()
        time.sleep(0.01)
    raise AssertionError("it did not begin")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"vm": ["a"], "secret": "2"}, True),
        ({"secret": "1", "vm": ["a"]}, True),
        ({"vm": ["b"], "secret": "1"}, False),
        ({"vm": ["a"], "secret": "1", "more": None}, False),
    ],
)
def test_the_same_question_has_the_same_key_and_no_secret_counts(other: dict[str, Any], same: bool) -> None:
    key = job_key("m", {"vm": ["a"], "secret": "1"}, {"secret"})
    assert (job_key("m", other, {"secret"}) == key) is same
    assert job_key("n", {"vm": ["a"], "secret": "1"}, {"secret"}) != key


def test_it_goes_on_is_joined_and_is_told_to_all_who_wait(jobs: Jobs, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first, joined = jobs.begin_or_join("k", FACTS, waiting_for(go, {"values": {"x": 1}}))
    assert not joined
    assert not first.wait(0)
    state = begun(first)
    assert (state["module"], state["vm"], state["job"]) == ("m", ["web1"], first.name)
    assert (state["progress"][0]["phase"], state["progress"][0]["pid"]) == ("reading", state["pid"])
    assert os.getsid(state["pid"]) == state["pid"] != os.getsid(0)
    assert [job.name for job in jobs.running()] == [first.name]
    other, joined = jobs.begin_or_join("k", FACTS, waiting_for(go, {"values": {"x": 2}}))
    assert (other.name, joined) == (first.name, True)
    another, joined = jobs.begin_or_join("l", FACTS, lambda: {"values": {}})
    assert (another.name != first.name, joined) == (True, False)
    go.touch()
    assert jobs.get(first.name).wait(180)
    assert first.take() == other.take() == {"values": {"x": 1}}
    new, joined = jobs.begin_or_join("k", FACTS, lambda: {"values": {"x": 3}})
    assert (new.wait(180), new.take(), joined) == (True, {"values": {"x": 3}}, False)


def test_nobody_else_can_read_it(jobs: Jobs) -> None:
    job, _joined = jobs.begin_or_join("k", FACTS, lambda: {"values": {}})
    assert job.wait(180)
    for path in (job.path.parent, job.path, *job.path.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.parametrize(
    ("answer", "age", "told"),
    [
        ({"values": {"x": 1}}, 0, True),
        ({"values": {"x": 1}}, _job.TELL_SECONDS + 1, False),
        ({"values": {"x": 1}, "failure": "no"}, 0, False),
    ],
    ids=["told", "too old", "failed, so tried again"],
)
def test_an_answer_that_nobody_got(jobs: Jobs, answer: Mapping[str, Any], age: int, told: bool) -> None:
    first, _joined = jobs.begin_or_join("k", FACTS, lambda: answer)
    assert first.wait(180)
    while first.is_alive():
        time.sleep(0.01)
    when = time.time() - age
    os.utime(first.path / "answer.json", (when, when))
    again, joined = jobs.begin_or_join("k", FACTS, lambda: {"values": {"x": 2}})
    assert again.wait(180)
    assert (joined, again.take()["values"]["x"]) == (told, 1 if told else 2)
    third, joined = jobs.begin_or_join("k", FACTS, lambda: {"values": {"x": 3}})
    assert (third.wait(180), joined, third.take()["values"]["x"]) == (True, False, 3)


def test_a_killed_process_is_an_error_and_begun_again(jobs: Jobs, tmp_path: Path) -> None:
    job, _joined = jobs.begin_or_join("k", FACTS, waiting_for(tmp_path / "never", {}))
    os.kill(begun(job)["pid"], signal.SIGKILL)
    with pytest.raises(VMForgeError, match="was killed"):
        job.wait(180)
    again, joined = jobs.begin_or_join("k", FACTS, lambda: {"values": {}})
    assert (again.wait(180), joined) == (True, False)


def test_what_nobody_expected_is_told(jobs: Jobs) -> None:
    job, _joined = jobs.begin_or_join("k", FACTS, lambda: {"x": 1 // 0})
    assert job.wait(180)
    assert "ZeroDivisionError" in job.take()["failure"]


def test_old_ones_are_forgotten_and_running_ones_are_not(jobs: Jobs, tmp_path: Path) -> None:
    old, _joined = jobs.begin_or_join("k", FACTS, lambda: {"values": {}})
    assert old.wait(180)
    go = tmp_path / "go"
    long, _joined = jobs.begin_or_join("l", FACTS, waiting_for(go, {"values": {}}))
    begun(long)
    for job in (old, long):
        os.utime(job.path, (0, 0))
    jobs.begin_or_join("m", FACTS, lambda: {"values": {}})
    assert not old.path.exists()
    with pytest.raises(NotFoundError, match="may have been restarted"):
        jobs.get(old.name)
    go.touch()
    assert long.wait(180)


def test_what_goes_on_is_told_in_rows_and_followed_to_its_end(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_follow_job, "Jobs", lambda: jobs)

    def follow(**params: Any) -> Any:
        return _follow_job.follow_job(Request({"job": None, "wait": 0, **params}))

    assert follow().values == {"jobs": [], "vms": []}
    silent, _joined = jobs.begin_or_join("j", FACTS, waiting_for(tmp_path / "go", {"values": {}}))
    begun(silent)
    (silent.path / "job.json").rename(silent.path / "unsaid.json")
    assert follow().values["jobs"] == [], "one that has not said yet what it is"
    facts = {"module": "vmforge.backup.vmforge_backup", "vm": ["web1", "web2"]}
    job, _joined = jobs.begin_or_join("k", facts, waiting_for(tmp_path / "go", {"values": {"x": 1}, "failure": "no"}))
    begun(job)
    [row] = follow().values["vms"]
    assert (row["vm"], row["work"], row["phase"], row["percent"]) == ("web1", "backup", "reading", 0)
    for path in (job.path / "progress").iterdir():
        path.unlink()
    [row] = follow().values["vms"]
    assert (row["vm"], row["work"], row["phase"]) == ("web1, web2", "backup", "waiting")
    assert follow(job=job.name).values["job"]["job"] == job.name
    (tmp_path / "go").touch()
    outcome = follow(job=job.name, wait=180)
    assert (outcome.changed, outcome.failure, outcome.values) == (False, "no", {"x": 1})
