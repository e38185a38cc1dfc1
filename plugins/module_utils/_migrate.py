# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_schema``: look, plan, and execute the very statements of the plan."""

from __future__ import annotations

from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import DatabaseError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import (
    DATABASE_ARGUMENTS,
    Database,
    DatabaseConfig,
)
from ansible_collections.vmforge.backup.plugins.module_utils._schema import MIGRATION, SchemaPlan, plan_schema
from ansible_collections.vmforge.backup.plugins.module_utils._schema_facts import policy_columns, read_facts

SCHEMA_ARGUMENTS: dict[str, dict[str, Any]] = {
    **DATABASE_ARGUMENTS,
    "lock_timeout": {"type": "int", "default": 30},
}

_OLDEST = {"mariadb": (10, 5), "mysql": (8, 0)}
_ZERO = ("keep_daily", "keep_weekly", "keep_monthly")


def migrate(request: Request) -> Outcome:
    """Bring the tables to their present form, or say how.

    Raises:
        InputError: An option is malformed.
        DatabaseError: The server is too old, the tables are in no known form, or a statement failed.
        BusyError: Something else works on the tables.
    """
    config = DatabaseConfig.from_params(request.params)
    seconds = max(1, request.params["lock_timeout"])
    # A large table takes its time.
    with Database(config, answer_seconds=None) as database:
        _check_version(database)
        with database.lock("schema", seconds):
            plan = plan_schema(read_facts(database), where=config.where)
            if plan.all and not request.check_mode:
                # Everybody who wants to read a table waits behind an ALTER that waits.
                database.execute(f"SET SESSION lock_wait_timeout = {seconds}, innodb_lock_wait_timeout = {seconds}")
                _execute(database, plan)
            zeros = _zeros(database)
    warnings = [*plan.warnings, *_zero_warning(zeros)]
    values = {
        "shape": plan.shape,
        "statements": list(plan.all),
        "migration": MIGRATION,
        "policies_with_zero": zeros,
        "server": {"flavour": database.server.flavour, "version": database.server.version},
    }
    text = "".join(f"{statement};\n" for statement in plan.all)
    return Outcome(bool(plan.all), values, {"prepared": text} if text else None, tuple(warnings))


def _check_version(database: Database) -> None:
    server = database.server
    if server.number < _OLDEST[server.flavour]:
        oldest = ".".join(str(part) for part in _OLDEST[server.flavour])
        raise DatabaseError(
            f"The server of {database.config.where} is {server.version}; {server.flavour} {oldest} or newer is needed.",
            code="db_version",
        )


def _execute(database: Database, plan: SchemaPlan) -> None:
    for number, statement in enumerate(plan.all, start=1):
        try:
            database.execute(statement)
        except VMForgeError as error:
            done = f"{number - 1} of {len(plan.all)} statements were executed before. " if number > 1 else ""
            error.message += f" {done}The next run continues here."
            raise
    left = plan_schema(read_facts(database), where=database.config.where)
    if left.statements:
        raise DatabaseError(
            f"The migration of {database.config.where} did not take: the server still wants "
            f"{'; '.join(left.statements)}. Please report this together with its version, {database.server.version}.",
            code="db_schema",
        )


def _zeros(database: Database) -> list[dict[str, Any]]:
    """Policies with a 0; none where there is no such table or column yet."""
    columns = policy_columns(database)
    names = [name for name in _ZERO if name in columns]
    if not names:
        return []
    condition = " OR ".join(f"{name} = 0" for name in names)
    rows = database.query(f"SELECT vm_uuid, {', '.join(names)} FROM backup_policies WHERE {condition} ORDER BY vm_uuid")
    return [{"vm_uuid": row["vm_uuid"], **{name: row.get(name) for name in _ZERO}} for row in rows]


def _zero_warning(zeros: list[dict[str, Any]]) -> list[str]:
    uuids = [row["vm_uuid"] for row in zeros if row["keep_daily"] == 0]
    if not uuids:
        return []
    listed = ", ".join(uuids[:20]) + (f" and {len(uuids) - 20} more" if len(uuids) > 20 else "")
    text = (
        "keep_daily is 0 in the policies of these VMs. It used to keep the newest backup of every day; now it turns "
        f"the rule off. Set it to the number of days to keep: {listed}."
    )
    return [text]
