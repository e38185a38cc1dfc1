# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy in S3 is called complete only where all of it is its own: two nodes may back up one machine in one second."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteBackup
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from tests.bed.lay import DATA, UUID, manifest_of

ID = "20261122T140000Z"
OURS, THEIRS = manifest_of(ID).encode(), manifest_of(ID, node="node2").encode()


class Bucket:
    """Objects by name, or no right to look at them."""

    def __init__(self, *, blind: bool = False, **objects: bytes) -> None:
        self.config = S3Config(bucket="b")
        self.objects = {name.replace("_", "."): data for name, data in objects.items()}
        self._blind = blind

    def get(self, key: str, *, max_size: int, patient: bool) -> bytes:
        assert max_size
        assert patient
        name = self._name(key)
        if name not in self.objects:
            raise NotFoundError(key)
        return self.objects[name]

    def head(self, key: str, *, patient: bool) -> SimpleNamespace | None:
        assert patient
        name = self._name(key)
        return SimpleNamespace(size=len(self.objects[name])) if name in self.objects else None

    def put(self, key: str, data: bytes, *, sha256: str) -> SimpleNamespace:
        assert sha256
        self.objects[key.rpartition("/")[2]] = data
        return SimpleNamespace(version_id=None, size=len(data))

    def _name(self, key: str) -> str:
        if self._blind:
            raise S3Error("no right to look", code="s3_denied")
        return key.rpartition("/")[2]

    def place(self) -> OffsiteBackup:
        return OffsiteBackup(cast(S3Store, self), UUID, ID)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"vda_qcow2": DATA}, False),
        ({"vda_qcow2": DATA, "manifest_json": OURS}, False),
        ({"vda_qcow2": DATA, "manifest_json": b"no manifest"}, False),
        ({"vda_qcow2": DATA, "blind": True}, False),
        ({"vda_qcow2": DATA, "manifest_json": THEIRS}, True),
        ({"vda_qcow2": DATA, "manifest_json": manifest_of(ID, finished_at="2026-11-22T14:00:09Z").encode()}, True),
        ({"vda_qcow2": DATA + b"of another"}, True),
        ({}, True),
    ],
)
def test_a_manifest_goes_only_beside_its_own_images(there: dict[str, Any], taken: bool) -> None:
    bucket = Bucket(**there)
    before = dict(bucket.objects)
    if not taken:
        bucket.place().put_manifest(OURS)
        assert bucket.objects[MANIFEST] == OURS
        return
    with pytest.raises(S3Error, match="in the same second") as caught:
        bucket.place().put_manifest(OURS)
    assert (caught.value.code, bucket.objects) == ("s3_taken", before)


@pytest.mark.parametrize(
    ("there", "taken"), [({}, False), ({"vda_qcow2": DATA}, False), ({"manifest_json": THEIRS}, True)]
)
def test_no_image_is_put_over_those_of_a_whole_backup(there: dict[str, Any], taken: bool) -> None:
    if not taken:
        Bucket(**there).place().refuse_taken()
        return
    with pytest.raises(S3Error, match="is taken"):
        Bucket(**there).place().refuse_taken()
