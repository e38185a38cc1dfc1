# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lays backups in a directory, with manifests that are true of their files, for tests of what looks at them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST, BackupDirectory, VmDirectory
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import (
    DiskRecord,
    Manifest,
    describe_bytes,
    manifest_sha256,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef, format_time, parse_id

UUID = "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"
NODE = "node1"
VM = VmRef(UUID, "web1", NODE)
DATA = b"an image"


def sha256_of(backup_id: str) -> str:
    """Of the manifest of a full backup."""
    return manifest_sha256(manifest_of(backup_id).encode())


def manifest_of(backup_id: str, *, node: str = NODE, parent: str | None = None, **more: Any) -> Manifest:
    """The manifest of a backup with one disk, made at the second of its id."""
    instant = format_time(parse_id(backup_id))
    kind = "full" if parent is None else "incremental"
    backing = None if parent is None else f"../{parent}/vda.qcow2"
    values: dict[str, Any] = {
        "id": backup_id,
        "vm": VmRef(UUID, "web1", node),
        "instant": instant,
        "finished_at": instant,
        "type": kind,
        "full_reason": "every backup is a full one" if parent is None else None,
        "parent": None if parent is None else {"id": parent, "manifest_sha256": sha256_of(parent)},
        "consistency": "quiesced",
        "compression": "zstd",
        "disks": (DiskRecord("vda", kind, "vda.qcow2", "qcow2", "/i/vda", 1 << 20, 65536, backing),),
        "excluded": (),
        "files": (describe_bytes("vda.qcow2", DATA, part_size=1 << 24),),
        "tool": {"collection": "1.0.0"},
    }
    return Manifest(**{**values, **more})


def lay(directory: VmDirectory, backup_id: str, suffix: str = "", *, disk: bool = True, **more: Any) -> Path:
    """Lay one backup, or what it is called in another state; its directory."""
    path = directory.entry(backup_id, suffix)
    path.mkdir(parents=True)
    if disk:
        (path / "vda.qcow2").write_bytes(DATA)
    (path / MANIFEST).write_bytes(manifest_of(backup_id, **more).encode())
    return path


def note(path: Path, name: str, **values: Any) -> None:
    """Write a JSON file beside it."""
    (path / name).write_text(json.dumps(values))


def shelf(root: Path) -> VmDirectory:
    """The directory of the one VM, which exists."""
    directory = BackupDirectory(str(root)).vm(UUID)
    directory.path.mkdir()
    return directory
