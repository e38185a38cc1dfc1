# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of any age, as the engine lays them, without a guest to take them from; and pruning of them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._listing import list_entries
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import (
    DiskRecord,
    Manifest,
    describe_bytes,
    manifest_sha256,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, format_id, format_time
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_listing import OffsiteListing
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_upload import upload_backup
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._prune import prune_backups
from ansible_collections.vmforge.backup.plugins.module_utils._prune_options import PRUNE_ARGUMENTS
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config

Entry = dict[str, Any]
WEEK = Policy(keep_daily=7, keep_weekly=0, keep_monthly=0, max_total_gb=None)


@dataclass
class Shelf:
    """One node's backup directory.

    Attributes:
        path: Of the directory.
        node: Its name.
        s3: Options of S3, for every call.
    """

    path: Path
    node: str = "node1"
    s3: dict[str, Any] = field(default_factory=dict)
    vm: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str = "web1"

    def __post_init__(self) -> None:
        self.path.mkdir(mode=0o700, exist_ok=True)

    def lay(self, moment: datetime, *, parent: str | None = None, size: int = 1000, **more: Any) -> str:
        """Lay a complete backup of this moment, with real files that its manifest tells the truth of; its id."""
        backup_id = format_id(moment)
        place = self.path / self.vm / backup_id
        place.mkdir(mode=0o700, parents=True)
        data = (backup_id.encode() * (size // 16 + 1))[:size]
        (place / "vda.qcow2").write_bytes(data)
        (place / "domain.xml").write_bytes(b"<domain/>")
        kind = "full" if parent is None else "incremental"
        backing = None if parent is None else f"../{parent}/vda.qcow2"
        manifest = Manifest(
            id=backup_id,
            vm=VmRef(self.vm, self.name, more.get("node", self.node)),
            instant=format_time(moment),
            finished_at=format_time(moment + timedelta(seconds=9)),
            type=kind,
            full_reason="first" if parent is None else None,
            consistency="crash",
            compression="zstd",
            disks=(DiskRecord("vda", kind, "vda.qcow2", "qcow2", "/x", 512, size, backing),),
            excluded=(),
            files=tuple(
                describe_bytes(name, (place / name).read_bytes(), part_size=16 << 20)
                for name in ("vda.qcow2", "domain.xml")
            ),
            tool={"collection": "1"},
            parent=None if parent is None else {"id": parent, "manifest_sha256": self.checksum(parent)},
            checkpoint=more.get("checkpoint"),
        )
        (place / "manifest.json").write_bytes(manifest.encode())
        return backup_id

    def days(self, count: int, *, newest: datetime | None = None) -> list[str]:
        """Lay a backup of each of so many days; their ids, newest first."""
        start = newest or datetime.now(timezone.utc).replace(hour=0, minute=5, second=0, microsecond=0)
        return [self.lay(start - timedelta(days=index)) for index in range(count)]

    def checksum(self, backup_id: str) -> str:
        """Of a manifest here."""
        return manifest_sha256((self.path / self.vm / backup_id / "manifest.json").read_bytes())

    def upload(self, *backup_ids: str, drop_local: bool = False, **more: Any) -> None:
        """Bring backups to S3."""
        with contextlib.closing(self.store(**more)) as store:
            for backup_id in backup_ids:
                place = OffsiteVm(store, self.vm).backup(backup_id)
                upload_backup(place, self.path / self.vm / backup_id, drop_local=drop_local)

    def store(self, **more: Any) -> S3Store:
        """The bucket."""
        return S3Store(S3Config.from_params({**self.s3, **more}))

    def listing(self) -> list[Entry]:
        """What ``vmforge_backup_info`` tells of this node."""
        return list_entries(self.path, None, ())

    def bucket(self) -> list[Entry]:
        """What it tells of the bucket."""
        with contextlib.closing(self.store()) as store:
            return list_entries(Path("/dev/null"), OffsiteListing(store), ())

    def ids(self, status: str = "ready") -> list[str]:
        """Newest first."""
        return sorted((entry["id"] for entry in self.listing() if entry["status"] == status), reverse=True)

    def params(self, policy: Policy | Mapping[str, Any] = WEEK, **more: Any) -> dict[str, Any]:
        """Options of the module."""
        values = {name: spec.get("default") for name, spec in PRUNE_ARGUMENTS.items()}
        policy = policy.values() if isinstance(policy, Policy) else dict(policy)
        values.update(
            backup_dir=str(self.path),
            state_dir=str(self.path / "state"),
            node=self.node,
            listings=[{"node": self.node, "backups": self.listing()}],
            policies={self.vm: policy},
            known_vms=[self.vm],
            confirm=True,
            **self.s3,
        )
        if self.s3.get("offsite") == "s3" and "bucket" not in more:
            values["bucket"] = self.bucket()
        values.update(more)
        return values

    def prune(self, policy: Policy | Mapping[str, Any] = WEEK, *, check_mode: bool = False, **more: Any) -> Outcome:
        """Prune; the outcome."""
        return prune_backups(Request(self.params(policy, **more), check_mode=check_mode))


def results(outcome: Outcome, vm: int = 0) -> dict[str, str]:
    """What became of each backup of a VM."""
    return {row["id"]: row["result"] for row in outcome.values["vms"][vm]["backups"]}
