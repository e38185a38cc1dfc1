# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A local file in parts: what the disk gives back is compared with what was meant to be written."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._local_file import LocalFile, reread

PART = 1 << 16


def parts_of(data: bytes) -> list[bytes]:
    return [hashlib.sha256(data[at : at + PART]).digest() for at in range(0, len(data), PART)]


def read(path: Path, parts: list[bytes]) -> str:
    return reread(path, part_size=PART, parts=parts, advance=lambda _count: None, check=lambda: None)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 5 * PART), seed=st.integers(0, 99))
def test_parts_in_any_order(tmp_path: Path, size: int, seed: int) -> None:
    source = random.Random(seed)
    data, path = source.getrandbits(8 * size).to_bytes(size, "big"), tmp_path / f"{size}-{seed}"
    path.unlink(missing_ok=True)
    file = LocalFile(path)
    offsets = list(range(0, size, PART))
    source.shuffle(offsets)
    for offset in offsets:
        file.write_part(offset, memoryview(data)[offset : offset + PART])
    file.sync()
    assert read(path, parts_of(data)) == hashlib.sha256(data).hexdigest()
    file.close()
    file.close()
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("damage", "says"),
    [("flip", "part 2 at offset 65536"), ("short", "reads back differently"), ("long", "x")],
)
def test_a_disk_that_lies(tmp_path: Path, damage: str, says: str) -> None:
    data = bytes(range(256)) * 600
    path = tmp_path / "x"
    path.write_bytes(data)
    with path.open("r+b") as file:
        if damage == "flip":
            file.seek(PART + 5)
            file.write(b"\xff")
        elif damage == "short":
            file.truncate(len(data) - 1)
        else:
            file.seek(0, 2)
            file.write(b"more")
    with pytest.raises(StorageError, match=says) as caught:
        read(path, parts_of(data))
    assert caught.value.code == "reread_mismatch"


def test_an_existing_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises((FileExistsError, StorageError)):
        LocalFile(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_it_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(PART))

    def stop() -> None:
        raise StorageError("enough")

    with pytest.raises(StorageError, match="enough"):
        reread(tmp_path / "x", part_size=PART, parts=[b""], advance=lambda _count: None, check=stop)
