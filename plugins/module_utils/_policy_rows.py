# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_policy``: one row of ``backup_policies`` as it is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, NotFoundError, PolicyError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import DATABASE_ARGUMENTS, Database, DatabaseConfig
from ansible_collections.vmforge.backup.plugins.module_utils._policy import COLUMNS, effective

_COUNTS = ("keep_daily", "keep_weekly", "keep_monthly", "max_total_gb", "max_age_days")
# What the panel's table has for a new row.
_NEW: dict[str, Any] = {**dict.fromkeys(_COUNTS), "offsite": "s3", "delete_local_after_upload": False}

POLICY_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vm": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    **{name: {"type": "int"} for name in _COUNTS},
    "offsite": {"type": "str", "choices": ["none", "s3"]},
    "delete_local_after_upload": {"type": "bool"},
    "reset": {"type": "list", "elements": "str", "choices": list(COLUMNS), "default": []},
    **DATABASE_ARGUMENTS,
}


def manage_policy(request: Request) -> Outcome:
    """Make the row of one VM as it is wanted.

    Raises:
        InputError: The name means several VMs, or options contradict each other.
        NotFoundError: The panel has no such VM.
        PolicyError: The policy would keep nothing, or no copy at all.
        DatabaseError: The database is away or refuses.
    """
    params = request.params
    with Database(DatabaseConfig.from_params(params)) as database, database.transaction():
        uuid, name = _find(database, params["vm"], absent=params["state"] == "absent")
        found = database.query("SELECT * FROM backup_policies WHERE vm_uuid = %s FOR UPDATE", (uuid,))
        before = found[0] if found else None
        after = None if params["state"] == "absent" else _wanted(params, before)
        changed = (before is None) != (after is None) or (after is not None and after != _columns(before))
        if changed and not request.check_mode:
            _write(database, uuid, after, exists=before is not None)
    return Outcome(
        changed=changed,
        values={"vm": {"uuid": uuid, "name": name}, "policy": after},
        diff={"before": _lines(_columns(before)), "after": _lines(after), "before_header": name, "after_header": name},
    )


def _find(database: Database, text: str, *, absent: bool) -> tuple[str, str]:
    """UUID, as the panel writes it, and name of the VM that is meant."""
    uuid = canonical_uuid(text)
    candidates = (text, uuid or text, (uuid or text).replace("-", ""), text)
    rows = database.query("SELECT uuid, name FROM vm_instances WHERE uuid IN (%s, %s, %s) OR name = %s", candidates)
    # The database may compare names more loosely than hypervisors do.
    found = [row for row in rows if row["name"] == text or (uuid and canonical_uuid(row["uuid"]) == uuid)]
    if len(found) > 1:
        places = ", ".join(sorted(str(row["uuid"]) for row in found))
        raise InputError(
            f"'{text}' means {len(found)} VMs of the panel ({places}). Give the UUID of one.", code="ambiguous"
        )
    if found:
        return str(found[0]["uuid"]), str(found[0]["name"])
    if uuid and absent:
        return uuid, uuid
    raise NotFoundError(
        f"The panel has no VM '{text}' in vm_instances of {database.config.where}. A row belongs to a VM that "
        "it has; for others set vmforge_backup_policies."
    )


def _columns(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        **{name: row[name] for name in COLUMNS},
        "delete_local_after_upload": bool(row["delete_local_after_upload"]),
    }


def _wanted(params: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns as they are to be. What is not mentioned stays."""
    given = {name: params[name] for name in COLUMNS if params[name] is not None}
    both = sorted(set(given) & set(params["reset"]))
    if both:
        raise InputError(f"reset and a value are given for {', '.join(both)}. Choose one.")
    after = {**_NEW, **(_columns(before) or {}), **given, **{name: _NEW[name] for name in params["reset"]}}
    # A table may have columns that are not ours to set, and they count.
    policy, _sources = effective({**(before or {}), **after}, None, None)
    policy.check()
    if policy.delete_local_after_upload and policy.offsite != "s3":
        raise PolicyError("delete_local_after_upload needs offsite s3; without it no copy would be left.")
    return after


def _write(database: Database, uuid: str, after: Mapping[str, Any] | None, *, exists: bool) -> None:
    if after is None:
        database.execute("DELETE FROM backup_policies WHERE vm_uuid = %s", (uuid,))
        return
    values: Sequence[Any] = [after[name] for name in COLUMNS]
    if exists:
        changes = ", ".join(f"{name} = %s" for name in COLUMNS)
        database.execute(f"UPDATE backup_policies SET {changes} WHERE vm_uuid = %s", [*values, uuid])
    else:
        places = ", ".join(["%s"] * (len(COLUMNS) + 1))
        database.execute(
            f"INSERT INTO backup_policies (vm_uuid, {', '.join(COLUMNS)}) VALUES ({places})", [uuid, *values]
        )


def _lines(policy: Mapping[str, Any] | None) -> str:
    return "".join(f"{name}: {'default' if value is None else value}\n" for name, value in (policy or {}).items())
