# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided before anything is done, and how a part lies in memory."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import PartBody, UploadStopped
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_plan import (
    Wanted,
    checked_metadata,
    plan_download,
    plan_upload,
    relative,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_values import ObjectInfo

SHA, OTHER = "a" * 64, "b" * 64


def found(**more: Any) -> ObjectInfo:
    values = {"key": "k", "size": 5, "etag": "e", "last_modified": datetime(2026, 1, 1, tzinfo=timezone.utc)}
    return ObjectInfo(**{**values, "metadata": {"sha256": SHA}, **more})


@pytest.mark.parametrize(
    ("there", "wanted", "action", "reason"),
    [
        (None, Wanted(5, SHA), "upload", "does not exist"),
        (found(), Wanted(5, SHA), "none", "as wanted"),
        (found(), Wanted(6, SHA), "upload", "bytes"),
        (found(), Wanted(5, OTHER), "upload", "another SHA-256"),
        (found(metadata={}), Wanted(5, SHA), "upload", "no SHA-256 on record"),
        (found(metadata={"sha256": SHA, "more": "x"}), Wanted(5, SHA), "none", "as wanted"),
        (found(), Wanted(5, SHA, metadata={"vm": "web1"}), "upload", "metadata vm"),
        (found(content_type="text/plain"), Wanted(5, SHA), "none", "as wanted"),
        (found(content_type="text/plain"), Wanted(5, SHA, content_type="text/html"), "upload", "content type"),
        (found(), Wanted(5, SHA, storage_class="STANDARD"), "none", "as wanted"),
        (found(), Wanted(5, SHA, storage_class="GLACIER"), "upload", "storage class"),
    ],
)
def test_uploads(there: ObjectInfo | None, wanted: Wanted, action: str, reason: str) -> None:
    plan = plan_upload(wanted, there, seen=True, overwrite=True, name="k")
    assert plan.action == action
    assert reason in plan.reasons[0]
    assert plan.changes == (action != "none")
    assert plan.changes == (plan.before != plan.after)


def test_overwrite_false() -> None:
    assert plan_upload(Wanted(5, SHA), None, seen=True, overwrite=False, name="k").changes
    assert not plan_upload(Wanted(5, SHA), found(), seen=True, overwrite=False, name="k").changes
    with pytest.raises(S3Error) as caught:
        plan_upload(Wanted(5, OTHER), found(), seen=True, overwrite=False, name="k")
    assert caught.value.code == "s3_exists"


@pytest.mark.parametrize(
    ("expected", "size", "sha256", "action"),
    [
        (SHA, None, None, "download"),
        (SHA, 5, SHA, "none"),
        (SHA, 5, OTHER, "download"),
        (SHA, 6, None, "download"),
        (None, 5, None, "download"),
    ],
)
def test_downloads(expected: str | None, size: int | None, sha256: str | None, action: str) -> None:
    plan = plan_download(found(), expected, size, sha256, overwrite=True, dest="/x")
    assert plan.action == action
    if action == "download" and size is not None:
        with pytest.raises(InputError, match="/x"):
            plan_download(found(), expected, size, sha256, overwrite=False, dest="/x")


def test_metadata() -> None:
    assert checked_metadata({"Kind": "note", "count": 3}) == {"kind": "note", "count": "3"}
    for bad in ({"a b": "x"}, {"a": "ü"}, {"a": " x"}, {"a": "x\n"}, {"SHA256": "x"}, {"vmforge-upload": "x"}):
        with pytest.raises(InputError, match="metadata"):
            checked_metadata(bad)


def test_relative_keys() -> None:
    config = S3Config(bucket="backups", prefix="vmforge")
    assert relative(config, "vmforge/a") == "a"
    assert relative(config, "vmforge2/a") == "vmforge2/a"
    assert relative(S3Config(bucket="backups"), "a/b") == "a/b"


@given(st.binary(max_size=300_000), st.lists(st.integers(min_value=-1, max_value=200_000), max_size=8))
def test_a_part_reads_as_a_file_and_rewinds(data: bytes, sizes: list[int]) -> None:
    body = PartBody(bytearray(data), sha256=bytes(32))
    assert len(body) == len(data)
    for _attempt in range(2):
        body.seek(0)
        got = b"".join(bytes(body.read(size)) for size in sizes)
        got += bytes(body.read())
        assert got == data
        assert body.tell() == len(data)
        assert not body.read(10)
    assert body.seek(0, 2) == len(data)
    assert body.seek(-1, 1) == max(0, len(data) - 1)


def test_a_part_is_not_copied() -> None:
    data = bytearray(1000)
    block = PartBody(data).read()
    data[0] = 7
    assert block[0] == 7


def test_a_stopped_part_gives_nothing_more() -> None:
    stopped = threading.Event()
    body = PartBody(b"x" * 1_000_000, stopped=stopped)
    assert body.read(10)
    stopped.set()
    with pytest.raises(UploadStopped):
        body.read(10)
    assert not issubclass(UploadStopped, Exception), "botocore would try again"
