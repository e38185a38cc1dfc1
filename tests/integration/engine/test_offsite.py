# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies in S3: beside a local one or instead of it, and every way in which S3 can fail."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _new_backup, _offsite_upload, _s3_client
from ansible_collections.vmforge.backup.plugins.module_utils._local import VmDirectory
from tests.bed.guest import MIB, Guest
from tests.bed.s3 import S3Server
from tests.bed.s3_proxy import Proxy, cutting_proxy

from .driver import (
    Engine,
    assert_nothing_unfinished,
    assert_unhurt,
    downloaded,
    keys,
    multiparts,
    verify,
)

ONLY_S3 = {"delete_local_after_upload": True}
SLOW = 3 * MIB
_MORE = pytest.mark.exhaustive


@pytest.fixture
def proxy(server: S3Server, offsite: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What the engine talks to S3 through; with patience cut short."""
    monkeypatch.setattr(_s3_client, "_QUICK_ATTEMPTS", 2)
    monkeypatch.setattr(_s3_client, "_PATIENT_ATTEMPTS", 2)
    with cutting_proxy(server.port) as found:
        offsite.s3["s3_endpoint"] = f"http://127.0.0.1:{found.port}"
        yield found


def prefix(engine: Engine, guest: Guest) -> str:
    return f"{engine.s3['s3_prefix']}/{guest.uuid}/"


def test_both_copies_are_the_same(offsite: Engine, guest: Guest, server: S3Server) -> None:
    before = guest.wrote()
    entry = offsite.backup(guest)
    assert entry["copies"] == ["local", "s3"]
    assert entry["s3_key"] == f"{prefix(offsite, guest)}{entry['id']}"
    path = Path(entry["path"])
    with downloaded(offsite, server, entry["s3_key"]) as copy:
        names = {file.name for file in copy.iterdir()}
        assert names == {file.name for file in path.iterdir()} - {"offsite.json"}
        assert all((copy / name).read_bytes() == (path / name).read_bytes() for name in names)
        assert before <= verify(copy, guest)
    (listed,) = offsite.ready(guest, bucket=True)
    assert listed["copies"] == ["local", "s3"]
    assert listed["offsite_pending"] is False
    assert_unhurt(offsite, guest)
    assert_nothing_unfinished(offsite, guest, server)


class Watch(threading.Thread):
    """Looks at a directory all the time: the largest file that it ever saw there, and every name."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.largest, self.names = path, 0, set[str]()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            for folder, _folders, files in os.walk(self.path):
                for name in files:
                    try:
                        self.largest = max(self.largest, os.stat(os.path.join(folder, name)).st_size)
                    except FileNotFoundError:
                        continue
                    self.names.add(name)


def test_only_in_s3_nothing_of_the_disks_is_ever_here(offsite: Engine, guest: Guest, server: S3Server) -> None:
    watch = Watch(offsite.backup_dir)
    watch.start()
    running = offsite.start(guest, rate_limit=8 * MIB, **ONLY_S3)
    entry = running.wait()
    watch.over.set()
    watch.join()
    assert entry["error"] is None, entry
    assert entry["copies"] == ["s3"]
    assert "progress.json" in watch.names
    assert not any(name.endswith(".qcow2") for name in watch.names)
    assert watch.largest < MIB // 4
    (listed,) = offsite.ready(guest, bucket=True)
    assert listed["copies"] == ["s3"]
    assert_unhurt(offsite, guest)
    assert_nothing_unfinished(offsite, guest, server)
    # A machine that never saw the VM knows as much.
    empty = offsite.place / "empty"
    empty.mkdir()
    (there,) = offsite.entries(guest, bucket=True, path=empty)
    for name in ("status", "id", "checksum_sha256", "size_bytes", "copies", "disks", "vm"):
        assert there[name] == listed[name]
    assert offsite.entries(guest, bucket=True, path=offsite.place / "missing") == [there]
    # And this one knows it without asking S3.
    (known,) = offsite.ready(guest)
    assert known["copies"] == ["s3"]


@pytest.mark.parametrize("by_max_age", [False, pytest.param(True, marks=_MORE)])
def test_s3_fails_in_the_middle_and_the_next_call_completes_it(
    offsite: Engine, guest: Guest, server: S3Server, proxy: Proxy, by_max_age: bool
) -> None:
    proxy.cut(after=4 * MIB)
    failed = offsite.run(guest)
    assert (failed["result"], failed["copies"]) == ("failed", ["local"]), failed
    assert "its copy in S3 was not" in failed["error"]["message"]
    assert "The next run completes it" in failed["error"]["message"]
    assert failed["error"]["code"].startswith("s3")
    verify(Path(failed["path"]), guest)
    (entry,) = offsite.ready(guest)
    assert (entry["copies"], entry["offsite_pending"]) == (["local"], True)
    assert_unhurt(offsite, guest)
    proxy.heal()
    assert not any(key.endswith("manifest.json") for key in keys(server, prefix(offsite, guest)))
    again = offsite.backup(guest, **({"max_age": "1h"} if by_max_age else {}))
    if by_max_age:
        assert (again["result"], again["id"], again["copies"]) == ("uploaded", failed["id"], ["local", "s3"])
        assert offsite.backup(guest, max_age="1h")["result"] == "fresh"
    else:
        assert again["result"] == "created"
        assert again["id"] > failed["id"]
    ready = offsite.ready(guest, bucket=True)
    assert {tuple(item["copies"]) for item in ready} == {("local", "s3")}
    assert len(ready) == (1 if by_max_age else 2)
    assert_nothing_unfinished(offsite, guest, server)


def test_s3_is_away_from_the_start(offsite: Engine, guest: Guest, server: S3Server, proxy: Proxy) -> None:
    proxy.cut(after=0)
    failed = offsite.run(guest)
    assert (failed["result"], failed["copies"]) == ("failed", ["local"]), failed
    proxy.heal()
    again = offsite.backup(guest, max_age="1h")
    assert (again["result"], again["id"]) == ("uploaded", failed["id"])
    assert_nothing_unfinished(offsite, guest, server)


def test_a_few_cut_connections_do_not_matter(
    offsite: Engine, guest: Guest, server: S3Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    proxy.cut(after=2 * MIB, times=2)
    entry = offsite.backup(guest)
    assert proxy.was_cut >= 1
    assert entry["copies"] == ["local", "s3"]
    assert_nothing_unfinished(offsite, guest, server)


def test_only_in_s3_and_s3_fails(offsite: Engine, guest: Guest, server: S3Server, proxy: Proxy) -> None:
    proxy.cut(after=4 * MIB)
    failed = offsite.run(guest, **ONLY_S3)
    assert (failed["result"], failed["copies"]) == ("failed", [])
    assert offsite.ready(guest) == []
    (failure,) = offsite.failures(guest)
    assert failure["code"].startswith("s3"), failure
    assert any("the next run will" in text for text in failed["warnings"]), failed
    assert_unhurt(offsite, guest)
    proxy.heal()
    # What could not be removed while S3 was away is removed by the next run.
    entry = offsite.backup(guest, **ONLY_S3)
    assert entry["copies"] == ["s3"]
    assert {key.split("/")[3] for key in keys(server, prefix(offsite, guest))} == {entry["id"]}
    assert offsite.failures(guest) == [failure]
    assert_nothing_unfinished(offsite, guest, server)


def test_keys_that_may_only_write(offsite: Engine, guest: Guest, server: S3Server) -> None:
    offsite.s3.update(server.params(server.write_only))
    entry = offsite.backup(guest)
    assert entry["copies"] == ["local", "s3"]
    only = offsite.backup(guest, **ONLY_S3)
    assert only["copies"] == ["s3"]
    offsite.s3.update(server.params())
    assert len(offsite.ready(guest, bucket=True)) == 2
    assert_unhurt(offsite, guest)
    assert_nothing_unfinished(offsite, guest, server)


@pytest.mark.parametrize("mode", [pytest.param("both", marks=_MORE), "only"])
def test_sigterm_leaves_nothing_in_s3(offsite: Engine, guest: Guest, server: S3Server, mode: str) -> None:
    running = offsite.start(guest, rate_limit=SLOW, **(ONLY_S3 if mode == "only" else {}))
    running.middle()
    running.kill(signal.SIGTERM)
    assert running.wait()["error"]["code"] == "cancelled"
    assert_unhurt(offsite, guest)
    assert keys(server, prefix(offsite, guest)) == []
    assert multiparts(server, prefix(offsite, guest)) == []
    assert offsite.partials(guest) == []


@pytest.mark.parametrize("mode", ["both", pytest.param("only", marks=_MORE)])
def test_kill_9_leaves_nothing_in_s3_after_the_next_run(
    offsite: Engine, guest: Guest, server: S3Server, mode: str
) -> None:
    more = ONLY_S3 if mode == "only" else {}
    running = offsite.start(guest, rate_limit=SLOW, **more)
    running.middle()
    running.kill_all()
    running.wait()
    assert offsite.ready(guest, bucket=True) == []
    assert len(multiparts(server, prefix(offsite, guest))) >= 1
    entry = offsite.backup(guest, **more)
    assert {key.split("/")[3] for key in keys(server, prefix(offsite, guest))} == {entry["id"]}
    assert_unhurt(offsite, guest)
    assert_nothing_unfinished(offsite, guest, server)


def die(*_arguments: Any, **_more: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


MOMENTS = {
    "before the local commit": (_new_backup.NewBackup, "_commit"),
    "before the rename": (VmDirectory, "commit"),
    "before the upload of the manifest": (_new_backup, "finish_offsite"),
    "behind the upload of the manifest": (_offsite_upload, "write_json"),
    "before the local disks are dropped": (_offsite_upload, "drop_disks"),
}


NEVER_REACHED = {
    ("before the upload of the manifest", "only"),
    ("behind the upload of the manifest", "only"),
    ("before the local disks are dropped", "only"),
    ("before the local disks are dropped", "both"),
}
# Of those that are, these are always tried.
ALWAYS = {
    ("before the local commit", "only"),
    ("before the rename", "both"),
    ("before the upload of the manifest", "both"),
    ("behind the upload of the manifest", "both"),
}


@pytest.mark.parametrize(
    ("moment", "mode"),
    [
        pytest.param(moment, mode, marks=() if (moment, mode) in ALWAYS else _MORE)
        for moment in MOMENTS
        for mode in ("both", "only")
    ],
)
def test_kill_9_between_the_commits(
    offsite: Engine, guest: Guest, server: S3Server, monkeypatch: pytest.MonkeyPatch, moment: str, mode: str
) -> None:
    """At every step between the last byte of data and the end, the next run makes a whole backup of it."""
    more = ONLY_S3 if mode == "only" else {}
    monkeypatch.setattr(*MOMENTS[moment], die)
    entry = offsite.run(guest, **more)
    monkeypatch.undo()
    if entry["result"] != "died":
        assert entry["error"] is None, entry
        assert (moment, mode) in NEVER_REACHED
        return
    assert_unhurt(offsite, guest)
    again = offsite.backup(guest, max_age="1h", **more)
    assert again["result"] in ("uploaded", "fresh"), again
    (ready,) = offsite.ready(guest, bucket=True)
    assert set(ready["copies"]) == ({"s3"} if mode == "only" else {"local", "s3"})
    assert_nothing_unfinished(offsite, guest, server)


def test_a_damaged_backup_does_not_stop_new_ones(offsite: Engine, guest: Guest, server: S3Server, proxy: Proxy) -> None:
    """It waits for its upload for ever, and every run says so; but it makes its own backup first."""
    proxy.cut(after=0)
    broken = Path(offsite.run(guest)["path"])
    proxy.heal()
    with (broken / "vda.qcow2").open("r+b") as image:
        image.seek(MIB)
        image.write(b"damaged" * 100)
    entry = offsite.run(guest)
    assert entry["result"] == "failed"
    assert broken.name in entry["error"]["message"]
    assert len(offsite.ready(guest)) == 2
    shutil.rmtree(broken)
    assert_nothing_unfinished(offsite, guest, server)


def test_a_copy_that_vanished_from_s3_is_not_called_one(offsite: Engine, guest: Guest, server: S3Server) -> None:
    both = offsite.backup(guest)
    only = offsite.backup(guest, **ONLY_S3)
    client = server.client()
    for key in keys(server, prefix(offsite, guest)):
        client.delete_object(Bucket=server.bucket, Key=key)
    client.close()
    found = {entry["id"]: entry for entry in offsite.entries(guest, bucket=True)}
    assert found[both["id"]]["copies"] == ["local"]
    assert found[only["id"]]["copies"] == []
    assert "S3" in found[only["id"]]["error"]
