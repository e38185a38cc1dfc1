# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification of local copies: random damages, none of which passes, and nothing good that is called bad."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._copies import (
    DamagedError,
    LocalCopy,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._good_parts import GoodParts
from ansible_collections.vmforge.backup.plugins.module_utils._listing import list_entries
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import Manifest, decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import UnreadableError, open_backup
from ansible_collections.vmforge.backup.plugins.module_utils._verified import (
    Check,
    last_verified,
    merge_checks,
    parse_share,
    take_sample,
)
from ansible_collections.vmforge.backup.plugins.module_utils._verify import verify_backups
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VERIFY_ARGUMENTS
from tests.bed.backups import DAMAGERS, NODE, OTHER_UUID, PART, UUID, make_backup, some_files
from tests.bed.chains import make_chain

ID = "20261122T151200Z"
EARLIER, LATER = "20261121T151200Z", "20261123T151200Z"


def verify(backups: Path, *, check_mode: bool = False, **more: Any) -> Outcome:
    params = {name: spec.get("default") for name, spec in VERIFY_ARGUMENTS.items()}
    params.update(backup_dir=str(backups), node=NODE, **more)
    return verify_backups(Request(params, check_mode=check_mode))


def results(outcome: Outcome) -> list[tuple[str, str]]:
    return [(entry["id"], entry["result"]) for entry in outcome.values["backups"]]


def restored_silently(path: Path, original: dict[str, bytes], sha256: str) -> bool:
    """Whether a restore from this copy alone would write anything but what was backed up."""
    try:
        backup = open_backup(UUID, ID, directory=path, place=None, expected=sha256)
        for record in backup.manifest.files:
            with GoodParts(record, [LocalCopy(path)]) as good:
                data = b"".join(bytes(good.read(number)) for number in range(1, len(record.parts) + 1))
            assert data == original[record.name]
    except (DamagedError, UnreadableError):
        return False
    return True


@pytest.mark.once
@pytest.mark.parametrize("rounds", [16, pytest.param(125, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("damager", DAMAGERS, ids=lambda damager: damager.__name__)
def test_damages_are_all_found_and_none_is_restored(damager: Any, rounds: int, tmp_path: Path) -> None:
    chance = random.Random(damager.__name__)
    files = some_files(chance)
    manifest = make_backup(tmp_path / "good" / UUID / ID, files)
    make_backup(tmp_path / "other" / OTHER_UUID / ID, some_files(chance), uuid=OTHER_UUID)
    assert verify(tmp_path / "good").failure is None
    sha256 = list_entries(tmp_path / "good", None, ())[0]["checksum_sha256"]
    path = tmp_path / "bad" / UUID / ID
    for _round in range(rounds):
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        what = damager(path, tmp_path / "other" / OTHER_UUID / ID, chance)
        outcome = verify(tmp_path / "bad")
        assert results(outcome) == [(ID, "bad")], what
        assert outcome.failure, what
        damages = outcome.values["backups"][0]["damages"]
        assert {damage["file"] for damage in damages} <= {"manifest.json", *files}, what
        assert damages, what
        assert not restored_silently(path, files, sha256), what
        shutil.rmtree(tmp_path / "bad")
    assert restored_silently(tmp_path / "good" / UUID / ID, files, sha256)
    assert manifest.id == ID


def test_the_place_of_a_damage_is_named_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / UUID / ID
    make_backup(path, some_files(random.Random(1)))
    data = bytearray((path / "vda.qcow2").read_bytes())
    data[2 * PART + 17] ^= 1
    (path / "vda.qcow2").write_bytes(data)
    outcome = verify(tmp_path)
    [entry] = outcome.values["backups"]
    assert entry["damages"] == [
        {"place": "local", "file": "vda.qcow2", "part": 3, "offset": 2 * PART, "problem": "is not what was written"}
    ]
    assert f"web1 {ID}" in str(outcome.failure)
    assert f"vda.qcow2, part 3 at offset {2 * PART}" in str(outcome.failure)
    [listed] = list_entries(tmp_path, None, ())
    assert listed["verified"]["manifest_sha256"] == listed["checksum_sha256"]
    [result] = listed["verified"]["results"]
    assert (result["copy"], result["level"], result["ok"]) == ("local", "data", False)
    assert f"vda.qcow2 part 3 at offset {2 * PART}" in result["detail"]
    # That the files are there does not make it good; reading it whole does.
    assert verify(tmp_path, level="manifest").failure is None
    assert [item["ok"] for item in list_entries(tmp_path, None, ())[0]["verified"]["results"]] == [False]
    data[2 * PART + 17] ^= 1
    (path / "vda.qcow2").write_bytes(data)
    assert verify(tmp_path).failure is None
    assert [item["ok"] for item in list_entries(tmp_path, None, ())[0]["verified"]["results"]] == [True]


@pytest.mark.parametrize("name", ["manifest.json", "vda.qcow2"])
@pytest.mark.parametrize(
    ("number", "result"),
    [
        *((number, "bad") for number in (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ELOOP)),
        *((number, "failed") for number in (errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM, errno.EACCES)),
    ],
)
def test_only_what_is_damaged_for_sure_is_written_down_as_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, result: str
) -> None:
    path = tmp_path / UUID / ID
    manifest = make_backup(path, some_files(random.Random(7)))
    assert verify(tmp_path).failure is None
    before = (path / "verified.json").read_bytes()
    refuse(monkeypatch, path / name, number)
    outcome = verify(tmp_path)
    assert results(outcome) == [(ID, result)]
    assert os.strerror(number) in str(outcome.failure)
    if name == "manifest.json":
        assert (path / "verified.json").read_bytes() == before
        return
    assert ((path / "verified.json").read_bytes() == before) == (result == "failed")
    record = next(record for record in manifest.files if record.name == name)
    with (
        GoodParts(record, [LocalCopy(path)]) as good,
        pytest.raises(StorageError if result == "failed" else DamagedError),
    ):
        good.read(1)
    monkeypatch.undo()
    assert (results(verify(tmp_path)), verify(tmp_path).failure) == ([(ID, "good")], None)


def test_an_ancestor_that_cannot_be_read_now_makes_no_child_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backup(tmp_path / UUID / EARLIER, some_files(random.Random(8)))
    sha256 = list_entries(tmp_path, None, ())[0]["checksum_sha256"]
    make_backup(tmp_path / UUID / ID, some_files(random.Random(9)), parent={"id": EARLIER, "manifest_sha256": sha256})
    refuse(monkeypatch, tmp_path / UUID / EARLIER / "manifest.json", errno.ESTALE)
    outcome = verify(tmp_path)
    assert sorted(results(outcome)) == [(EARLIER, "failed"), (ID, "failed")]
    assert os.strerror(errno.ESTALE) in outcome.values["backups"][0]["message"]
    record = json.loads((tmp_path / UUID / ID / "verified.json").read_bytes())
    assert [check["ok"] for check in record["results"]] == [True]


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Let the operating system refuse to open one file, as no test can make a disk or a mount do."""
    opened, read = os.open, Path.open

    def refused(where: Any, *arguments: Any, **more: Any) -> int:
        if os.fspath(where) == str(path):
            raise OSError(number, os.strerror(number))
        return opened(where, *arguments, **more)

    def not_read(where: Path, *arguments: Any, **more: Any) -> Any:
        if where == path:
            raise OSError(number, os.strerror(number))
        return read(where, *arguments, **more)

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(Path, "open", not_read)


def test_a_lower_level_finds_what_is_missing_and_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / UUID / ID
    make_backup(path, some_files(random.Random(2)))
    outcome = verify(tmp_path, level="manifest")
    assert (results(outcome), outcome.values["backups"][0]["bytes_read"]) == ([(ID, "good")], 0)
    (path / "vdb.qcow2").unlink()
    assert results(verify(tmp_path, level="manifest")) == [(ID, "bad")]


def test_a_manifest_that_was_changed_skilfully_is_found_by_what_is_kept_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / UUID / ID
    make_backup(path, some_files(random.Random(3)))
    sha256 = list_entries(tmp_path, None, ())[0]["checksum_sha256"]
    assert verify(tmp_path, checksums={f"{UUID}/{ID}": sha256}).failure is None
    (path / "verified.json").unlink()
    value = json.loads((path / "manifest.json").read_bytes())
    value["vm"]["name"] = "web2"
    (path / "manifest.json").write_text(json.dumps(value, indent=1))
    assert verify(tmp_path).failure is None
    (path / "verified.json").unlink()
    outcome = verify(tmp_path, checksums={f"{UUID}/{ID}": sha256})
    assert results(outcome) == [(ID, "bad")]
    assert sha256 in str(outcome.failure)


def test_an_ancestor_that_is_missing_or_another_makes_a_child_bad(tmp_path: Path) -> None:
    chance = random.Random(4)
    make_backup(tmp_path / UUID / EARLIER, some_files(chance))
    sha256 = list_entries(tmp_path, None, ())[0]["checksum_sha256"]
    make_backup(tmp_path / UUID / ID, some_files(chance), parent={"id": EARLIER, "manifest_sha256": sha256})
    make_backup(tmp_path / UUID / LATER, some_files(chance), parent={"id": EARLIER, "manifest_sha256": "0" * 64})
    outcome = verify(tmp_path, level="manifest")
    assert sorted(results(outcome)) == [(EARLIER, "good"), (ID, "good"), (LATER, "bad")]
    shutil.rmtree(tmp_path / UUID / EARLIER)
    outcome = verify(tmp_path, id=ID)
    assert results(outcome) == [(ID, "bad")]
    assert f"its ancestor {EARLIER} is missing" in str(outcome.failure)


def test_all_that_a_backup_builds_on_is_verified_once_and_before_it(tmp_path: Path) -> None:
    ids = [point.id for point in make_chain(tmp_path / UUID, 4).points]
    planned = verify(tmp_path, id=ids[2], check_mode=True)
    outcome = verify(tmp_path, id=ids[2])
    assert results(planned) == [(i, "planned") for i in ids[:3]]
    assert results(outcome) == [(i, "good") for i in ids[:3]]
    assert sum(entry["bytes_read"] for entry in outcome.values["backups"]) == sum(
        record.size for i in ids[:3] for record in decoded(tmp_path / UUID / i).files
    )
    assert results(verify(tmp_path)) == [(i, "good") for i in ids]
    middle = tmp_path / UUID / ids[1] / "vdb.qcow2"
    data = middle.read_bytes()
    middle.write_bytes(data[:-1] + b"x")
    outcome = verify(tmp_path)
    assert results(outcome) == [(ids[0], "good"), *((i, "bad") for i in ids[1:])]
    assert f"web1 {ids[3]}: Damaged: its ancestor {ids[1]} is damaged: vdb.qcow2 part" in str(outcome.failure)
    # What is written down is about the files of each; lists and retention add the rest.
    told = {entry["id"]: entry for entry in list_entries(tmp_path, None, ())}
    assert [told[i]["verified"]["results"][0]["ok"] for i in ids] == [True, False, True, True]
    assert [told[i]["error"] for i in ids] == [None, None, *[f"Its ancestor {ids[1]} was verified as bad."] * 2]
    middle.write_bytes(data)
    # Of a sample of one, the one that it needs is verified too: all above it are good again.
    assert results(verify(tmp_path, id=ids[1])) == [(ids[0], "good"), (ids[1], "good")]
    assert [entry["error"] for entry in list_entries(tmp_path, None, ())] == [None] * 4
    # Of what lies out of reach nothing bad is said, and nothing good.
    (tmp_path / UUID / ids[1] / "offsite.json").write_text('{"local": "dropped", "completed_at": "x"}')
    outcome = verify(tmp_path)
    assert sorted(results(outcome)) == sorted(zip(ids, ["good", "elsewhere", "elsewhere", "elsewhere"]))
    assert outcome.failure is None


def decoded(path: Path) -> Manifest:
    return decode_manifest((path / "manifest.json").read_bytes(), where=str(path))


def test_a_sample_goes_round_and_leaves_nothing_out(tmp_path: Path) -> None:
    ids = [f"202611{day:02}T151200Z" for day in range(1, 8)]
    for backup_id in ids:
        make_backup(tmp_path / UUID / backup_id, some_files(random.Random(backup_id)))
    seen = []
    for _day in range(4):
        planned = results(verify(tmp_path, sample="1/4", check_mode=True))
        done = results(verify(tmp_path, sample="1/4"))
        assert [backup_id for backup_id, _result in planned] == [backup_id for backup_id, _result in done]
        assert {result for _id, result in planned} == {"planned"}
        seen += [backup_id for backup_id, _result in done]
    assert sorted(seen[:7]) == ids
    # Never verified: the newest first. Then the one that waits longest.
    assert seen[0] == ids[-1]
    assert seen[7] == ids[-1]


def test_others_are_left_alone(tmp_path: Path) -> None:
    make_backup(tmp_path / UUID / ID, some_files(random.Random(5)))
    make_backup(tmp_path / OTHER_UUID / ID, some_files(random.Random(6)), uuid=OTHER_UUID, name="db1")
    (tmp_path / OTHER_UUID / f"{LATER}.partial").mkdir()
    assert len(results(verify(tmp_path))) == 2
    assert len(results(verify(tmp_path, vm=["db1"]))) == 1
    assert len(results(verify(tmp_path, vm=[UUID]))) == 1
    assert verify(tmp_path, vm=["db2"]).values["not_found"] == ["db2"]
    assert results(verify(tmp_path, all_nodes=True)) == [(ID, "good")] * 2
    params = {name: spec.get("default") for name, spec in VERIFY_ARGUMENTS.items()}
    params.update(backup_dir=str(tmp_path), node="node2")
    assert verify_backups(Request(params)).values["backups"] == []
    with pytest.raises(InputError, match="does not exist"):
        verify(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "share"), [("1/7", 1 / 7), ("15%", 0.15), ("100%", 1), ("3 / 4", 0.75), ("0.5%", 0.005)]
)
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "0%", "0/7", "8/7", "101%", "1/0", "7", "x", "-1/7", "1/7 "[:-1] + "x"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(InputError, match="sample"):
        parse_share(text)


def test_samples() -> None:
    items = [("", "a"), ("2026-11-02", "b"), ("", "c"), ("2026-11-01", "d")]
    assert take_sample(items, 1) == ["a", "c", "d", "b"]
    assert take_sample(items, 0.5) == ["a", "c"]
    assert take_sample(items, 0.51) == ["a", "c", "d"]
    assert take_sample([], 0.1) == []


def test_records() -> None:
    bad = Check("local", "data", False, "2026-11-01T00:00:00Z", "x")
    fine = Check("s3", "data", True, "2026-11-01T00:00:00Z")
    first = merge_checks([], "a", [bad, fine])
    later = Check("local", "manifest", True, "2026-11-02T00:00:00Z")
    assert merge_checks([first], "a", [later]) == first
    assert merge_checks([first], "b", [later])["results"] == [vars(later)]
    gone = Check("s3", "manifest", False, "2026-11-02T00:00:00Z", "is missing")
    both = merge_checks([first, {"manifest_sha256": "a", "results": "nonsense"}], "a", [gone])
    assert [(item["copy"], item["level"], item["ok"]) for item in both["results"]] == [
        ("local", "data", False),
        ("s3", "manifest", False),
        ("s3", "data", True),
    ]
    assert last_verified([both], "a", level="data", copies=["s3"]) == "2026-11-01T00:00:00Z"
    assert last_verified([both], "a", level="manifest", copies=["s3"]) == "2026-11-02T00:00:00Z"
    assert last_verified([both], "a", level="data", copies=["s3", "local"]) == "2026-11-01T00:00:00Z"
    assert last_verified([both], "b", level="data", copies=["s3"]) == ""
