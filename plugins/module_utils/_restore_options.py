# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ``vmforge_backup_restore``, checked. Pure but for the host's name and its processors."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import is_id, parse_id, parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._options import (
    DEFAULT_BACKUP_DIR,
    absolute_path,
    checked_id,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import checked_sha256

LATEST = "latest"
DEFAULT_STATE_DIR = "/var/lib/vmforge/restore"

RESTORE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vm": {"type": "str", "required": True},
    "id": {"type": "str", "default": LATEST},
    "before": {"type": "str"},
    "checksum_sha256": {"type": "str"},
    "to": {"type": "str"},
    "disks": {"type": "list", "elements": "str", "default": []},
    "storage": {"type": "path"},
    "paths": {"type": "dict"},
    "format": {"type": "str", "choices": ["original", "qcow2", "raw"], "default": "original"},
    "networks": {"type": "str", "choices": ["keep", "map", "disconnect"], "default": "keep"},
    "network_map": {"type": "dict"},
    "start": {"type": "bool", "default": False},
    "instant": {"type": "bool", "default": False},
    "boot_timeout": {"type": "int", "default": 0},
    "force": {"type": "bool", "default": False},
    "overwrite_devices": {"type": "bool", "default": False},
    "old": {"type": "str", "choices": ["keep", "remove"], "default": "keep"},
    "uri": {"type": "str", "default": "qemu:///system"},
    "node": {"type": "str"},
    "backup_dir": {"type": "path", "default": DEFAULT_BACKUP_DIR},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
    "offsite": {"type": "str", "choices": ["none", "s3"], "default": "none"},
    "parallel": {"type": "int"},
    "lock_timeout": {"type": "int", "default": 0},
    **S3_ARGUMENTS,
}
# What libvirt takes for a name, less what would be a nuisance in a file's name.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,199}\Z")


@dataclass(frozen=True)
class RestoreOptions:
    """What one call asks for; see the module's documentation for each meaning.

    Attributes:
        id: None for the latest.
        to: The new machine's name; None restores in place.
        paths: Target -> path of a disk's new place.
    """

    vm: str
    id: str | None
    before: datetime | None
    checksum: str | None
    to: str | None
    disks: tuple[str, ...]
    storage: Path | None
    paths: Mapping[str, str]
    format: str
    networks: str
    network_map: Mapping[str, str]
    start: bool
    instant: bool
    boot_timeout: int
    force: bool
    overwrite_devices: bool
    keep_old: bool
    uri: str
    node: str
    backup_dir: Path
    state_dir: Path
    s3: S3Config | None
    parallel: int
    lock_timeout: int

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> RestoreOptions:
        """Build from the module's options.

        Raises:
            InputError: An option is out of its range, or options do not fit together; names them.
        """
        _check_together(params)
        wanted = params["id"] or LATEST
        parallel = params["parallel"] or min(4, os.cpu_count() or 1)
        if not 1 <= parallel <= 64:
            raise InputError(f"parallel is {parallel}; it must be from 1 to 64.")
        paths = {target: absolute_path(f"paths, {target}", path) for target, path in (params["paths"] or {}).items()}
        digest = params["checksum_sha256"]
        return cls(
            vm=params["vm"],
            id=None if wanted == LATEST else checked_id(wanted),
            before=parse_moment(params["before"]) if params["before"] else None,
            checksum=checked_sha256("checksum_sha256", digest) if digest else None,
            to=_checked_name(params["to"]) if params["to"] else None,
            disks=tuple(dict.fromkeys(params["disks"])),
            storage=Path(absolute_path("storage", params["storage"])) if params["storage"] else None,
            paths=paths,
            # An overlay is one.
            format="qcow2" if params["instant"] else params["format"],
            networks=params["networks"],
            network_map={str(old): str(new) for old, new in (params["network_map"] or {}).items()},
            start=params["start"] or params["instant"],
            instant=params["instant"],
            boot_timeout=params["boot_timeout"],
            force=params["force"],
            overwrite_devices=params["overwrite_devices"],
            keep_old=params["old"] == "keep",
            uri=params["uri"],
            node=params["node"] or socket.gethostname(),
            backup_dir=Path(params["backup_dir"]),
            state_dir=Path(absolute_path("state_dir", params["state_dir"])),
            s3=S3Config.from_params(params) if params["offsite"] == "s3" else None,
            parallel=parallel,
            lock_timeout=max(0, params["lock_timeout"]),
        )


def parse_moment(text: str) -> datetime:
    """A time of RFC 3339, or the second that an id names.

    Raises:
        InputError: Anything else.
    """
    try:
        return parse_id(text) if is_id(text) else parse_time(text.strip())
    except ValueError as error:
        raise InputError(
            f"before is {text!r}; write a time with its zone, such as 2026-11-22T15:12:00Z or 2026-11-22 16:12+01:00."
        ) from error


def _check_together(params: Mapping[str, Any]) -> None:
    if not params["vm"].strip():
        raise InputError("vm is empty: whose backup shall be restored?")
    if params["boot_timeout"] < 0:
        raise InputError(f"boot_timeout is {params['boot_timeout']}; it must be 0 or more seconds.")
    if params["instant"] and params["format"] == "raw":
        raise InputError("instant works on an overlay, which is a qcow2 image; it cannot be used with format: raw.")
    if params["boot_timeout"] and not (params["start"] or params["instant"]):
        raise InputError("boot_timeout waits for a machine that start: true starts; set that too.")
    if params["networks"] == "map" and not params["network_map"]:
        raise InputError("networks: map needs network_map, from names of networks and bridges to new ones.")
    if params["network_map"] and params["networks"] != "map":
        raise InputError("network_map needs networks: map.")


def _checked_name(name: str) -> str:
    if not _NAME.match(name):
        raise InputError(f"to is {name!r}; a machine's name may have letters, digits and any of _.+@- in it.")
    return name
