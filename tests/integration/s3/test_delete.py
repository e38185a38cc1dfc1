# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting: versions, delete markers and locks, and keys that may not do everything."""

from __future__ import annotations

import hashlib
import http.server
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ansible_collections.vmforge.backup.plugins.module_utils import _s3_checksum
from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error
from tests.bed.s3 import S3Server
from tests.bed.s3_canned import canned, xml_error

from .conftest import MakeStore

MakeBucket = Callable[..., str]


def in_minutes(minutes: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(minutes=minutes)).isoformat()


def test_every_version_and_marker_goes(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    store = make_store(seaweed, s3_bucket=bucket(versioning=True))
    key = store.config.key("versioned")
    ids = [store.put(key, b"%d" % number).version_id for number in range(3)]
    assert len(set(ids)) == 3
    store._client.delete_object(Bucket=store.config.bucket, Key=key)
    assert store.head(key) is None, "hidden by a marker, but not gone"
    neighbour = store.config.key("versioned-not")
    store.put(neighbour, b"stays")
    deletion = store.delete(key)
    assert deletion.confirmed
    assert set(ids) <= set(deletion.versions)
    assert store.list_versions(key) == []
    assert store.get(neighbour, max_size=10) == b"stays"


def test_multipart_reports_the_version(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    store = make_store(seaweed, s3_bucket=bucket(versioning=True))
    upload = store.multipart(store.config.key("v"))
    upload.upload_part(1, b"x", sha256=hashlib.sha256(b"x").digest())
    stored = upload.complete()
    assert stored.version_id
    assert store.get(stored.key, max_size=1, version_id=stored.version_id) == b"x"


def test_a_suspended_bucket_is_emptied_too(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    name = bucket(versioning=True)
    store = make_store(seaweed, s3_bucket=name)
    key = store.config.key("mixed")
    store.put(key, b"1")
    store._client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    store.put(key, b"2")
    assert store.delete(key).confirmed
    assert store.list_versions(key) == []


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_a_locked_object_is_refused_with_its_date(
    seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket, mode: str
) -> None:
    until = in_minutes(10)
    name = bucket(lock=True)
    store = make_store(seaweed, s3_bucket=name, s3_object_lock_mode=mode, s3_object_lock_retain_until=until)
    key = store.config.key("locked")
    store.put(key, b"x")
    info = store.head(key)
    assert info is not None
    assert info.lock_mode == mode
    free = make_store(seaweed, s3_bucket=name)
    free.put(key, b"newer, not locked")
    with pytest.raises(S3Error) as caught:
        free.delete(key)
    assert caught.value.code == "s3_locked"
    assert until[:16] in caught.value.message
    assert free.get(key, max_size=100) == b"newer, not locked", "nothing was changed"
    assert len(free.list_versions(key) or ()) == 2


def test_multiparts_are_locked_as_well(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    store = make_store(
        seaweed,
        s3_bucket=bucket(lock=True),
        s3_object_lock_mode="GOVERNANCE",
        s3_object_lock_retain_until=in_minutes(10),
    )
    upload = store.multipart(store.config.key("locked"))
    upload.upload_part(1, b"x", sha256=hashlib.sha256(b"x").digest())
    upload.complete()
    with pytest.raises(S3Error) as caught:
        store.delete(upload.key)
    assert caught.value.code == "s3_locked"


def test_a_legal_hold_is_told(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    name = bucket(lock=True)
    store = make_store(seaweed, s3_bucket=name)
    key = store.config.key("held")
    store.put(key, b"x")
    store._client.put_object_legal_hold(Bucket=name, Key=key, LegalHold={"Status": "ON"})
    with pytest.raises(S3Error, match="legal hold") as caught:
        store.delete(key)
    assert caught.value.code == "s3_locked"


def test_an_expired_lock_is_none(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    store = make_store(
        seaweed,
        s3_bucket=bucket(lock=True),
        s3_object_lock_mode="GOVERNANCE",
        s3_object_lock_retain_until=in_minutes(0.04),
    )
    key = store.config.key("short")
    store.put(key, b"x")
    while (info := store.head(key)) and info.locked_until and info.locked_until > datetime.now(timezone.utc):
        pass
    assert store.delete(key).confirmed


def test_keys_that_may_not_delete(seaweed: S3Server, make_store: MakeStore) -> None:
    store = make_store(seaweed, seaweed.no_delete)
    key = store.config.key("kept")
    store.put(key, b"x")
    with pytest.raises(S3Error) as caught:
        store.delete(key)
    assert caught.value.code == "s3_denied"
    assert "no_d…" in caught.value.message
    assert store.get(key, max_size=1) == b"x"


def test_keys_that_may_only_write(seaweed: S3Server, make_store: MakeStore) -> None:
    store = make_store(seaweed, seaweed.write_only)
    key = store.config.key("written")
    assert store.put(key, b"x").size == 1
    assert store.put(key, b"x", only_if_absent=False).size == 1
    upload = store.multipart(store.config.key("parts"))
    upload.upload_part(1, b"x", sha256=hashlib.sha256(b"x").digest())
    assert upload.complete().size == 1
    aborted = store.multipart(store.config.key("aborted"))
    aborted.upload_part(1, b"x", sha256=hashlib.sha256(b"x").digest())
    aborted.abort()
    for forbidden in (
        lambda: store.get(key, max_size=1),
        lambda: store.head(key),
        lambda: store.head(store.config.key("missing")),
        lambda: store.list(store.config.prefix),
        lambda: store.list_directories(store.config.prefix),
        lambda: store.delete(key),
    ):
        with pytest.raises(S3Error) as caught:
            forbidden()
        assert caught.value.code == "s3_denied"
    full = make_store(seaweed)
    assert sorted(info.key for info in full.list(full.config.prefix)) == sorted([key, upload.key])
    assert full.list_multiparts(full.config.prefix) == []


def test_keys_that_may_not_even_abort(
    seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_s3_checksum, "_known", {})
    store = make_store(seaweed, seaweed.write_only)
    # SeaweedFS lets everybody abort who may put; AWS does not.
    answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    def deny(**_request: Any) -> None:
        raise ClientError(answer, "AbortMultipartUpload")

    monkeypatch.setattr(store._client, "abort_multipart_upload", deny)
    assert store.put(store.config.key("x"), b"x").size == 1
    source = tmp_path / "source"
    source.write_bytes(bytes(6 * 1024 * 1024))
    digests = [hashlib.sha256(bytes(5 * 1024 * 1024)).digest(), bytes(32)]
    with pytest.raises(S3Error, match=r"Part 2 .* Moreover: .*parts may be left"):
        store.upload_file(store.config.key("y"), str(source), part_size=5 * 1024 * 1024, part_sha256=digests)
    make_store(seaweed).abort_multiparts(store.config.prefix)


def test_keys_that_may_only_delete(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    for place in (seaweed.bucket, bucket(versioning=True)):
        full = make_store(seaweed, s3_bucket=place)
        key = full.config.key("gone")
        full.put(key, b"x")
        full.put(full.config.key("gone-not"), b"x")
        deletion = make_store(seaweed, seaweed.delete_only, s3_bucket=place).delete(key)
        assert deletion.existed
        assert deletion.confirmed
        assert full.list_versions(key) == []
    upload = full.multipart(key)
    reaper = make_store(seaweed, seaweed.delete_only, s3_bucket=place)
    assert [found[1] for found in reaper.abort_multiparts(full.config.prefix)] == [upload.upload_id]


def test_keys_that_may_delete_but_not_look(seaweed: S3Server, make_store: MakeStore) -> None:
    full = make_store(seaweed)
    key = full.config.key("gone")
    full.put(key, b"x")
    deletion = make_store(seaweed, seaweed.blind_delete).delete(key)
    assert deletion.existed is None
    assert not deletion.confirmed, "without the right to look, it is not said to be gone"
    assert deletion.note
    assert full.head(key) is None


def test_a_marker_is_not_taken_for_a_deletion(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    name = bucket(versioning=True)
    full = make_store(seaweed, s3_bucket=name)
    key = full.config.key("hidden")
    full.put(key, b"x")
    with pytest.raises(S3Error, match="delete marker"):
        make_store(seaweed, seaweed.blind_delete, s3_bucket=name).delete(key)


def test_deleting_again_makes_a_marker_no_better(seaweed: S3Server, make_store: MakeStore, bucket: MakeBucket) -> None:
    """What is out of sight is not gone: also the second and the third deletion say so, until somebody may do it."""
    full = make_store(seaweed, s3_bucket=bucket(versioning=True))
    key = full.config.key("hidden")
    full.put(key, b"x")
    limited = make_store(seaweed, seaweed.no_versions, s3_bucket=full.config.bucket)
    for _turn in range(3):
        with pytest.raises(S3Error, match="delete marker") as caught:
            limited.delete(key)
        assert caught.value.code == "s3_denied"
    assert limited.head(key) is None
    assert limited.list(full.config.prefix) == []
    assert full.list_stored(full.config.prefix) == [key]
    assert full.delete(key).confirmed
    assert full.list_stored(full.config.prefix) == []


def test_keys_without_a_right_to_versions_where_there_are_none(seaweed: S3Server, make_store: MakeStore) -> None:
    limited = make_store(seaweed, seaweed.no_versions)
    full = make_store(seaweed)
    key = full.config.key("plain")
    for wanted in (True, None):
        if wanted:
            full.put(key, b"x")
        deletion = limited.delete(key)
        assert (deletion.existed, deletion.confirmed) == (wanted, True)
    assert full.list_stored(full.config.prefix) == []


def test_what_a_marker_hides_is_listed_as_stored(server: S3Server, make_store: MakeStore) -> None:
    store = make_store(server)
    keys = [store.config.key(name) for name in ("a/b", "a/c", "d")]
    for key in keys:
        store.put(key, b"x")
    assert store.list_stored(store.config.prefix) == sorted(keys)
    assert store.list_stored(store.config.key("a") + "/") == keys[:2]


def test_a_server_says_that_a_marker_hides_something(make_store: MakeStore, simple: S3Server) -> None:
    """AWS and MinIO do; then not even a deletion is tried, which would set another marker."""
    asked: list[str] = []

    def answer(request: http.server.BaseHTTPRequestHandler) -> tuple[int, dict[str, str], str]:
        asked.append(request.command)
        if "versions" in request.path:
            return 403, {}, xml_error("AccessDenied")
        return 404, {"x-amz-delete-marker": "true"}, ""

    with canned(answer) as endpoint:
        store = make_store(simple, s3_endpoint=endpoint)
        store._bucket_seen = True
        with pytest.raises(S3Error, match="delete marker"):
            store.delete("x")
    assert "DELETE" not in asked
