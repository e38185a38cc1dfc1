# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a backup as one checked, immutable value. Pure."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._basis import TYPES, Rules
from ansible_collections.vmforge.backup.plugins.module_utils._compress import DEFAULT_LEVELS, MAX_LEVELS
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_duration, parse_id
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config

DEFAULT_BACKUP_DIR = "/var/lib/vmforge/backups"
DEFAULT_SCRATCH_DIR = "/var/lib/vmforge/scratch"
# QEMU opens over a hundred images of a chain, and not two hundred (seen).
_MAX_INCREMENTALS = 100

BACKUP_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vm": {"type": "list", "elements": "str"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "id": {"type": "str"},
    "uri": {"type": "str", "default": "qemu:///system"},
    "node": {"type": "str"},
    "backup_dir": {"type": "path", "default": DEFAULT_BACKUP_DIR},
    "offsite": {"type": "str", "choices": ["none", "s3"], "default": "none"},
    "delete_local_after_upload": {"type": "bool", "default": False},
    "type": {"type": "str", "choices": list(TYPES), "default": "auto"},
    "max_incrementals": {"type": "int", "default": 30},
    "full_every": {"type": "str", "default": "7d"},
    "parallel": {"type": "int", "default": 1},
    "max_age": {"type": "str"},
    "lock_timeout": {"type": "int", "default": 0},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "compression": {"type": "str", "choices": ["zstd", "zlib", "none"], "default": "zstd"},
    "compression_level": {"type": "int"},
    "readers": {"type": "int"},
    "rate_limit": {"type": "bytes"},
    "nice": {"type": "int", "default": 10},
    "ionice": {"type": "str", "choices": ["idle", "best-effort", "none"], "default": "best-effort"},
    "quiesce": {"type": "str", "choices": ["auto", "required", "never"], "default": "auto"},
    "freeze_timeout": {"type": "int", "default": 30},
    "scratch_dir": {"type": "path", "default": DEFAULT_SCRATCH_DIR},
    "scratch_max": {"type": "bytes"},
    "allow_plaintext": {"type": "bool", "default": False},
    **S3_ARGUMENTS,
}


@dataclass(frozen=True)
class BackupOptions:
    """What one call of ``vmforge_backup`` asks for; see that module's documentation for each meaning.

    Attributes:
        vms: Names or UUIDs; empty means all domains of the hypervisor.
        s3: Where copies go; None without an offsite copy.
        rules: Whether a full or an incremental backup is made.
        max_age: A younger ready backup makes a new one unnecessary.
        rate_limit: Bytes a second for all disks of a VM, or None.
        scratch_max: Bytes for all scratch files of a VM, or None.
    """

    vms: tuple[str, ...]
    uri: str
    node: str
    backup_dir: str
    s3: S3Config | None
    delete_local: bool
    rules: Rules
    parallel: int
    max_age: timedelta | None
    lock_timeout: int
    exclude: tuple[str, ...]
    compression: str
    level: int
    readers: int
    rate_limit: int | None
    nice: int
    ionice: str
    quiesce: str
    freeze_timeout: int
    scratch_dir: str
    scratch_max: int | None
    allow_plaintext: bool

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> BackupOptions:
        """Build from the module's options.

        Raises:
            InputError: An option is out of its range, or options do not fit together; names them.
        """
        offsite = params["offsite"] == "s3"
        if params["delete_local_after_upload"] and not offsite:
            raise InputError("delete_local_after_upload needs offsite: s3; without it no copy would be left.")
        compression = params["compression"]
        level = params["compression_level"]
        level = DEFAULT_LEVELS[compression] if level is None else level
        max_age = params["max_age"]
        return cls(
            vms=checked_names(params["vm"]),
            uri=params["uri"],
            node=params["node"] or socket.gethostname(),
            backup_dir=absolute_path("backup_dir", params["backup_dir"]),
            s3=S3Config.from_params(params) if offsite else None,
            delete_local=params["delete_local_after_upload"],
            rules=Rules(
                type=params["type"],
                max_incrementals=_within("max_incrementals", params["max_incrementals"], 0, _MAX_INCREMENTALS),
                full_every=parse_duration(params["full_every"]),
            ),
            parallel=_within("parallel", params["parallel"], 1, 64),
            max_age=parse_duration(max_age) if max_age else None,
            lock_timeout=_within("lock_timeout", params["lock_timeout"], 0, 7 * 86400),
            exclude=tuple(params["exclude"]),
            compression=compression,
            level=_within("compression_level", level, min(1, MAX_LEVELS[compression]), MAX_LEVELS[compression]),
            readers=_within("readers", params["readers"] or min(4, os.cpu_count() or 1), 1, 16),
            rate_limit=_positive("rate_limit", params["rate_limit"]),
            nice=_within("nice", params["nice"], 0, 19),
            ionice=params["ionice"],
            quiesce=params["quiesce"],
            freeze_timeout=_within("freeze_timeout", params["freeze_timeout"], 1, 600),
            scratch_dir=absolute_path("scratch_dir", params["scratch_dir"]),
            scratch_max=_positive("scratch_max", params["scratch_max"]),
            allow_plaintext=params["allow_plaintext"],
        )


def checked_names(names: list[str] | None) -> tuple[str, ...]:
    """The VMs that were asked for, each once. A name is only ever compared, never part of a path.

    Raises:
        InputError: A name is empty.
    """
    wanted = tuple(dict.fromkeys(names or ()))
    if any(not name.strip() for name in wanted):
        raise InputError("vm holds an empty name. Leave vm out to mean all domains of this host.")
    return wanted


def checked_id(text: str) -> str:
    """An id of a backup. Raises ``InputError`` for anything else."""
    try:
        parse_id(text)
    except ValueError as error:
        raise InputError(f"id: {error}.") from error
    return text


def _within(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; it must be from {low} to {high}.")
    return int(value)


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value <= 0:
        raise InputError(f"{name} is {value}; it must be above 0. Leave it out for no limit.")
    return value


def absolute_path(name: str, path: object) -> str:
    """A path as it was given, without detours. Raises ``InputError`` where it is none, or a relative one."""
    if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
        raise InputError(f"{name} is {path!r}; it must be an absolute path.")
    return os.path.normpath(path)
