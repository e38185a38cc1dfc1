# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups and the panel's database: recorded, not recorded while it is away, recorded by the next run; policies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.bed.ansible import ROOT
from tests.bed.catalog import prepare
from tests.bed.mariadb import MariaDB
from tests.bed.s3 import S3Server
from tests.integration.roles.conftest import Hypervisor, Play, Storage, nodes
from tests.integration.roles.test_disaster import commands


@pytest.fixture
def database(database_server: MariaDB, hypervisor: Hypervisor) -> MariaDB:
    prepare(database_server, {guest.uuid: guest.name for guest in (hypervisor.web, hypervisor.db)})
    return database_server


def login(server: MariaDB) -> dict[str, Any]:
    return {f"vmforge_backup_{name}": value for name, value in server.params().items()}


def with_master(server: MariaDB) -> str:
    """An inventory in which the master alone knows the database."""
    known = " ".join(f"{name}={value}" for name, value in login(server).items())
    return f"{nodes('good')}\n[vmforge_master]\nmaster ansible_connection=local {known}\n"


def bucket_of(server: S3Server) -> dict[str, Any]:
    return {
        "vmforge_backup_s3_endpoint": server.endpoint,
        "vmforge_backup_s3_bucket": server.bucket,
        "vmforge_backup_s3_access_key": server.access_key,
        "vmforge_backup_s3_secret_key": server.secret_key,
    }


def rows(server: MariaDB) -> list[dict[str, Any]]:
    found = server.sql("SELECT vm_uuid, status, storage, path, s3_key, checksum_sha256, meta FROM backups ORDER BY id")
    return [{**row, "meta": json.loads(row["meta"])} for row in found]


def test_missed_and_recorded_by_the_next_run(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, database: MariaDB
) -> None:
    web, db = hypervisor.web, hypervisor.db
    database.sql(
        f"INSERT INTO backup_policies (vm_uuid, offsite, delete_local_after_upload) VALUES ('{web.uuid}', 's3', 1)"
    )
    inventory = with_master(database)
    database.stop()
    try:
        first = play_newest("backup.yml", vm=db.name, inventory=inventory)
    finally:
        database.start()
    assert (first.code, first.rows) == (0, [(db.name, "good", "created")]), first.text
    (missed,) = storage.manifests()
    warning = " ".join(first.text.split())
    assert f"Not recorded in the panel's database: good ({db.name} {missed['id']})" in warning
    assert "The policies could not be read, so every local copy is kept" in warning
    assert rows(database) == []
    second = play_newest("backup.yml", vm=web.name, inventory=inventory)
    assert second.code == 0, second.text
    assert "Not recorded" not in second.text
    assert {(row["vm_uuid"], row["meta"]["id"]) for row in rows(database)} == {
        (manifest["vm"]["uuid"], manifest["id"]) for manifest in storage.manifests()
    }
    first_row, second_row = sorted(rows(database), key=lambda row: str(row["vm_uuid"] == web.uuid))
    assert (first_row["status"], first_row["storage"], first_row["meta"]["node"]) == ("ready", "local", "good")
    assert first_row["path"] == str(next(storage.backups.glob(f"{db.uuid}/*/manifest.json")).parent)
    # Without a bucket its policy means a local backup that stays, and is told of.
    assert f"{web.name}: its policy wants a copy in S3, and no bucket is set here" in " ".join(second.text.split())
    assert (second_row["status"], second_row["storage"]) == ("ready", "local")
    assert len(list(Path(second_row["path"]).glob("vd?.qcow2"))) == 2


def test_policies_of_the_panel_are_obeyed(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, database: MariaDB, bucket: S3Server
) -> None:
    web, db = hypervisor.web, hypervisor.db
    database.sql(
        "INSERT INTO backup_policies (vm_uuid, offsite, delete_local_after_upload) "
        f"VALUES ('{web.uuid}', 's3', 1), ('{db.uuid}', 'none', 0)"
    )
    run = play_newest("backup.yml", vm="", vmforge_backup_offsite="s3", **login(database), **bucket_of(bucket))
    assert run.code == 0, run.text
    assert {row["vm_uuid"]: row["storage"] for row in rows(database)} == {web.uuid: "s3", db.uuid: "local"}
    assert [path.parent.parent.name for path in storage.backups.glob("*/*/vda.qcow2")] == [db.uuid]
    # All is lost but the bucket: on another host, under the name of this one, the table is filled from there.
    [before] = [row for row in rows(database) if row["vm_uuid"] == web.uuid]
    database.sql("DELETE FROM backups")
    (storage.place / "nothing").mkdir()
    recovery = storage.place / "recovery.yml"
    recovery.write_text(json.dumps({**login(database), **bucket_of(bucket)}))
    [argv] = commands(recovery, [5], vmforge_backup_node=before["meta"]["node"])
    run = play_newest(ROOT / argv[1], *argv[2:], vmforge_backup_dir=str(storage.place / "nothing"))
    assert run.code == 0, run.text
    [after] = [row for row in rows(database) if row["vm_uuid"] == web.uuid]
    for name in ("status", "storage", "s3_key", "checksum_sha256"):
        assert after[name] == before[name]


@pytest.mark.exhaustive
def test_a_copy_of_before_stays_where_the_policy_finds_no_bucket(
    play_newest: Play, hypervisor: Hypervisor, database: MariaDB, bucket: S3Server
) -> None:
    web = hypervisor.web
    database.sql(
        f"INSERT INTO backup_policies (vm_uuid, offsite, delete_local_after_upload) VALUES ('{web.uuid}', 's3', 1)"
    )
    run = play_newest("backup.yml", vm=web.name, **login(database), **bucket_of(bucket))
    assert run.code == 0, run.text
    run = play_newest("backup.yml", vm=web.name, **login(database))
    assert run.code == 0, run.text
    assert f"{web.name}: its policy wants a copy in S3, and no bucket is set here" in " ".join(run.text.split())
    assert sorted(row["storage"] for row in rows(database)) == ["local", "s3"]


def test_a_policy_that_cannot_be_read_drops_no_local_copy(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, database: MariaDB, bucket: S3Server
) -> None:
    db = hypervisor.db
    offsite = {"vmforge_backup_offsite": "s3", "vmforge_backup_delete_local_after_upload": True, **bucket_of(bucket)}
    wrong = {**login(database), "vmforge_backup_db_password": "wr0ng-password"}
    run = play_newest("backup.yml", "-vvv", vm=db.name, **offsite, **wrong)
    assert (run.code, run.rows) == (0, [(db.name, "localhost", "created")]), run.text
    assert run.stats["vmforge_backup_report"]["rows"][0]["copies"] == ["local", "s3"]
    assert "every local copy is kept" in " ".join(run.text.split())
    assert "wr0ng-password" not in run.text
    assert rows(database) == []


@pytest.mark.exhaustive
def test_policies_from_variables_need_no_database(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, bucket: S3Server
) -> None:
    web, db = hypervisor.web, hypervisor.db
    run = play_newest(
        "backup.yml",
        vm="",
        vmforge_backup_policy={"offsite": "s3"},
        vmforge_backup_policies={db.name: {"offsite": "none"}, web.uuid: {"delete_local_after_upload": True}},
        **bucket_of(bucket),
    )
    assert run.code == 0, run.text
    copies = {row["vm"]: row["copies"] for row in run.stats["vmforge_backup_report"]["rows"]}
    assert copies == {db.name: ["local"], web.name: ["s3"]}


@pytest.mark.exhaustive
def test_what_has_gone_from_the_node_is_looked_for_in_the_bucket(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, database: MariaDB, bucket: S3Server
) -> None:
    db = hypervisor.db
    variables = {"vmforge_backup_offsite": "s3", **login(database), **bucket_of(bucket)}
    database.sql(f"INSERT INTO backup_policies (vm_uuid, offsite) VALUES ('{db.uuid}', 's3')")
    play_newest("backup.yml", vm=db.name, **variables)
    (before,) = rows(database)
    assert (before["status"], before["storage"]) == ("ready", "hybrid")
    shutil.rmtree(before["path"])
    # Nobody looks there: it may be in S3, and stays as it is.
    blind = {name: value for name, value in variables.items() if "s3" not in name and "offsite" not in name}
    run = play_newest("backup.yml", vm=hypervisor.web.name, **blind)
    assert run.code == 0, run.text
    assert "not on the node any more" in " ".join(run.text.split())
    assert rows(database)[0] == before
    run = play_newest("backup.yml", vm=hypervisor.web.name, **variables)
    assert run.code == 0, run.text
    assert "Not recorded" not in run.text
    after = rows(database)[0]
    assert (after["status"], after["storage"], after["path"]) == ("ready", "s3", before["path"])


@pytest.mark.exhaustive
def test_check_mode_records_nothing(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, database: MariaDB
) -> None:
    run = play_newest("backup.yml", "--check", "--diff", vm=hypervisor.db.name, **login(database))
    assert run.code == 0, run.text
    assert rows(database) == []
    assert "Not recorded" not in run.text
