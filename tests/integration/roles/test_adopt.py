# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``playbooks/adopt.yml``: what the pack left on nodes, in the bucket and in MariaDB."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.bed.catalog import prepare
from tests.bed.mariadb import MariaDB
from tests.bed.s3 import S3Server
from tests.integration.roles.conftest import DEAD, Hypervisor, Play, Storage, nodes

GONE = "00000000-0000-4000-8000-000000000009"


@pytest.fixture
def database(database_server: MariaDB, hypervisor: Hypervisor) -> MariaDB:
    prepare(database_server, {hypervisor.db.uuid: hypervisor.db.name})
    return database_server


@pytest.fixture
def settings(database: MariaDB, bucket: S3Server, storage: Storage) -> dict[str, Any]:
    """The variables of a panel whose day-to-day user has no more rights than it should."""
    database.sql(
        "CREATE OR REPLACE USER keeper@'%' IDENTIFIED BY 'Keeper-1'",
        "GRANT SELECT, INSERT, UPDATE ON vmforge.backups TO keeper@'%'",
        "GRANT SELECT ON vmforge.vm_instances TO keeper@'%'",
    )
    return {
        "vmforge_backup_db_host": "127.0.0.1",
        "vmforge_backup_db_port": database.port,
        "vmforge_backup_db_user": "keeper",
        "vmforge_backup_db_password": "Keeper-1",
        "vmforge_backup_panel_timezone": "Europe/Berlin",
        "vmforge_backup_s3_endpoint": bucket.endpoint,
        "vmforge_backup_s3_bucket": bucket.bucket,
        "vmforge_backup_s3_access_key": bucket.access_key,
        "vmforge_backup_s3_secret_key": bucket.secret_key,
        "vmforge_backup_s3_prefix": f"adopt/{storage.place.name}",
    }


def image(storage: Storage, name: str) -> tuple[Path, str]:
    path, raw = storage.backups / name, storage.place / "raw"
    raw.write_bytes(hashlib.shake_256(name.encode()).digest(1 << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def insert(database: MariaDB, uuid: str, path: Path | None, digest: str, s3_key: str = "") -> None:
    database.sql(
        "INSERT INTO backups (vm_uuid, created_at, type, size_bytes, checksum_sha256, storage, path, s3_key, status) "
        f"VALUES ('{uuid}', '2025-07-01 12:00:00', 'full', 1, '{digest}', '{'s3' if s3_key else 'local'}', "
        f"{repr(str(path)) if path else 'NULL'}, {repr(s3_key) if s3_key else 'NULL'}, 'ready')"
    )


@pytest.mark.exhaustive
def test_a_fleet_adopts_and_the_panel_follows(
    play_newest: Play,
    hypervisor: Hypervisor,
    storage: Storage,
    database: MariaDB,
    bucket: S3Server,
    settings: dict[str, Any],
) -> None:
    db = hypervisor.db
    here, digest = image(storage, "db.qcow2")
    stored, stored_digest = image(storage, "stored.qcow2")
    orphan, orphan_digest = image(storage, "orphan.qcow2")
    key = f"pack/{storage.place.name}/stored.qcow2"
    client = bucket.client()
    client.put_object(Bucket=bucket.bucket, Key=key, Body=stored.read_bytes())
    client.close()
    stored.unlink()
    insert(database, db.uuid, here, digest)
    insert(database, db.uuid, None, stored_digest, key)
    # Of a machine that was deleted in the panel and on its node.
    insert(database, GONE, orphan, orphan_digest)
    # Two nodes that share their directory and their hypervisor: each image is adopted once.
    inventory = nodes("one", "two")
    plan = play_newest("adopt.yml", "--check", "--diff", inventory=inventory, **settings)
    assert plan.code == 0, plan.text
    assert here.exists()
    assert [row["result"] for row in plan.stats["vmforge_backup_adopt_report"]["rows"]] == ["planned"] * 3
    run = play_newest("adopt.yml", inventory=inventory, **settings)
    assert run.code == 0, run.text
    report = run.stats["vmforge_backup_adopt_report"]
    assert [row["result"] for row in report["rows"]] == ["adopted"] * 3
    assert (here.exists(), orphan.exists()) == (False, False)
    assert sorted(manifest["vm"]["uuid"] for manifest in storage.manifests()) == sorted([db.uuid, db.uuid, GONE])
    adopted = storage.manifests()
    assert [[file["name"] for file in item["files"]] for item in adopted if item["vm"]["uuid"] == db.uuid] == [
        ["vda.qcow2", "domain.xml"]
    ] * 2
    rows = database.sql("SELECT * FROM backups ORDER BY id")
    # No row more, none less: the three became those of their backups.
    assert [(row["status"], row["storage"]) for row in rows] == [
        ("ready", "local"),
        ("ready", "s3"),
        ("ready", "local"),
    ]
    for row in rows:
        manifest = Path(row["path"]) / "manifest.json"
        assert row["checksum_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
        assert json.loads(row["meta"])["node"] in ("one", "two")
    again = play_newest("adopt.yml", inventory=inventory, **settings)
    assert again.code == 0, again.text
    assert "nothing of the pack to adopt" in again.text
    assert "changed=1" not in again.text
    for secret in ("Keeper-1", bucket.secret_key):
        assert secret not in plan.text + run.text


def test_what_is_missing_is_told_with_the_node_that_may_have_it(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, database: MariaDB, settings: dict[str, Any]
) -> None:
    db = hypervisor.db
    good, digest = image(storage, "good.qcow2")
    insert(database, db.uuid, good, digest)
    insert(database, db.uuid, storage.backups / "lost.qcow2", "a" * 64)
    run = play_newest("adopt.yml", inventory=nodes(DEAD, "good"), **settings)
    assert run.code != 0
    report = run.stats["vmforge_backup_adopt_report"]
    assert [row["result"] for row in report["rows"]] == ["adopted", "missing"]
    assert "it may be on one that was not (dead)" in run.text
    assert "dead was not searched" in run.text
    statuses = database.sql("SELECT status, path FROM backups ORDER BY id")
    assert [row["status"] for row in statuses] == ["ready", "ready"]
    assert statuses[1]["path"].endswith("lost.qcow2")


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ("", "Set vmforge_backup_panel_timezone"),
        pytest.param("Mars/X", "no time zone known", marks=pytest.mark.exhaustive),
    ],
)
def test_without_a_zone_nothing_begins(
    play_newest: Play,
    hypervisor: Hypervisor,
    storage: Storage,
    database: MariaDB,
    settings: dict[str, Any],
    zone: str,
    said: str,
) -> None:
    path, digest = image(storage, "good.qcow2")
    insert(database, hypervisor.db.uuid, path, digest)
    run = play_newest("adopt.yml", inventory=nodes("good"), **{**settings, "vmforge_backup_panel_timezone": zone})
    assert run.code != 0
    assert said in run.text
    assert path.exists()
