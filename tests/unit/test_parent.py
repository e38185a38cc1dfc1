# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an incremental backup may build on; from real directories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._checkpoint_xml import checkpoint_xml
from ansible_collections.vmforge.backup.plugins.module_utils._local import OFFSITE, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import manifest_sha256
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._parent import (
    ParentChain,
    ParentLostError,
    find_parent,
    refuse_lost,
)
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import VERIFIED
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import StoredChain
from tests.bed.lay import lay, manifest_of, note, shelf

ID = "20261122T140000Z"
CHECKPOINT = f"vmforge-{ID}-0d6c63d8"


@dataclass(frozen=True)
class Bucket:
    """A place in S3 that knows its name; nothing else of it may be asked."""

    name: str

    def backup(self, _backup_id: str) -> Bucket:
        return self

    def is_place_of(self, noted: Mapping[str, Any]) -> bool:
        return bool(noted["bucket"] == self.name)

    def complete(self) -> bool:
        return self.name == "one"


@pytest.fixture
def directory(tmp_path: Path) -> VmDirectory:
    return shelf(tmp_path)


def found(directory: VmDirectory, bucket: str | None) -> ParentChain | str:
    return find_parent(directory, cast(OffsiteVm, Bucket(bucket)) if bucket else None)


def test_nothing_has_a_checkpoint(directory: VmDirectory) -> None:
    lay(directory, ID)
    assert found(directory, None) == "no backup here has a checkpoint to build on"


@pytest.mark.parametrize(
    ("noted", "bucket", "problem"),
    [
        (None, None, None),
        ({"bucket": "one", "completed_at": "2026-11-22T14:10:00Z"}, None, None),
        ({"bucket": "one", "completed_at": "2026-11-22T14:10:00Z"}, "one", None),
        # It is uploaded before the new one.
        ({"bucket": "one", "completed_at": None}, "one", None),
        (None, "one", "has no copy in this bucket"),
        ({"bucket": "another", "completed_at": "2026-11-22T14:10:00Z"}, "one", "has no copy in this bucket"),
    ],
)
def test_a_chain_lies_in_one_bucket_as_a_whole(
    directory: VmDirectory, noted: dict[str, Any] | None, bucket: str | None, problem: str | None
) -> None:
    path = lay(directory, ID, checkpoint=CHECKPOINT)
    if noted is not None:
        note(path, OFFSITE, **noted)
    parent = found(directory, bucket)
    if problem is None:
        assert isinstance(parent, ParentChain)
        assert parent.facts.id == ID
    else:
        assert isinstance(parent, str)
        assert problem in parent


@pytest.mark.parametrize(("level", "is_bad"), [("data", True), ("manifest", True), ("boot", False)])
def test_a_copy_in_s3_that_is_bad(directory: VmDirectory, level: str, is_bad: bool) -> None:
    path = lay(directory, ID, checkpoint=CHECKPOINT)
    note(path, OFFSITE, bucket="one", completed_at="2026-11-22T14:10:00Z")
    digest = manifest_sha256(manifest_of(ID, checkpoint=CHECKPOINT).encode())
    checks = [{"copy": "s3", "level": level, "ok": False, "at": "2026-11-22T15:00:00Z"}]
    note(path, VERIFIED, manifest_sha256=digest, results=checks)
    assert isinstance(found(directory, "one"), str) is is_bad
    assert isinstance(found(directory, None), ParentChain)


def test_the_files_that_were_its_images(directory: VmDirectory) -> None:
    path = lay(directory, ID, checkpoint=CHECKPOINT)
    files = {"vda": "fd01-2a"}
    for text, noted in ((checkpoint_xml(CHECKPOINT, ["vda"], files=files), files), ("<", {}), ("\0", {})):
        (path / "checkpoint.xml").write_text(text)
        parent = found(directory, None)
        assert isinstance(parent, ParentChain)
        assert parent.facts.files == noted


@pytest.mark.parametrize(
    ("copies", "bucket", "is_lost"),
    [
        (("local", "s3"), "another", False),
        (("s3",), "one", False),
        (("s3",), "another", True),
        # Without S3 nothing can be built on what lies there.
        (("s3",), None, False),
    ],
)
def test_a_parent_is_looked_at_again(
    directory: VmDirectory, copies: tuple[str, ...], bucket: str | None, is_lost: bool
) -> None:
    lay(directory, ID, checkpoint=CHECKPOINT)
    parent = found(directory, None)
    assert isinstance(parent, ParentChain)
    there: Any = tuple(SimpleNamespace(name=name) for name in copies)
    chain = StoredChain((replace(parent.chain.head, copies=there),))
    offsite = cast(OffsiteVm, Bucket(bucket)) if bucket is not None else None
    if is_lost:
        with pytest.raises(ParentLostError, match=f"Backup {ID}, on which this one builds, was deleted in S3"):
            refuse_lost(chain, offsite)
    else:
        refuse_lost(chain, offsite)
