# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ``vmforge_backup_prune``, checked. Pure."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import (
    MAX_CLOCK_AHEAD,
    format_time,
    parse_time,
    utc_now,
)
from ansible_collections.vmforge.backup.plugins.module_utils._options import (
    DEFAULT_BACKUP_DIR,
    checked_id,
    checked_names,
)
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config

DEFAULT_STATE_DIR = "/var/lib/vmforge/prune"
PRUNE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vm": {"type": "list", "elements": "str"},
    "id": {"type": "list", "elements": "str", "default": []},
    "scope": {"type": "str", "choices": ["all", "local", "s3"], "default": "all"},
    "listings": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {"node": {"type": "str"}, "backups": {"type": "list", "elements": "dict", "required": True}},
    },
    "bucket": {"type": "list", "elements": "dict"},
    "missing_nodes": {"type": "list", "elements": "str", "default": []},
    "ignore_nodes": {"type": "list", "elements": "str", "default": []},
    "policies": {"type": "dict", "default": {}},
    "policy_problems": {"type": "dict", "default": {}},
    "known_vms": {"type": "list", "elements": "str", "default": []},
    "gone": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            **{name: {"type": "str", "required": True} for name in ("uuid", "id", "bucket", "prefix")},
            "endpoint": {"type": "str"},
        },
    },
    "at": {"type": "str"},
    "confirm": {"type": "bool", "default": False},
    "reap": {"type": "bool", "default": True},
    "uri": {"type": "str", "default": "qemu:///system"},
    "node": {"type": "str"},
    "backup_dir": {"type": "path", "default": DEFAULT_BACKUP_DIR},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
    "offsite": {"type": "str", "choices": ["none", "s3"], "default": "none"},
    "lock_timeout": {"type": "int", "default": 0},
    **S3_ARGUMENTS,
}


@dataclass(frozen=True)
class PruneOptions:
    """What one call asks for; see the module's documentation for each meaning.

    Attributes:
        vms: Names or UUIDs; empty means all.
        ids: Just these are deleted, whatever a policy says; empty means what no policy keeps.
        bucket: What the bucket has; None where it was not listed.
        gone: (UUID, id, endpoint, bucket, prefix) of copies that are deleted already; AWS has no endpoint.
        at: The moment for which is decided; the same for all nodes, or they would decide differently.
        s3: Where copies lie; None without.
    """

    vms: tuple[str, ...]
    ids: frozenset[str]
    scope: str
    listings: Sequence[Mapping[str, Any]]
    bucket: Sequence[Mapping[str, Any]] | None
    missing: frozenset[str]
    ignored: frozenset[str]
    policies: Mapping[str, Any]
    problems: Mapping[str, Any]
    known: frozenset[str]
    gone: frozenset[tuple[str, str, str, str, str]]
    at: datetime
    confirm: bool
    reap: bool
    uri: str
    node: str
    backup_dir: str
    state_dir: str
    s3: S3Config | None
    lock_timeout: int

    @property
    def takes_over(self) -> bool:
        """Whether this node deletes what lies in the bucket alone of nodes that are gone for good."""
        return self.reap and self.s3 is not None and bool(self.ignored)

    @classmethod
    def from_params(cls, params: Mapping[str, Any], *, now: datetime | None = None) -> PruneOptions:
        """Build from the module's options.

        Args:
            now: What this host's clock says.

        Raises:
            InputError: An option is malformed, or options do not fit together; names them.
        """
        scope, node = params["scope"], params["node"] or socket.gethostname()
        # Without an inventory this host is called localhost, which many are.
        listings = [dict(listing, node=listing.get("node") or node) for listing in params["listings"]]
        if scope != "s3" and node not in [listing["node"] for listing in listings]:
            raise InputError(f"listings has none of this node, {node!r}. Take what vmforge_backup_info returns here.")
        if scope == "local" and params["offsite"] == "s3":
            raise InputError("scope: local leaves S3 alone; it takes gone in place of offsite: s3.")
        if scope == "s3" and (params["offsite"] != "s3" or params["bucket"] is None):
            raise InputError("scope: s3 needs offsite: s3, and bucket: what vmforge_backup_info lists there.")
        if params["id"] and len(params["vm"] or ()) != 1:
            raise InputError("id names backups of one VM; vm must name exactly that one.")
        if params["lock_timeout"] < 0:
            raise InputError(f"lock_timeout is {params['lock_timeout']}; it must be 0 or more.")
        return cls(
            vms=checked_names(params["vm"]),
            ids=frozenset(checked_id(backup_id) for backup_id in params["id"]),
            scope=scope,
            listings=listings,
            bucket=params["bucket"],
            missing=frozenset(params["missing_nodes"]),
            ignored=frozenset(params["ignore_nodes"]),
            policies=params["policies"],
            problems=params["policy_problems"],
            known=frozenset(params["known_vms"]),
            gone=frozenset(_gone(item) for item in params["gone"]),
            at=_moment(params["at"], now=now or utc_now()),
            confirm=params["confirm"],
            reap=params["reap"] and scope != "local",
            uri=params["uri"],
            node=node,
            backup_dir=params["backup_dir"],
            state_dir=params["state_dir"],
            s3=S3Config.from_params(params) if params["offsite"] == "s3" else None,
            lock_timeout=params["lock_timeout"],
        )


def _moment(text: str | None, *, now: datetime) -> datetime:
    """The moment that was given. One of the past lets more be kept; one of the future would let too much go."""
    if not text:
        return now
    try:
        moment = parse_time(text)
    except ValueError as error:
        raise InputError(f"at is {text!r}, which is no time such as 2026-11-22T15:12:00Z: {error}.") from error
    if moment > now + MAX_CLOCK_AHEAD:
        raise InputError(
            f"Pruning is to be decided for {format_time(moment)}, but this host's clock says {format_time(now)}: the "
            "clocks of the hosts are apart. Set them, with NTP for instance. Nothing was deleted.",
            code="clock",
        )
    return moment


def _gone(item: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    try:
        endpoint = str(item.get("endpoint") or "")
        return str(item["uuid"]), str(item["id"]), endpoint, str(item["bucket"]), str(item["prefix"])
    except KeyError as error:
        raise InputError(f"gone holds an item without {error}; take what scope: s3 returned.") from error
