# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification with copies in S3: damages there are found, told from an S3 that is away, and mended."""

from __future__ import annotations

import contextlib
import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _s3_client, _s3_read
from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._local import OFFSITE
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_upload import drop_disks, upload_backup
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._verify import verify_backups
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VERIFY_ARGUMENTS
from tests.bed.backups import DAMAGERS, NODE, OTHER_UUID, UUID, describe, make_backup, some_files
from tests.bed.guest import MIB
from tests.bed.s3 import S3Server
from tests.bed.s3_proxy import cutting_proxy

ID = "20261122T151200Z"
PART = 5 * MIB


@dataclass
class Stored:
    """A backup with a copy in S3."""

    server: S3Server
    backups: Path
    options: dict[str, Any]
    files: dict[str, bytes]
    manifest: Manifest
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.backups / UUID / ID

    def key(self, name: str) -> str:
        return f"{self.options['s3_prefix']}/{UUID}/{ID}/{name}"

    def get(self, name: str) -> bytes:
        with contextlib.closing(self.server.client()) as client:
            data: bytes = client.get_object(Bucket=self.server.bucket, Key=self.key(name))["Body"].read()
            return data

    def put(self, name: str, data: bytes) -> None:
        with contextlib.closing(self.server.client()) as client:
            client.put_object(Bucket=self.server.bucket, Key=self.key(name), Body=data)

    def lose(self, name: str) -> None:
        with contextlib.closing(self.server.client()) as client:
            client.delete_object(Bucket=self.server.bucket, Key=self.key(name))

    def verify(self, **more: Any) -> Outcome:
        params = {name: spec.get("default") for name, spec in VERIFY_ARGUMENTS.items()}
        params.update(backup_dir=str(self.backups), node=NODE, offsite="s3", **self.options)
        params.update(more)
        return verify_backups(Request(params))


def entry(outcome: Outcome) -> dict[str, Any]:
    [only] = outcome.values["backups"]
    found: dict[str, Any] = only
    return found


@pytest.fixture
def stored(server: S3Server, tmp_path: Path) -> Iterator[Stored]:
    """Two parts and a bit."""
    chance = random.Random(7)
    files = {"vda.qcow2": chance.randbytes(2 * PART + 1000), "vdb.qcow2": chance.randbytes(700), "domain.xml": b"<d/>"}
    options = server.params(s3_prefix=f"v/{uuid.uuid4().hex[:8]}")
    manifest = make_backup(tmp_path / "b" / UUID / ID, files, part_size=PART)
    with contextlib.closing(S3Store(S3Config.from_params(options))) as store:
        upload_backup(OffsiteVm(store, UUID).backup(ID), tmp_path / "b" / UUID / ID, drop_local=False)
    yield Stored(server, tmp_path / "b", options, files, manifest)


# What is missing, where, that is always tried.
ALWAYS = {("local", "manifest.json"), ("s3", "vda.qcow2")}


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :]


def test_two_good_copies(stored: Stored) -> None:
    outcome = stored.verify()
    assert outcome.failure is None
    assert (entry(outcome)["result"], entry(outcome)["copies"]) == ("good", ["local", "s3"])
    assert entry(outcome)["bytes_read"] == 2 * stored.manifest.size
    assert stored.get("verified.json") == (stored.path / "verified.json").read_bytes()


@pytest.mark.parametrize("side", ["local", "s3"])
def test_a_bit_in_one_copy_is_mended_from_the_other(stored: Stored, side: str) -> None:
    bad = damaged(stored.files["vda.qcow2"], PART + 5)
    if side == "local":
        (stored.path / "vda.qcow2").write_bytes(bad)
    else:
        stored.put("vda.qcow2", bad)
    kept = stored.verify(repair=False)
    assert entry(kept)["result"] == "bad"
    outcome = stored.verify()
    assert entry(outcome)["result"] == "repaired"
    assert outcome.changed
    [damage] = entry(outcome)["damages"]
    assert (damage["place"], damage["file"], damage["part"], damage["offset"]) == (side, "vda.qcow2", 2, PART)
    assert f"vda.qcow2, part 2 at offset {PART}" in str(outcome.failure)
    assert (stored.path / "vda.qcow2").read_bytes() == stored.get("vda.qcow2") == stored.files["vda.qcow2"]
    again = stored.verify()
    assert (entry(again)["result"], again.failure) == ("good", None)


@pytest.mark.parametrize(
    ("side", "name"),
    [
        pytest.param(side, name, marks=() if (side, name) in ALWAYS else pytest.mark.exhaustive)
        for side in ("local", "s3")
        for name in ("manifest.json", "vda.qcow2", "domain.xml")
    ],
)
def test_a_missing_file_is_mended(stored: Stored, side: str, name: str) -> None:
    before = stored.get(name)
    if side == "local":
        (stored.path / name).unlink()
    else:
        stored.lose(name)
    outcome = stored.verify(level="manifest")
    assert entry(outcome)["result"] == "repaired", outcome.failure
    assert stored.get(name) == (stored.path / name).read_bytes() == before
    assert stored.verify().failure is None


def test_damages_in_both_copies_are_mended_where_they_do_not_meet(stored: Stored) -> None:
    (stored.path / "vda.qcow2").write_bytes(damaged(stored.files["vda.qcow2"], 3))
    stored.put("vda.qcow2", damaged(stored.files["vda.qcow2"], PART + 3))
    assert entry(stored.verify())["result"] == "repaired"
    assert (stored.path / "vda.qcow2").read_bytes() == stored.get("vda.qcow2") == stored.files["vda.qcow2"]
    (stored.path / "vda.qcow2").write_bytes(damaged(stored.files["vda.qcow2"], 3))
    stored.put("vda.qcow2", damaged(stored.files["vda.qcow2"], 4))
    outcome = stored.verify()
    assert entry(outcome)["result"] == "bad"
    assert "no copy of it is good" in str(outcome.failure)


def test_only_in_s3(stored: Stored) -> None:
    drop_disks(stored.path)
    note = stored.path / OFFSITE
    note.write_text(note.read_text().replace('"kept"', '"dropped"'))
    assert (entry(stored.verify())["result"], entry(stored.verify())["copies"]) == ("good", ["s3"])
    blind = entry(stored.verify(offsite="none"))
    assert (blind["result"], blind["copies"]) == ("elsewhere", [])
    stored.put("vda.qcow2", damaged(stored.files["vda.qcow2"], 2 * PART + 999))
    outcome = stored.verify()
    assert entry(outcome)["result"] == "bad"
    assert entry(outcome)["damages"][0]["part"] == 3


def test_an_s3_that_is_away_is_no_damage(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_s3_client, "_QUICK_ATTEMPTS", 2)
    monkeypatch.setattr(_s3_client, "_PATIENT_ATTEMPTS", 2)
    monkeypatch.setattr(_s3_read, "_DOWNLOAD_TRIES", 1)
    assert stored.verify().failure is None
    failed = []
    for after in range(1000, 7000, 1000):
        with cutting_proxy(stored.server.port) as proxy:
            proxy.cut(after=after)
            try:
                failed.append(stored.verify(s3_endpoint=f"http://127.0.0.1:{proxy.port}"))
            except S3Error:
                # Cut before anything could begin.
                continue
    failed = [outcome for outcome in failed if entry(outcome)["result"] != "good"]
    assert failed
    for outcome in failed:
        assert (entry(outcome)["result"], entry(outcome)["damages"]) == ("failed", [])
        assert "could not be verified" in str(outcome.failure)
    record = json.loads((stored.path / "verified.json").read_bytes())
    assert [result["ok"] for result in record["results"]] == [True, True]


@pytest.mark.parametrize("count", [2 * len(DAMAGERS), pytest.param(104, marks=pytest.mark.exhaustive)])
def test_damages_in_s3_are_all_found(server: S3Server, tmp_path: Path, count: int) -> None:
    """As they are found here: objects are damaged by the same hands."""
    chance = random.Random(9)
    files = some_files(chance)
    manifest = make_backup(tmp_path / "good" / UUID / ID, files)
    other = tmp_path / "other" / OTHER_UUID / ID
    make_backup(other, some_files(chance), uuid=OTHER_UUID)
    options = server.params(s3_prefix=f"v/{uuid.uuid4().hex[:8]}")
    empty = tmp_path / "empty"
    empty.mkdir()
    stored = Stored(server, empty, options, files, manifest)
    good = {path.name: path.read_bytes() for path in (tmp_path / "good" / UUID / ID).iterdir()}
    for name, data in good.items():
        stored.put(name, data)
    assert entry(stored.verify())["result"] == "good"
    for number in range(count):
        path = tmp_path / "bad" / UUID / ID
        path.mkdir(parents=True)
        for name, data in good.items():
            (path / name).write_bytes(data)
        what = DAMAGERS[number % len(DAMAGERS)](path, other, chance)
        changed = {name for name in good if not (path / name).exists() or (path / name).read_bytes() != good[name]}
        for name in changed:
            if (path / name).exists():
                stored.put(name, (path / name).read_bytes())
            else:
                stored.lose(name)
        outcome = stored.verify()
        if changed == {"manifest.json"} and not (path / "manifest.json").exists():
            # That is what a backup is that does not exist.
            assert outcome.values["backups"] == []
        else:
            assert entry(outcome)["result"] == "bad", what
            assert outcome.failure, what
        for name in changed:
            stored.put(name, good[name])
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        path.parent.rmdir()


def test_another_object_of_the_same_size_is_found_by_its_stored_checksum(stored: Stored) -> None:
    before = stored.verify(level="manifest")
    assert (before.failure, entry(before)["bytes_read"]) == (None, 0)
    # Uploaded as ours are: the server checks the parts, and keeps what it has computed.
    config = S3Config.from_params(stored.options)
    (stored.path / "other").write_bytes(damaged(stored.files["vda.qcow2"], 5))
    record = describe("other", (stored.path / "other").read_bytes(), PART)
    with contextlib.closing(S3Store(config)) as store:
        store.upload_file(
            stored.key("vda.qcow2"),
            str(stored.path / "other"),
            part_size=PART,
            part_sha256=[bytes.fromhex(part) for part in record.parts],
            sha256=None,
        )
    outcome = stored.verify(level="manifest", repair=False)
    [damage] = entry(outcome)["damages"]
    assert (damage["place"], damage["file"], damage["part"]) == ("s3", "vda.qcow2", None)
    assert "checksum" in damage["problem"]
    assert entry(outcome)["bytes_read"] == 0
