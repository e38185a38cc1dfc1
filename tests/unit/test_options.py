# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a backup: what is taken, what is refused by name, and what is filled in."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._options import (
    BACKUP_ARGUMENTS,
    BackupOptions,
    checked_id,
    checked_names,
)

S3 = {"offsite": "s3", "s3_endpoint": "https://s3.example.com", "s3_bucket": "backups"}


def options(**more: Any) -> BackupOptions:
    return BackupOptions.from_params({**{name: spec.get("default") for name, spec in BACKUP_ARGUMENTS.items()}, **more})


def test_defaults() -> None:
    found = options()
    assert found.vms == ()
    assert found.node == socket.gethostname()
    assert (found.s3, found.max_age, found.rate_limit, found.scratch_max) == (None, None, None, None)
    assert (found.compression, found.level, found.parallel) == ("zstd", 1, 1)
    assert 1 <= found.readers <= 4


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("parallel", 1, 64),
        ("lock_timeout", 0, 7 * 86400),
        ("readers", 1, 16),
        ("nice", 0, 19),
        ("freeze_timeout", 1, 600),
    ],
)
def test_ranges(name: str, low: int, high: int) -> None:
    for value in (max(low, 1), high):
        assert getattr(options(**{name: value}), name) == value
    for value in (-1, high + 1):
        with pytest.raises(InputError, match=f"{name} is {value}; it must be from {low} to {high}"):
            options(**{name: value})


@pytest.mark.parametrize("name", ["rate_limit", "scratch_max"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_limit_is_no_zero(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}; it must be above 0"):
        options(**{name: value})


@pytest.mark.parametrize(
    ("compression", "level", "taken"),
    [
        ("zstd", None, True), ("zstd", 1, True), ("zstd", 0, False), ("zstd", 99, False),
        ("zlib", None, True), ("zlib", 9, True), ("zlib", 10, False),
        ("none", None, True), ("none", 0, True), ("none", 1, False),
    ],
)  # fmt: skip
def test_levels(compression: str, level: int | None, taken: bool) -> None:
    if taken:
        found = options(compression=compression, compression_level=level).level
        assert level is None or found == level
    else:
        with pytest.raises(InputError, match="compression_level"):
            options(compression=compression, compression_level=level)


@pytest.mark.parametrize("name", ["backup_dir", "scratch_dir"])
@pytest.mark.parametrize("path", ["backups", "", "./x", "/x\0y"])
def test_paths_are_absolute(name: str, path: str) -> None:
    with pytest.raises(InputError, match=f"{name} is .* it must be an absolute path"):
        options(**{name: path})
    assert getattr(options(**{name: "/srv//b/../c/"}), name) == "/srv/c"


def test_the_local_copy_is_not_dropped_without_another() -> None:
    with pytest.raises(InputError, match="delete_local_after_upload needs offsite: s3"):
        options(delete_local_after_upload=True)
    found = options(delete_local_after_upload=True, **S3)
    assert found.delete_local
    assert found.s3 is not None and found.s3.bucket == "backups"
    assert options(**{**S3, "offsite": "none"}).s3 is None


@pytest.mark.parametrize(("text", "age"), [("20h", timedelta(hours=20)), ("0s", timedelta(0)), ("", None)])
def test_max_age(text: str, age: timedelta | None) -> None:
    assert options(max_age=text).max_age == age


@given(st.lists(st.text(max_size=5), max_size=6))
def test_names_are_kept_as_they_are_each_once(names: list[str]) -> None:
    if any(not name.strip() for name in names):
        with pytest.raises(InputError, match="empty name"):
            checked_names(names)
        return
    found = checked_names(names)
    assert set(found) == set(names)
    assert len(found) == len(set(names))
    assert list(found) == sorted(found, key=names.index), "in their order"


@pytest.mark.parametrize("text", ["latest", "", "20261122T151200", "20261322T151200Z", "../20261122T151200Z"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(InputError, match="^id: "):
        checked_id(text)
    assert checked_id("20261122T151200Z") == "20261122T151200Z"
