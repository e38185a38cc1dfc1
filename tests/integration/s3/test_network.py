# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut connections, dying servers, lost answers and signals in the middle: it works all the same, or leaves nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _s3_checksum
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import check_access
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from tests.bed.s3 import S3Server
from tests.bed.s3_proxy import cutting_proxy

from .conftest import MakeStore

MIB = 1024 * 1024


def test_a_connection_cut_in_the_middle_of_a_part_is_retried(server: S3Server, make_store: MakeStore) -> None:
    data = os.urandom(16 * MIB)
    with cutting_proxy(server.port) as proxy:
        store = make_store(server, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
        upload = store.multipart(store.config.key("cut"))
        proxy.cut(after=5 * MIB, times=2)
        upload.upload_part(1, memoryview(data), sha256=hashlib.sha256(data).digest())
        assert proxy.was_cut == 2
        upload.complete()
        assert store.get(upload.key, max_size=len(data)) == data


@pytest.mark.usefixtures("no_waiting")
def test_a_dead_network_ends_an_upload_and_leaves_no_part(
    server: S3Server, make_store: MakeStore, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(23 * MIB))
    with cutting_proxy(server.port) as proxy:
        store = make_store(server, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
        assert store.checksum
        proxy.cut(after=8 * MIB, times=11)
        with pytest.raises(S3Error) as caught:
            store.upload_file(store.config.key("dead"), str(source), part_size=5 * MIB, parallel=1)
        assert caught.value.code == "s3_unreachable"
        proxy.heal()
        assert store.list_multiparts(store.config.prefix) == []
        assert store.list(store.config.prefix) == []


def test_a_lost_answer_to_the_completion_is_found_out(
    seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(seaweed)
    upload = store.multipart(store.config.key("lost"))
    upload.upload_part(1, b"x", sha256=hashlib.sha256(b"x").digest())
    complete = upload._client.complete_multipart_upload

    def twice(**request: Any) -> Any:
        complete(**request)
        return complete(**dict(request, UploadId=request["UploadId"] + "-unknown"))

    monkeypatch.setattr(upload._client, "complete_multipart_upload", twice)
    assert upload.complete().size == 1


def test_a_download_that_is_cut_goes_on(seaweed: S3Server, make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(seaweed)
    key = store.config.key("down")
    data = os.urandom(12 * MIB)
    (tmp_path / "source").write_bytes(data)
    store.upload_file(key, str(tmp_path / "source"), part_size=5 * MIB)
    with cutting_proxy(seaweed.port) as proxy:
        slow = make_store(seaweed, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
        slow.head(key)
        proxy.cut(after=1, times=3)
        slow.download_file(key, str(tmp_path / "copy"), part_size=5 * MIB)
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.once
def test_a_server_killed_and_started_again_in_the_middle(seaweed: S3Server, make_store: MakeStore) -> None:
    store = make_store(seaweed)
    upload = store.multipart(store.config.key("restart"))
    data = os.urandom(6 * MIB)
    upload.upload_part(2, b"end", sha256=hashlib.sha256(b"end").digest())
    seaweed.stop(9)
    starter = threading.Thread(target=seaweed.start)
    starter.start()
    upload.upload_part(1, data, sha256=hashlib.sha256(data).digest())
    starter.join()
    assert upload.complete().size == len(data) + 3
    assert store.get(upload.key, max_size=7 * MIB) == data + b"end"


def test_a_signal_in_the_middle_of_a_request_is_not_taken_for_the_network(
    simple: S3Server, make_store: MakeStore
) -> None:
    def cancel(*_arguments: Any) -> None:
        raise CancelledError("asked to stop")

    previous = signal.signal(signal.SIGALRM, cancel)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = make_store(simple, s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            with pytest.raises(CancelledError, match="asked to stop"):
                store.head("x")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


def probes(store: S3Store) -> list[str]:
    return [upload[0] for upload in store.list_multiparts(store.config.key(_s3_checksum.PROBE_NAME))]


@pytest.mark.once
@pytest.mark.parametrize("operation", ["create_multipart_upload", "upload_part", "abort_multipart_upload"])
@pytest.mark.parametrize("early", [True, False], ids=["before", "behind"])
def test_a_signal_while_checksums_are_probed_leaves_no_upload(
    seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, operation: str, early: bool
) -> None:
    monkeypatch.setattr(_s3_checksum, "_known", {})
    store = make_store(seaweed)
    real = getattr(store._client, operation)

    def signalled(**request: Any) -> Any:
        if early:
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            return real(**request)
        finally:
            if not early:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(store._client, operation, signalled)
    with pytest.raises(CancelledError, match="SIGTERM"):
        check_access(store, must_answer=True)
    assert probes(make_store(seaweed)) == []


@pytest.mark.once
@pytest.mark.parametrize("how", ["finished", "younger than a minute"])
def test_what_a_killed_probe_has_left_is_cleared(
    seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(_s3_checksum, "_known", {})
    store = make_store(seaweed)
    pid = os.fork()
    if not pid:
        monkeypatch.setattr(store._client, "upload_part", lambda **_request: os.kill(os.getpid(), signal.SIGKILL))
        check_access(store, must_answer=True)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    later = make_store(seaweed)
    assert probes(later) == [store.config.key(_s3_checksum.PROBE_NAME)]
    if how == "finished":
        # As if a minute had passed: a younger one may be that of another node, which asks at this very moment.
        monkeypatch.setattr(_s3_checksum, "PROBE_SECONDS", -60)
    check_access(later, must_answer=True)
    assert len(probes(later)) == (0 if how == "finished" else 1)


@pytest.mark.once
def test_a_probe_that_another_run_has_cleared_is_no_failure(
    seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_s3_checksum, "_known", {})
    store = make_store(seaweed)
    real = store._client.upload_part

    def cleared(**request: Any) -> Any:
        other = make_store(seaweed)
        other.abort_multiparts(other.config.key(_s3_checksum.PROBE_NAME))
        return real(**request)

    monkeypatch.setattr(store._client, "upload_part", cleared)
    assert store.checksum in ("sha256", "md5")
