# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_policy_info``: what holds for each VM, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, PolicyError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import DATABASE_ARGUMENTS, Database, DatabaseConfig
from ansible_collections.vmforge.backup.plugins.module_utils._policy import checked_fields, effective

POLICY_INFO_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vms": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {"uuid": {"type": "str", "required": True}, "name": {"type": "str"}},
    },
    "defaults": {"type": "dict", "default": {}},
    "variables": {"type": "dict", "default": {}},
    **DATABASE_ARGUMENTS,
}


def list_policies(request: Request) -> Outcome:
    """Resolve the policy of every VM asked for.

    Raises:
        InputError: A VM's UUID is none.
        PolicyError: The policy for all VMs has a value without meaning.
        DatabaseError: A database is set and away: then nobody knows the policies, and defaults would be a guess.
    """
    params = request.params
    defaults = checked_fields(params["defaults"], "vmforge_backup_policy")
    vms = {_uuid(vm["uuid"]): vm["name"] for vm in params["vms"]}
    rows: dict[str, dict[str, Any]] = {}
    known = None
    if DatabaseConfig.is_configured(params):
        with Database(DatabaseConfig.from_params(params)) as database:
            rows = _by_uuid(database.query("SELECT * FROM backup_policies"), "vm_uuid")
            known = sorted(_by_uuid(database.query("SELECT uuid FROM vm_instances"), "uuid"))
    policies: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    for uuid, name in vms.items():
        try:
            policy, sources = effective(rows.get(uuid), _variables(params["variables"], uuid, name), defaults)
        except PolicyError as error:
            problems[uuid] = f"The policy of {name or uuid} cannot be used. {error.message}"
        else:
            policies[uuid] = {**policy.values(), "sources": sources}
    return Outcome(changed=False, values={"policies": policies, "known": known, "problems": problems})


def _uuid(text: str) -> str:
    uuid = canonical_uuid(text)
    if uuid is None:
        raise InputError(f"vms: {text!r} is no UUID.")
    return uuid


def _by_uuid(rows: list[dict[str, Any]], column: str) -> dict[str, dict[str, Any]]:
    """Rows by UUID as libvirt writes it; the panel may write it otherwise. Its containers may have other names."""
    return {canonical_uuid(str(row[column])) or str(row[column]): row for row in rows}


def _variables(variables: Mapping[str, Any], uuid: str, name: str | None) -> dict[str, Any]:
    """The fields for one VM; those under its UUID go before those under its name."""
    found: dict[str, Any] = {}
    for wanted in (name, uuid):
        for key, values in variables.items():
            if wanted is not None and (key == wanted or canonical_uuid(str(key)) == wanted):
                if not isinstance(values, Mapping):
                    raise PolicyError(f"vmforge_backup_policies of {key} is {values!r}; it must be fields with values.")
                found.update(checked_fields(values, f"vmforge_backup_policies of {key}"))
    return found
