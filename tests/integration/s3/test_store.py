# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The store against real servers: what is written is what is read, whatever the order, size and name."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _s3_client
from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    CancelledError,
    InputError,
    NotFoundError,
    S3Error,
    StorageError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from tests.bed.s3 import S3Server
from tests.bed.s3_proxy import cutting_proxy

from .conftest import MakeStore

MIB = 1024 * 1024
_MORE = pytest.mark.exhaustive


def digest(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def test_put_get_head_list_delete(store: S3Store) -> None:
    key = store.config.key("a", "manifest.json")
    stored = store.put(key, b'{"schema": 1}', content_type="application/json", metadata={"vm": "web1"})
    assert (stored.key, stored.size) == (key, 13)
    assert store.get(key, max_size=100) == b'{"schema": 1}'
    info = store.head(key)
    assert info is not None
    assert info.size == 13
    assert info.sha256 == hashlib.sha256(b'{"schema": 1}').hexdigest()
    assert info.metadata["vm"] == "web1"
    assert [found.key for found in store.list(store.config.key("a") + "/")] == [key]
    assert store.list_directories(store.config.prefix) == [store.config.key("a") + "/"]
    deletion = store.delete(key)
    assert deletion.existed
    assert deletion.confirmed
    assert store.head(key) is None
    again = store.delete(key)
    assert again.existed is False
    assert again.confirmed


def test_missing_object_is_not_found(store: S3Store) -> None:
    with pytest.raises(NotFoundError, match="There is no"):
        store.get(store.config.key("nothing"), max_size=10)


def test_get_refuses_more_than_asked_for(store: S3Store) -> None:
    key = store.config.key("big")
    store.put(key, b"x" * 1000)
    with pytest.raises(S3Error, match="1000 bytes"):
        store.get(key, max_size=999)


def test_empty_object(store: S3Store) -> None:
    key = store.config.key("empty")
    store.put(key, b"")
    assert store.get(key, max_size=0) == b""


def test_only_if_absent(store: S3Store) -> None:
    key = store.config.key("once")
    store.put(key, b"first", only_if_absent=True)
    store.put(key, b"first", only_if_absent=True)
    with pytest.raises(S3Error) as caught:
        store.put(key, b"second", only_if_absent=True)
    assert caught.value.code == "s3_exists"
    assert store.get(key, max_size=10) == b"first"


def test_only_one_of_many_writers_wins(seaweed: S3Server, make_store: MakeStore) -> None:
    key = make_store(seaweed).config.key("race")
    stores = [make_store(seaweed) for _writer in range(4)]
    begin = threading.Barrier(len(stores))
    codes: list[str] = []

    def write(store: S3Store, data: bytes) -> None:
        begin.wait()
        try:
            store.put(key, data, only_if_absent=True)
            codes.append("won")
        except S3Error as error:
            codes.append(error.code)

    threads = [threading.Thread(target=write, args=(store, b"%d" % at)) for at, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["s3_exists"] * 3 + ["won"]


def test_only_if_absent_is_the_servers_word_too(
    seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(seaweed)
    key = store.config.key("conditional")
    store.put(key, b"first")
    monkeypatch.setattr(store, "_refuse_existing", lambda *_arguments: None)
    with pytest.raises(S3Error) as caught:
        store.put(key, b"second", only_if_absent=True)
    assert caught.value.code == "s3_exists"
    assert store.put(key, b"first", only_if_absent=True).size == 5
    assert store.get(key, max_size=10) == b"first"


ODD_NAMES = (
    "with space",
    "plus+and&percent%25",
    "ümlaut-日本語",
    "quote'\"double",
    "semi;colon,comma",
    "a=b?c#d",
    "~tilde(paren)[bracket]{brace}",
    "pipe|caret^grave`",
    "dollar$at@bang!star*",
    "x" * 200,
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_survive(seaweed: S3Server, make_store: MakeStore, name: str) -> None:
    store = make_store(seaweed)
    key = store.config.key("odd", name, "file")
    store.put(key, name.encode())
    assert store.get(key, max_size=1000) == name.encode()
    assert [found.key for found in store.list(store.config.prefix)] == [key]
    assert store.list_directories(store.config.key("odd")) == [store.config.key("odd", name) + "/"]
    assert store.delete(key).confirmed
    assert store.list(store.config.prefix) == []


@pytest.mark.once
def test_listing_goes_over_many_pages(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = sorted(store.config.key("many", f"{number:03}", "x") for number in range(9))
    for key in keys:
        store.put(key, b"")
    whole = store._client.get_paginator

    def small(operation: str) -> object:
        paginator = whole(operation)
        paginate = paginator.paginate
        paginator.paginate = lambda **request: paginate(**request, PaginationConfig={"PageSize": 4})
        return paginator

    monkeypatch.setattr(store._client, "get_paginator", small)
    assert sorted(found.key for found in store.list(store.config.prefix)) == keys
    assert len(store.list_directories(store.config.key("many"))) == 9


@pytest.mark.parametrize(
    "order", [(2, 3, 4, 1), *(pytest.param(order, marks=_MORE) for order in ((4, 3, 2, 1), (1, 2, 3, 4)))]
)
def test_parts_in_any_order(store: S3Store, order: tuple[int, ...], tmp_path: Path) -> None:
    parts = {number: bytearray(os.urandom(5 * MIB + number)) for number in (1, 2, 3)}
    # rclone wants equal parts no more than S3 does; the last may be tiny.
    parts[4] = bytearray(b"end")
    key = store.config.key("vda.qcow2")
    upload = store.multipart(key)
    for number in order:
        upload.upload_part(number, parts[number], sha256=digest(parts[number]))
    stored = upload.complete()
    assert upload.complete() == stored
    assert stored.size == sum(map(len, parts.values()))
    store.download_file(key, str(tmp_path / "copy"), part_size=5 * MIB)
    assert (tmp_path / "copy").read_bytes() == b"".join(parts[number] for number in sorted(parts))


@pytest.mark.once
def test_parts_from_many_threads(store: S3Store, tmp_path: Path) -> None:
    parts = {number: os.urandom(5 * MIB) for number in range(1, 5)}
    upload = store.multipart(store.config.key("threads"))
    threads = [
        threading.Thread(target=upload.upload_part, args=(number, data), kwargs={"sha256": digest(data)})
        for number, data in parts.items()
    ]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()
    upload.complete()
    store.download_file(store.config.key("threads"), str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b"".join(parts[number] for number in sorted(parts))


def test_an_incomplete_upload_is_not_completed(store: S3Store) -> None:
    upload = store.multipart(store.config.key("hole"))
    upload.upload_part(2, b"two", sha256=digest(b"two"))
    with pytest.raises(S3Error, match="parts are missing"):
        upload.complete()
    upload.abort()
    assert store.head(store.config.key("hole")) is None


def test_the_server_refuses_damaged_data(seaweed: S3Server, make_store: MakeStore) -> None:
    store = make_store(seaweed)
    assert store.checksum == "sha256"
    upload = store.multipart(store.config.key("damaged"))
    with pytest.raises(S3Error) as caught:
        upload.upload_part(1, b"what arrives", sha256=digest(b"what was meant"))
    assert caught.value.code == "s3_corrupt"
    upload.abort()
    with pytest.raises(S3Error):
        store.put(store.config.key("damaged"), b"what arrives", sha256=hashlib.sha256(b"meant").hexdigest())
    assert store.list(store.config.prefix) == []


def test_a_server_that_ignores_sha256_gets_md5(simple: S3Server, make_store: MakeStore) -> None:
    assert make_store(simple).checksum == "md5"


def test_abort_is_final_and_leaves_nothing(store: S3Store) -> None:
    upload = store.multipart(store.config.key("aborted"))
    upload.upload_part(1, b"data", sha256=digest(b"data"))
    upload.abort()
    upload.abort()
    assert store.list_multiparts(store.config.prefix) == []
    with pytest.raises(CancelledError):
        upload.upload_part(2, b"more", sha256=digest(b"more"))
    with pytest.raises(CancelledError):
        upload.complete()


def test_abort_stops_parts_under_way(seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # More than fits into the buffers of sockets.
    data = bytearray(64 * MIB)
    raised: list[BaseException] = []
    with cutting_proxy(seaweed.port) as proxy:
        store = make_store(seaweed, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
        upload = store.multipart(store.config.key("under-way"))
        stop = upload.stop

        def send() -> None:
            try:
                upload.upload_part(1, data, sha256=digest(data))
            except CancelledError as error:
                raised.append(error)

        def stop_and_let_go() -> None:
            stop()
            proxy.let_go()

        monkeypatch.setattr(upload, "stop", stop_and_let_go)
        proxy.hold()
        thread = threading.Thread(target=send)
        thread.start()
        assert proxy.held.wait(300)
        upload.abort()
        thread.join(timeout=300)
        assert not thread.is_alive()
        assert raised
        # Not more than was on its way.
        assert proxy.sent < len(data) // 2
        assert store.list_multiparts(store.config.prefix) == []


def test_leftovers_are_listed_and_reaped_by_age(store: S3Store) -> None:
    upload = store.multipart(store.config.key("left"))
    upload.upload_part(1, b"data", sha256=digest(b"data"))
    now = datetime.now(timezone.utc)
    found = store.list_multiparts(store.config.prefix)
    assert [(key, upload_id) for key, upload_id, _begun in found] == [(upload.key, upload.upload_id)]
    assert abs(found[0][2] - now) < timedelta(minutes=1)
    assert store.abort_multiparts(store.config.prefix, older_than=now - timedelta(hours=1)) == []
    assert len(store.abort_multiparts(store.config.prefix, older_than=now + timedelta(hours=1))) == 1
    assert store.list_multiparts(store.config.prefix) == []


@pytest.mark.parametrize(
    "size",
    [
        *(0, 5 * MIB, 11 * MIB + 7),
        *(pytest.param(size, marks=_MORE) for size in (1, 5 * MIB - 1, 5 * MIB + 1, 23 * MIB + 7)),
    ],
)
def test_files_up_and_down(store: S3Store, tmp_path: Path, size: int) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(size))
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    parts = [digest(source.read_bytes()[at : at + 5 * MIB]) for at in range(0, max(size, 1), 5 * MIB)]
    key = store.config.key("file")
    stored = store.upload_file(key, str(source), part_size=5 * MIB, part_sha256=parts, sha256=sha256)
    assert stored.size == size
    info = store.download_file(key, str(copy), part_size=5 * MIB, parallel=3)
    assert info.sha256 == sha256
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert store.list_multiparts(store.config.prefix) == []


def test_a_file_that_is_not_what_the_manifest_says(store: S3Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(12 * MIB))
    parts = [digest(bytes(5 * MIB)), digest(b"other"), digest(bytes(2 * MIB))]
    with pytest.raises(StorageError, match="Part 2"):
        store.upload_file(store.config.key("changed"), str(source), part_size=5 * MIB, part_sha256=parts)
    with pytest.raises(StorageError, match="3 parts, but 2"):
        store.upload_file(store.config.key("changed"), str(source), part_size=5 * MIB, part_sha256=parts[:2])
    assert store.list(store.config.prefix) == []
    assert store.list_multiparts(store.config.prefix) == []


def test_a_damaged_object_is_not_taken(store: S3Store, tmp_path: Path) -> None:
    key = store.config.key("lies")
    store._client.put_object(Bucket=store.config.bucket, Key=key, Body=b"x", Metadata={"sha256": "0" * 64})
    copy = tmp_path / "copy"
    copy.write_text("old")
    with pytest.raises(S3Error) as caught:
        store.download_file(key, str(copy))
    assert caught.value.code == "s3_corrupt"
    assert copy.read_text() == "old"
    assert list(tmp_path.iterdir()) == [copy]


def test_an_object_that_changes_while_it_is_read(seaweed: S3Server, make_store: MakeStore) -> None:
    store = make_store(seaweed)
    key = store.config.key("changing")
    store.put(key, b"one")
    info = store.head(key)
    assert info is not None
    store.put(key, b"two")
    with pytest.raises(S3Error):
        store.read_range(info, 0, memoryview(bytearray(3)))


@pytest.mark.once
def test_local_paths_that_cannot_be_used(store: S3Store, tmp_path: Path) -> None:
    key = store.config.key("x")
    with pytest.raises(StorageError, match="No such file"):
        store.upload_file(key, str(tmp_path / "missing"))
    with pytest.raises(StorageError):
        store.upload_file(key, str(tmp_path))
    store.put(key, b"x")
    with pytest.raises(StorageError, match="No such file"):
        store.download_file(key, str(tmp_path / "no" / "directory"))
    with pytest.raises(InputError, match="too small"):
        store.upload_file(key, str(tmp_path / "missing"), part_size=1)


@pytest.mark.once
def test_a_part_is_not_copied(seaweed: S3Server, make_store: MakeStore) -> None:
    store = make_store(seaweed)
    upload = store.multipart(store.config.key("memory"))
    data = bytearray(64 * MIB)
    sha256 = digest(data)
    tracemalloc.start()
    try:
        upload.upload_part(1, memoryview(data), sha256=sha256)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    upload.abort()
    assert peak < 8 * MIB


def test_known_digests_are_signed_and_not_computed_again(
    seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(seaweed)
    seen: list[str] = []
    store._patient.meta.events.register(
        "before-send.s3.PutObject", lambda request, **_more: seen.append(request.headers["X-Amz-Content-SHA256"])
    )
    reads: list[int] = []
    read = _s3_client.PartBody.read

    def count(self: _s3_client.PartBody, size: int | None = -1) -> memoryview:
        block = read(self, size)
        reads.append(len(block))
        return block

    monkeypatch.setattr(_s3_client.PartBody, "read", count)
    store.put(store.config.key("signed"), b"x" * MIB)
    value = seen[0].decode() if isinstance(seen[0], bytes) else seen[0]
    assert value == hashlib.sha256(b"x" * MIB).hexdigest()
    assert sum(reads) == MIB


def test_server_side_options(seaweed: S3Server, make_store: MakeStore) -> None:
    store = make_store(seaweed, s3_server_side_encryption="AES256", s3_storage_class="STANDARD_IA")
    key = store.config.key("options")
    store.put(key, b"x")
    upload = store.multipart(store.config.key("parts"))
    upload.upload_part(1, b"y", sha256=digest(b"y"))
    upload.complete()
    for name in ("options", "parts"):
        info = store.head(store.config.key(name))
        assert info is not None
        assert info.server_side_encryption == "AES256"
        assert info.storage_class == "STANDARD_IA"
