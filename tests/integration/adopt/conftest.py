# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel's PHP pack left: images on a disk and in a bucket, and rows in MariaDB."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import uuid as uuids
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._adopt_node import ADOPT_ARGUMENTS, adopt_rows
from ansible_collections.vmforge.backup.plugins.module_utils._adopt_rows import list_pack_rows, record_adopted
from ansible_collections.vmforge.backup.plugins.module_utils._catalog_sync import CATALOG_ARGUMENTS, sync_catalog
from ansible_collections.vmforge.backup.plugins.module_utils._listing import INFO_ARGUMENTS, list_backups
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from tests.bed.catalog import prepare
from tests.bed.mariadb import MariaDB, mariadb
from tests.bed.s3 import S3Server, weed

MIB = 1 << 20
NODE = "node1"
ZONE = "Europe/Berlin"


@dataclass
class Pack:
    """The pack's leavings, and our ways to them.

    Attributes:
        uuid: Of the one VM.
        prefix: Of this collection's backups in the bucket.
    """

    place: Path
    database: MariaDB
    bucket: S3Server
    uuid: str
    prefix: str

    @property
    def backups(self) -> Path:
        """The ``backup_dir``, which was the pack's too."""
        return self.place / "backups"

    @property
    def directory(self) -> Path:
        """Where this VM's backups lie."""
        return self.backups / self.uuid

    def image(self, name: str, *, size: int = MIB, seed: bytes = b"x", options: Sequence[str] = ()) -> Path:
        """An image as the pack made them, readable by everybody."""
        raw, path = self.place / "raw", self.backups / "web1" / name
        path.parent.mkdir(exist_ok=True, mode=0o755)
        raw.write_bytes(hashlib.shake_256(seed + name.encode()).digest(size))
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(raw), str(path))
        raw.unlink()
        path.chmod(0o644)
        return path

    def row(self, created_at: str, *, path: Path | None = None, s3_key: str | None = None, **more: Any) -> int:
        """A row of the pack; its id."""
        known = path if path is not None and path.exists() else None
        values: dict[str, Any] = {
            "vm_uuid": self.uuid,
            "created_at": created_at,
            "type": "full",
            "size_bytes": known.stat().st_size if known else 1,
            "checksum_sha256": sha256(known) if known else "0" * 64,
            "storage": "hybrid" if path and s3_key else "s3" if s3_key else "local",
            "path": str(path) if path else None,
            "s3_key": s3_key,
            "meta": json.dumps({"vm_name": "web1"}),
            "status": "ready",
            **more,
        }
        with contextlib.closing(self.database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO backups ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})",
                list(values.values()),
            )
            return int(cursor.lastrowid)

    def upload(self, path: Path, key: str) -> None:
        """Put an image into the bucket as the pack did: one PUT."""
        with contextlib.closing(self.bucket.client()) as client:
            client.put_object(Bucket=self.bucket.bucket, Key=key, Body=path.read_bytes())

    def keys(self, prefix: str = "") -> list[str]:
        """Keys in the bucket, without our prefix if they have it."""
        with contextlib.closing(self.bucket.client()) as client:
            found = client.list_objects_v2(Bucket=self.bucket.bucket, Prefix=prefix).get("Contents", ())
        return [item["Key"] for item in found]

    def s3(self) -> dict[str, Any]:
        """Options of the bucket."""
        return {"offsite": "s3", **self.bucket.params(s3_prefix=self.prefix)}

    def rows(self, zone: str = ZONE, **more: Any) -> list[dict[str, Any]]:
        """What ``vmforge_backup_adopt_info`` tells."""
        params = {"panel_timezone": zone, "vm": None, **self.database.params(), **more}
        found: list[dict[str, Any]] = list_pack_rows(Request(params)).values["rows"]
        return found

    def adopt(self, rows: Sequence[dict[str, Any]] | None = None, *, check_mode: bool = False, **more: Any) -> Outcome:
        """Run ``vmforge_backup_adopt`` on this node."""
        params = {name: spec.get("default") for name, spec in ADOPT_ARGUMENTS.items()}
        params.update(uri="", node=NODE, backup_dir=str(self.backups), **more)
        params["rows"] = self.rows() if rows is None else rows
        return adopt_rows(Request(params, check_mode=check_mode))

    def record(self, outcome: Outcome, *, check_mode: bool = False) -> Outcome:
        """Run ``vmforge_backup_adopt_record``."""
        adopted = [row for row in outcome.values["rows"] if row["id"]]
        return record_adopted(Request({"adopted": adopted, **self.database.params()}, check_mode=check_mode))

    def listing(self, *, bucket: bool = False) -> list[dict[str, Any]]:
        """What ``vmforge_backup_info`` tells."""
        params = {name: spec.get("default") for name, spec in INFO_ARGUMENTS.items()}
        params.update(backup_dir=str(self.backups), **(self.s3() if bucket else {}))
        found: list[dict[str, Any]] = list_backups(Request(params)).values["backups"]
        return found

    def sync(self) -> Outcome:
        """Let the catalogue follow the storage."""
        params = {name: spec.get("default") for name, spec in CATALOG_ARGUMENTS.items()}
        params.update(self.database.params(), node=NODE, backups=self.listing(), backup_dir=str(self.backups))
        return sync_catalog(Request(params))

    def table(self) -> list[dict[str, Any]]:
        """All rows of the table, with times as they are in UTC."""
        with contextlib.closing(self.database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute("SELECT * FROM backups ORDER BY id")
            return [dict(row, meta=json.loads(row["meta"] or "null")) for row in cursor.fetchall()]


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture(scope="session")
def database() -> Iterator[MariaDB]:
    with mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with weed(tmp_path_factory.mktemp("weed-adopt")) as server:
        yield server


@pytest.fixture
def pack(tmp_path: Path, database: MariaDB, bucket: S3Server) -> Pack:
    """A pack with one VM and nothing in it."""
    (tmp_path / "backups").mkdir(mode=0o755)
    prepare(database)
    uuid = str(uuids.uuid4())
    database.sql("DELETE FROM backups")
    return Pack(tmp_path, database, bucket, uuid, f"ours-{uuid[:8]}")
