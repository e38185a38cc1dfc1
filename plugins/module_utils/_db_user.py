# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_db_user``: the user that keeps the catalogue, with the rights for it and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._grants import (
    LOCAL_HOSTS,
    READ_COLUMN_RIGHTS,
    Account,
    Right,
    UserPlan,
    check_names,
    plan_no_user,
    plan_user,
    wanted_rights,
)
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import (
    DATABASE_ARGUMENTS,
    Database,
    DatabaseConfig,
)
from ansible_collections.vmforge.backup.plugins.module_utils._password_hash import CACHING_SHA2, NATIVE, is_password

USER_ARGUMENTS: dict[str, dict[str, Any]] = {
    **DATABASE_ARGUMENTS,
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "no_log": True},
    "hosts": {"type": "list", "elements": "str", "default": []},
    "tls": {"type": "str", "choices": ["optional", "required"], "default": "optional"},
    "rights": {"type": "str", "choices": ["record", "read"], "default": "record"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def keep_user(request: Request) -> Outcome:
    """Make the user as wanted, or say how.

    Raises:
        InputError: An option is malformed.
        DatabaseError: The server refused.
    """
    params = request.params
    config = DatabaseConfig.from_params(params)
    user, present = params["user"], params["state"] == "present"
    check_names(user, params["hosts"])
    password = params["password"] or ""
    if present and not password:
        raise InputError(f"password is missing: user '{user}' must not be able to log in without one.")
    if user == config.user:
        raise InputError(
            f"user is the '{user}' of db_user, the very one that is logged in. Give backups a user of their own."
        )
    with Database(config) as database, database.lock("user"):
        hosts = list(dict.fromkeys(params["hosts"])) or (_own_hosts(database) if present else [])
        accounts = {account.host: account for account in _accounts(database, user, password)}
        plan = (
            plan_user(
                user,
                password,
                wanted_rights(_columns(database), only_read=params["rights"] == "read"),
                database=config.name,
                hosts=hosts,
                tls=params["tls"] == "required",
                accounts=accounts,
                hashed=database.server.flavour == "mariadb",
            )
            if present
            else plan_no_user(user, hosts, accounts)
        )
        if not request.check_mode:
            for statement in plan.statements:
                database.execute(statement.sql, statement.args)
    return _outcome(user, hosts, sorted(set(accounts) - set(hosts)) if present else [], plan)


def _outcome(user: str, hosts: list[str], others: list[str], plan: UserPlan) -> Outcome:
    shown = [statement.shown for statement in plan.statements]
    warnings = []
    if plan.surplus:
        warnings.append(
            f"The user '{user}' has rights that backups do not need, and keeps them: {'; '.join(plan.surplus)}. "
            "Revoke them, or give backups a user of their own."
        )
    if others:
        warnings.append(
            f"The user '{user}' may log in from elsewhere, too: {', '.join(others)}. Drop what is not needed."
        )
    values = {"user": user, "hosts": hosts, "other_hosts": others, "statements": shown, "surplus": list(plan.surplus)}
    text = "".join(f"{statement};\n" for statement in shown)
    return Outcome(bool(shown), values, {"prepared": text} if text else None, tuple(warnings))


def _own_hosts(database: Database) -> list[str]:
    """Where this very connection comes from, as the server sees it: the user logs in from here."""
    host = str(database.query("SELECT SUBSTRING_INDEX(USER(), '@', -1) AS host")[0]["host"])
    return list(LOCAL_HOSTS) if host in LOCAL_HOSTS else [host]


def _columns(database: Database) -> dict[str, list[str]]:
    rows = database.query(
        "SELECT TABLE_NAME AS tab, COLUMN_NAME AS col FROM information_schema.COLUMNS "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN %s",
        (database.config.name, tuple(READ_COLUMN_RIGHTS)),
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["tab"], []).append(row["col"])
    return found


def _accounts(database: Database, user: str, password: str) -> list[Account]:
    rows = database.query(
        "SELECT Host AS host, plugin AS plugin, ssl_type AS tls, IF(plugin IN ('', %s, %s), authentication_string, '') "
        "AS secret FROM mysql.user WHERE User = %s",
        (NATIVE, CACHING_SHA2, user),
    )
    return [
        Account(
            host=_text(row["host"]),
            has_password=bool(password) and _has_password(database, user, password, row),
            tls=_text(row["tls"]),
            rights=tuple(_rights(database, user, _text(row["host"]))),
        )
        for row in rows
    ]


def _has_password(database: Database, user: str, password: str, row: dict[str, Any]) -> bool:
    same = is_password(password, _text(row["plugin"]), _text(row["secret"]))
    if same is not None:
        return same
    # The other ways of keeping a password cannot be compared with one: try it.
    try:
        with Database(replace(database.config, user=user, password=password)):
            return True
    except VMForgeError as error:
        # Right, though the user has no right in this database yet.
        return error.code == "db_rights"


def _rights(database: Database, user: str, host: str) -> list[Right]:
    grantee, name = f"'{user}'@'{host}'", database.config.name
    views: Sequence[tuple[str, str, str, tuple[Any, ...]]] = (
        ("'*.*'", "NULL", "USER_PRIVILEGES WHERE GRANTEE = %s AND PRIVILEGE_TYPE <> 'USAGE'", (grantee,)),
        ("'*'", "NULL", "SCHEMA_PRIVILEGES WHERE GRANTEE = %s AND %s LIKE TABLE_SCHEMA", (grantee, name)),
        ("TABLE_NAME", "NULL", "TABLE_PRIVILEGES WHERE GRANTEE = %s AND TABLE_SCHEMA = %s", (grantee, name)),
        ("TABLE_NAME", "COLUMN_NAME", "COLUMN_PRIVILEGES WHERE GRANTEE = %s AND TABLE_SCHEMA = %s", (grantee, name)),
    )
    return [
        Right(_text(row["name"]), _text(row["tab"]), _text(row["col"]) or None)
        for table, column, source, args in views
        for row in database.query(
            f"SELECT PRIVILEGE_TYPE AS name, {table} AS tab, {column} AS col FROM information_schema.{source} "
            "ORDER BY 2, 3, 1",
            args,
        )
    ]


def _text(value: Any) -> str:
    # MySQL returns some columns of its dictionary as bytes.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
