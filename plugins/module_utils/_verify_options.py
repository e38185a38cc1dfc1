# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ``vmforge_backup_verify``, checked. Pure but for the host's name and its processors."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._boot_options import BOOT_ARGUMENTS, BootOptions
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, is_id
from ansible_collections.vmforge.backup.plugins.module_utils._options import (
    DEFAULT_BACKUP_DIR,
    checked_id,
    checked_names,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._verified import parse_share

VERIFY_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vm": {"type": "list", "elements": "str"},
    "id": {"type": "str"},
    "level": {"type": "str", "choices": ["manifest", "data", "boot"], "default": "data"},
    "sample": {"type": "str"},
    "repair": {"type": "bool", "default": True},
    "checksums": {"type": "dict"},
    "node": {"type": "str"},
    "all_nodes": {"type": "bool", "default": False},
    "backup_dir": {"type": "path", "default": DEFAULT_BACKUP_DIR},
    "offsite": {"type": "str", "choices": ["none", "s3"], "default": "none"},
    "parallel": {"type": "int"},
    "lock_timeout": {"type": "int", "default": 60},
    **BOOT_ARGUMENTS,
    **S3_ARGUMENTS,
}
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class VerifyOptions:
    """What one call asks for; see the module's documentation for each meaning.

    Attributes:
        share: Of the backups, above 0 and up to 1.
        checksums: ``<vm_uuid>/<id>`` -> SHA-256 of its manifest.
        node: Whose backups; None for those of all nodes.
        boot: How they are booted; None where they are not.
    """

    vms: tuple[str, ...]
    id: str | None
    level: str
    share: float
    repair: bool
    checksums: Mapping[str, str]
    node: str | None
    backup_dir: Path
    s3: S3Config | None
    parallel: int
    lock_timeout: int
    boot: BootOptions | None

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> VerifyOptions:
        """Build from the module's options.

        Raises:
            InputError: An option is out of its range, or options do not fit together; names them.
        """
        parallel = params["parallel"] or min(4, os.cpu_count() or 1)
        if not 1 <= parallel <= 64:
            raise InputError(f"parallel is {parallel}; it must be from 1 to 64.")
        return cls(
            vms=checked_names(params["vm"]),
            id=checked_id(params["id"]) if params["id"] else None,
            level=params["level"],
            share=parse_share(params["sample"]) if params["sample"] else 1.0,
            repair=params["repair"],
            checksums=_checksums(params["checksums"] or {}),
            node=None if params["all_nodes"] else params["node"] or socket.gethostname(),
            backup_dir=Path(params["backup_dir"]),
            s3=S3Config.from_params(params) if params["offsite"] == "s3" else None,
            parallel=parallel,
            lock_timeout=max(0, params["lock_timeout"]),
            boot=BootOptions.from_params(params) if params["level"] == "boot" else None,
        )


def _checksums(value: Mapping[str, Any]) -> dict[str, str]:
    for name in value:
        uuid, _slash, backup_id = str(name).partition("/")
        if canonical_uuid(uuid) != uuid or not is_id(backup_id):
            raise InputError(f"checksums: {name!r} is not a UUID and an id with a slash between them.")
    return {name: checked_sha256("checksums", digest) for name, digest in value.items()}


def checked_sha256(option: str, digest: object) -> str:
    """A SHA-256 in lower-case hexadecimal. Raises ``InputError`` for anything else."""
    text = str(digest).lower()
    if not _SHA256.match(text):
        raise InputError(f"{option}: {digest!r} is not a SHA-256 of 64 hexadecimal digits.")
    return text
