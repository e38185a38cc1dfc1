# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of the panel's PHP pack become backups, and nothing is lost whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _adopt_files, _adopt_rows, _adopt_vm, _s3_copy
from ansible_collections.vmforge.backup.plugins.module_utils._errors import DatabaseError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._local import VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import decode_manifest
from tests.integration.adopt.conftest import MIB, NODE, Pack, sha256


def results(outcome: Any) -> list[str]:
    return [row["result"] for row in outcome.values["rows"]]


def snapshot(path: Path) -> dict[str, tuple[int, str]]:
    return {str(file): (file.stat().st_mode, sha256(file)) for file in path.rglob("*") if file.is_file()}


def check_ready(pack: Pack, digests: list[str], *, bucket: bool = False) -> list[dict[str, Any]]:
    """What is listed is ready and holds, byte for byte, the images with these checksums."""
    entries = sorted(pack.listing(bucket=bucket), key=lambda entry: entry["id"])
    assert [(entry["status"], entry["error"], entry["offsite_pending"]) for entry in entries] == [
        ("ready", None, False)
    ] * len(digests)
    for entry, digest in zip(entries, digests):
        data = (Path(entry["path"]) / "manifest.json").read_bytes()
        manifest = decode_manifest(data, where="manifest")
        assert manifest.files[0].sha256 == digest
        if "local" in entry["copies"]:
            image = Path(entry["path"]) / manifest.disks[0].file
            assert sha256(image) == digest
            assert image.stat().st_mode & 0o777 == 0o600
            assert image.stat().st_nlink == 1
        if "s3" in entry["copies"]:
            client = pack.bucket.client()
            key = f"{entry['s3_key']}/{manifest.disks[0].file}"
            body = client.get_object(Bucket=pack.bucket.bucket, Key=key)["Body"].read()
            client.close()
            (pack.place / "fetched").write_bytes(body)
            assert sha256(pack.place / "fetched") == digest
    return entries


def test_local_images_become_backups_and_their_rows_follow(pack: Pack) -> None:
    first, second = pack.image("web1-1.qcow2"), pack.image("web1-2.qcow2", size=20 * MIB)
    digests = [sha256(first), sha256(second)]
    inodes = {first.stat().st_ino, second.stat().st_ino}
    ids = [pack.row("2025-07-01 12:00:00", path=first), pack.row("2025-12-01 12:00:00", path=second)]
    before = snapshot(pack.place)
    planned = pack.adopt(check_mode=True)
    assert (planned.changed, results(planned)) == (True, ["planned", "planned"])
    assert snapshot(pack.place) == before
    assert pack.record(planned, check_mode=True).changed
    done = pack.adopt()
    assert (done.changed, results(done), done.failure) == (True, ["adopted", "adopted"], None)
    assert [row["id"] for row in planned.values["rows"]] == [row["id"] for row in done.values["rows"]]
    # Berlin: summer and winter.
    assert [row["id"] for row in done.values["rows"]] == ["20250701T100000Z", "20251201T110000Z"]
    entries = check_ready(pack, digests)
    assert {os.stat(Path(entry["path"]) / "vda.qcow2").st_ino for entry in entries} == inodes
    assert not first.exists()
    assert pack.directory.stat().st_mode & 0o777 == 0o700
    again = pack.adopt()
    assert (again.changed, results(again)) == (False, ["present", "present"])
    assert pack.record(again).changed
    assert not pack.record(again).changed
    rows = pack.table()
    assert [row["id"] for row in rows] == ids
    assert [row["created_at"] for row in rows] == [datetime(2025, 7, 1, 10), datetime(2025, 12, 1, 11)]
    assert [row["path"] for row in rows] == [entry["path"] for entry in entries]
    assert [row["checksum_sha256"] for row in rows] == [entry["checksum_sha256"] for entry in entries]
    assert [row["meta"]["adopted"]["checksum_sha256"] for row in rows] == digests
    assert pack.rows() == []
    # The catalogue knows them as its own: no second row, none deleted.
    synced = pack.sync().values
    assert (synced["inserted"], synced["deleted"]) == (0, 0)
    assert [row["id"] for row in pack.table() if row["status"] == "ready"] == ids
    assert pack.sync().changed is False


def test_the_image_can_be_read_as_a_disk(pack: Pack) -> None:
    path = pack.image("web1-1.qcow2", options=["-c"])
    shutil.copy(path, pack.place / "original.qcow2")
    pack.row("2025-07-01 12:00:00", path=path)
    (row,) = pack.adopt().values["rows"]
    argv = ["qemu-img", "compare", str(pack.place / "original.qcow2"), f"{row['path']}/vda.qcow2"]
    assert "identical" in subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    manifest = json.loads((Path(row["path"]) / "manifest.json").read_text())
    assert (manifest["type"], manifest["full_reason"], manifest["consistency"]) == ("full", "adopted", "crash")
    assert manifest["disks"][0]["virtual_size"] == MIB
    assert manifest["disks"][0]["source"] == str(path)


def test_what_is_missing_or_wrong_is_told_and_not_touched(pack: Pack) -> None:
    changed, damaged, overlay = pack.image("changed.qcow2"), pack.image("damaged.qcow2"), pack.image("overlay.qcow2")
    text, plain, outside = pack.image("text.qcow2"), pack.image("plain.qcow2"), pack.place / "outside.qcow2"
    argv = ["qemu-img", "rebase", "-u", "-b", str(changed), "-F", "qcow2", str(overlay)]
    subprocess.run(argv, check=True, capture_output=True)
    text.write_text("no image" * 100)
    with damaged.open("r+b") as file:
        # The refcount table: behind the first cluster in what qemu-img makes.
        file.seek(65536)
        file.write(b"\xff" * 8)
    shutil.copy(plain, outside)
    link = pack.backups / "link.qcow2"
    link.symlink_to(plain)
    pack.row("2025-01-01 01:00:00", path=pack.backups / "gone.qcow2")
    pack.row("2025-01-01 02:00:00", path=changed, checksum_sha256="a" * 64)
    pack.row("2025-01-01 03:00:00", path=damaged)
    pack.row("2025-01-01 04:00:00", path=overlay)
    pack.row("2025-01-01 05:00:00", path=text)
    pack.row("2025-01-01 06:00:00", path=outside)
    pack.row("2025-01-01 07:00:00", path=plain, checksum_sha256=None)
    pack.row("2025-01-01 08:00:00", path=link, checksum_sha256=sha256(plain))
    pack.row("2037-01-01 09:00:00", path=plain)
    pack.row("2025-01-01 10:00:00", path=plain, vm_uuid="web1")
    before = snapshot(pack.place)
    outcome = pack.adopt()
    found = {row["row"]: row for row in outcome.values["rows"]}
    told = [(found[number]["result"], " ".join(found[number]["notes"])) for number in sorted(found)]
    assert [item[0] for item in told] == ["missing", *["refused"] * 6, "failed", "refused", "refused"]
    words = ["", "as its row says", "damaged", "overlay", "qcow2 image", "outside", "no checksum"]
    words += ["link.qcow2", "future", "no UUID"]
    assert [word in item[1] for word, item in zip(words, told)] == [True] * 10
    after = {name: value for name, value in snapshot(pack.place).items() if not name.endswith(".lock")}
    assert after == before
    assert not outcome.changed
    assert [entry for entry in pack.listing() if entry["status"] != "ready"] == []
    assert not pack.record(outcome).changed
    assert len(pack.rows()) == 10


def test_two_backups_in_one_second_and_an_hour_that_came_twice(pack: Pack) -> None:
    paths = [pack.image(f"{number}.qcow2", seed=bytes([number])) for number in range(5)]
    digests = [sha256(path) for path in paths]
    # In Berlin the clock went from 03:00 back to 02:00.
    times = ["2025-10-26 02:10:00", "2025-10-26 02:50:00", "2025-10-26 02:10:00", "2025-10-26 02:10:00"]
    for path, wall in zip(paths, [*times, "2025-10-26 03:00:00"]):
        pack.row(wall, path=path)
    rows = pack.rows()
    assert [row["ambiguous"] for row in rows] == [True, True, True, True, False]
    ids = [row["id"] for row in pack.adopt(rows).values["rows"]]
    assert ids == [
        "20251026T001000Z",
        "20251026T005000Z",
        "20251026T011000Z",
        "20251026T011001Z",
        "20251026T020000Z",
    ]
    check_ready(pack, digests)


def test_one_file_under_two_rows_is_one_backup(pack: Pack) -> None:
    path = pack.image("web1.qcow2")
    digest = sha256(path)
    first, second = pack.row("2025-07-01 12:00:00", path=path), pack.row("2025-07-01 12:00:00", path=path)
    outcome = pack.adopt()
    assert results(outcome) == ["adopted", "present"]
    check_ready(pack, [digest])
    pack.record(outcome)
    assert [(row["id"], row["status"]) for row in pack.table()] == [(first, "ready"), (second, "deleted")]
    assert pack.table()[1]["meta"]["adopted_as"] == first


def test_a_sync_between_adoption_and_record_leaves_one_ready_row(pack: Pack) -> None:
    path = pack.image("web1.qcow2")
    old = pack.row("2025-07-01 12:00:00", path=path)
    pack.adopt()
    assert pack.sync().values["inserted"] == 1
    # The panel's row still asks for the file, and a second run of the playbook ends the matter.
    pack.record(pack.adopt())
    rows = pack.table()
    assert [(row["id"] == old, row["status"]) for row in rows] == [(True, "deleted"), (False, "ready")]
    assert rows[0]["meta"]["adopted_as"] == rows[1]["id"]
    assert pack.sync().changed is False


def test_an_image_on_another_file_system_is_copied_and_proved(pack: Pack) -> None:
    other = Path("/dev/shm") / f"vmforge-{pack.uuid}"
    other.mkdir()
    try:
        path = other / "web1.qcow2"
        shutil.move(pack.image("web1.qcow2"), path)
        digest = sha256(path)
        pack.row("2025-07-01 12:00:00", path=path)
        assert path.stat().st_dev != pack.backups.stat().st_dev
        assert results(pack.adopt()) == ["refused"]
        assert results(pack.adopt(source_dirs=[str(other)])) == ["adopted"]
        check_ready(pack, [digest])
        assert not path.exists()
    finally:
        shutil.rmtree(other)


def test_a_file_with_another_name_is_copied(pack: Pack) -> None:
    path = pack.image("web1.qcow2")
    os.link(path, pack.place / "second-name")
    digest = sha256(path)
    pack.row("2025-07-01 12:00:00", path=path)
    assert results(pack.adopt()) == ["adopted"]
    with (pack.place / "second-name").open("ab") as file:
        file.write(b"whoever writes here must not reach the backup")
    check_ready(pack, [digest])


@pytest.mark.parametrize("piece", [512 * MIB, 5 * MIB], ids=["whole", "in pieces"])
def test_an_image_in_the_bucket_is_copied_by_the_server(
    pack: Pack, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_s3_copy, "PIECE", piece)
    path = pack.image("web1.qcow2", size=18 * MIB)
    digest, key = sha256(path), f"pack/{pack.uuid}/web1.qcow2"
    pack.upload(path, key)
    path.unlink()
    pack.row("2025-07-01 12:00:00", s3_key=key, checksum_sha256=digest)
    assert results(pack.adopt()) == ["refused"]
    assert results(pack.adopt(check_mode=True, **pack.s3())) == ["planned"]
    assert pack.keys(pack.prefix) == []
    outcome = pack.adopt(**pack.s3())
    assert (results(outcome), outcome.values["rows"][0]["notes"]) == (["adopted"], [])
    (entry,) = check_ready(pack, [digest], bucket=True)
    assert entry["copies"] == ["s3"]
    assert pack.keys(f"pack/{pack.uuid}/") == []
    again = pack.adopt(**pack.s3())
    assert (again.changed, results(again)) == (False, ["present"])
    pack.record(again)
    (row,) = pack.table()
    assert (row["storage"], row["s3_key"]) == ("s3", entry["s3_key"])
    synced = pack.sync().values
    assert (synced["inserted"], synced["deleted"]) == (0, 0)


def test_both_copies_of_a_hybrid_move(pack: Pack) -> None:
    path, key = pack.image("web1.qcow2"), f"pack/{pack.uuid}/web1.qcow2"
    digest = sha256(path)
    pack.upload(path, key)
    pack.row("2025-07-01 12:00:00", path=path, s3_key=key)
    # Without the bucket its copy there would be orphaned.
    assert results(pack.adopt()) == ["refused"]
    assert path.exists()
    assert results(pack.adopt(**pack.s3())) == ["adopted"]
    (entry,) = check_ready(pack, [digest], bucket=True)
    assert sorted(entry["copies"]) == ["local", "s3"]
    assert (path.exists(), pack.keys(f"pack/{pack.uuid}/")) == (False, [])


@pytest.mark.parametrize("bad", ["local", "s3", "s3 missing"])
def test_the_good_copy_of_a_hybrid_is_adopted_and_the_bad_one_told(pack: Pack, bad: str) -> None:
    path, key = pack.image("web1.qcow2"), f"pack/{pack.uuid}/web1.qcow2"
    digest, other = sha256(path), pack.image("other.qcow2")
    if bad != "s3 missing":
        pack.upload(other if bad == "s3" else path, key)
    pack.row("2025-07-01 12:00:00", path=path, s3_key=key)
    if bad == "local":
        shutil.copy(other, path)
    (row,) = pack.adopt(**pack.s3()).values["rows"]
    assert row["result"] == "adopted"
    assert len(row["notes"]) == 1
    (entry,) = check_ready(pack, [digest], bucket=True)
    assert entry["copies"] == (["s3"] if bad == "local" else ["local"])
    assert path.exists() is (bad == "local")
    assert pack.keys(f"pack/{pack.uuid}/") == ([key] if bad == "s3" else [])


def test_keys_that_may_not_delete_leave_the_old_object_and_say_so(pack: Pack) -> None:
    path, key = pack.image("web1.qcow2"), f"pack/{pack.uuid}/web1.qcow2"
    digest = sha256(path)
    pack.upload(path, key)
    path.unlink()
    pack.row("2025-07-01 12:00:00", s3_key=key, checksum_sha256=digest)
    weak = {"offsite": "s3", **pack.bucket.params(pack.bucket.no_delete, s3_prefix=pack.prefix)}
    (row,) = pack.adopt(**weak).values["rows"]
    assert row["result"] == "adopted"
    assert "old object stays" in row["notes"][0]
    check_ready(pack, [digest], bucket=True)
    assert pack.keys(f"pack/{pack.uuid}/") == [key]
    # With other keys the next run removes it.
    again = pack.adopt(**pack.s3())
    assert (again.changed, results(again)) == (True, ["present"])
    assert pack.keys(f"pack/{pack.uuid}/") == []


STEPS: list[tuple[Any, str]] = [
    (_adopt_vm, "place_file"),
    (_adopt_vm.VmAdoption, "_copy"),
    (_adopt_vm, "write_file"),
    (_adopt_vm, "write_json"),
    (VmDirectory, "commit"),
    (_adopt_vm, "remove_file"),
    (_adopt_vm, "finish_offsite"),
    (_adopt_files, "sync_directory"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _owner, name in STEPS])
@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("local", "s3")), "hybrid"]
)
def test_a_run_that_dies_anywhere_is_finished_by_the_next(
    pack: Pack, kind: str, owner: Any, name: str, when: str
) -> None:
    path, key = pack.image("web1.qcow2"), f"pack/{pack.uuid}/web1.qcow2"
    digest = sha256(path)
    if kind != "local":
        pack.upload(path, key)
    if kind == "s3":
        path.unlink()
    pack.row(
        "2025-07-01 12:00:00",
        path=path if kind != "s3" else None,
        s3_key=key if kind != "local" else None,
        checksum_sha256=digest,
    )
    options = pack.s3() if kind != "local" else {}
    die_in_child(lambda: pack.adopt(pack.rows(), **options), owner, name, when)
    outcome = pack.adopt(**options)
    assert results(outcome)[0] in ("adopted", "present")
    assert outcome.failure is None
    (entry,) = check_ready(pack, [digest], bucket=kind != "local")
    # SeaweedFS goes on listing a directory for a while when all in it was deleted, so that its second counts as taken.
    assert entry["id"] in ("20250701T100000Z", *(["20250701T100001Z"] if kind == "s3" else []))
    assert not path.exists()
    assert pack.keys(f"pack/{pack.uuid}/") == []
    assert sorted(item.name for item in pack.directory.iterdir()) == [".lock", entry["id"]]
    assert not pack.adopt(**options).changed


def die_in_child(work: Callable[[], Any], owner: Any, name: str, when: str) -> None:
    """Run it in a process that is gone, as by SIGKILL, before or after the first call of a function."""
    pid = os.fork()
    if pid == 0:
        real = getattr(owner, name)

        def deadly(*args: Any, **more: Any) -> Any:
            if when == "after":
                real(*args, **more)
            os._exit(9)

        setattr(owner, name, deadly)
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_a_backup_run_may_clear_up_in_between_and_nothing_is_lost(pack: Pack) -> None:
    """Leftovers of a dead run are removed by whoever works on the VM next: the image must not be among them."""
    from ansible_collections.vmforge.backup.plugins.module_utils._leftovers import Leftovers
    from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef

    path = pack.image("web1.qcow2")
    digest = sha256(path)
    pack.row("2025-07-01 12:00:00", path=path)
    die_in_child(pack.adopt, _adopt_vm, "place_file", "after")
    directory = VmDirectory(pack.directory)
    assert directory.ids(".partial")
    with directory.lock():
        Leftovers(VmRef(pack.uuid, "web1", NODE), directory, None).clear_storage()
    assert directory.ids(".partial") == []
    assert sha256(path) == digest
    assert results(pack.adopt()) == ["adopted"]


def test_the_zone_must_be_known_and_what_the_panel_shows_counts(pack: Pack) -> None:
    pack.row("2025-07-01 12:00:00", path=pack.image("web1.qcow2"))
    assert [row["created_at"] for row in pack.rows()] == ["2025-07-01 12:00:00"]
    assert [row["instant"] for row in pack.rows("UTC")] == ["2025-07-01T12:00:00Z"]
    assert [row["instant"] for row in pack.rows("Asia/Kathmandu")] == ["2025-07-01T06:15:00Z"]
    for wrong in ("Mars/Olympus", "", "../etc/passwd", "/etc/localtime"):
        with pytest.raises(InputError, match="panel_timezone"):
            pack.rows(wrong)


def test_rows_of_others_are_not_the_packs(pack: Pack) -> None:
    path = pack.image("web1.qcow2")
    pack.row("2025-07-01 12:00:00", path=path, status="deleted")
    pack.row("2025-07-01 12:00:00", path=path, status="failed")
    pack.row("2025-07-01 12:00:00", path=Path("/var/lib/elsewhere/snapshot.tar"))
    pack.row("2025-07-01 12:00:00", path=path, meta='{"node": "node7"}')
    assert pack.rows() == []
    number = pack.row("2025-07-01 12:00:00", path=path, meta=None)
    assert [row["row"] for row in pack.rows(vm=[pack.uuid])] == [number]
    assert pack.rows(vm=["another"]) == []


def test_a_database_that_dies_in_the_middle_is_told_by_the_next_run(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        pack.row(f"2025-07-0{number} 12:00:00", path=pack.image(f"{number}.qcow2"))
    outcome = pack.adopt()
    before = pack.table()
    real = _adopt_rows._write

    def deadly(*args: Any) -> None:
        real(*args)
        pack.database.stop(signal.SIGKILL)

    monkeypatch.setattr(_adopt_rows, "_write", deadly)
    try:
        with pytest.raises(DatabaseError) as caught:
            pack.record(outcome)
    finally:
        monkeypatch.undo()
        pack.database.start()
    assert pack.database.admin_password not in caught.value.message
    # Neither of them, not one of two.
    assert pack.table() == before
    again = pack.adopt()
    assert results(again) == ["present", "present"]
    assert len(pack.record(again).values["changes"]) == 2
    assert pack.rows() == []
    assert pack.sync().values["inserted"] == 0


def test_a_vm_that_the_panel_deleted_and_two_of_one_name(pack: Pack) -> None:
    other = "00000000-0000-4000-8000-000000000007"
    pack.database.sql(f"INSERT INTO vm_instances (uuid, name) VALUES ('{pack.uuid}', 'web1'), ('{other}', 'web1')")
    mine, theirs = pack.image("mine.qcow2"), pack.image("theirs.qcow2")
    deleted, digest = pack.image("deleted.qcow2"), sha256(mine)
    pack.row("2025-07-01 12:00:00", path=mine)
    pack.row("2025-07-01 12:00:00", path=theirs, vm_uuid=other)
    gone = pack.row("2025-07-01 12:00:00", path=deleted, vm_uuid="00000000-0000-4000-8000-000000000008")
    # A name means both; nothing of one gets into the directory of the other.
    assert len(pack.rows(vm=["web1"])) == 2
    assert [row["vm_name"] for row in pack.rows() if row["row"] == gone] == ["00000000-0000-4000-8000-000000000008"]
    outcome = pack.adopt()
    assert results(outcome) == ["adopted"] * 3
    assert sha256(pack.directory / "20250701T100000Z" / "vda.qcow2") == digest
    assert len({row["path"] for row in outcome.values["rows"]}) == 3
    pack.record(outcome)
    synced = pack.sync().values
    assert (synced["inserted"], synced["deleted"]) == (0, 0)
