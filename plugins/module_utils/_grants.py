# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rights of the day-to-day user: what it needs, what it has, and the statements in between. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._password_hash import native_hash

# Table -> rights on all of it.
TABLE_RIGHTS = {
    "backups": ("SELECT", "INSERT", "UPDATE"),
    "backup_policies": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
# Table -> columns to read, where they exist: the panel keeps secrets in others.
COLUMN_RIGHTS = {
    "vm_instances": ("id", "uuid", "name", "node_id", "type", "status"),
    "nodes": ("id", "name", "mgmt_url", "status"),
}
# The same for whoever only reads: pages that show backups, to users of the panel.
READ_TABLE_RIGHTS = dict.fromkeys(TABLE_RIGHTS, ("SELECT",))
READ_COLUMN_RIGHTS = {
    **COLUMN_RIGHTS,
    "users": ("email", "password_hash", "totp_secret", "failed_logins", "locked_until", "role"),
}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_USER = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_HOST = re.compile(r"[A-Za-z0-9_.:%/-]{1,60}")
_HIDDEN = "'********'"


@dataclass(frozen=True)
class Right:
    """One right, on the server (``*``), a database (``*`` table), a table, or a column."""

    name: str
    table: str
    column: str | None = None

    def covers(self, other: Right) -> bool:
        """Whether who has this one needs no other."""
        same_table = self.table in ("*", "*.*", other.table)
        return self.name in (other.name, "ALL PRIVILEGES") and same_table and self.column in (None, other.column)

    def __str__(self) -> str:
        return f"{self.name}{f'({self.column})' if self.column else ''} on {self.table}"


@dataclass(frozen=True)
class Account:
    """A user at one host, as the server has it.

    Attributes:
        has_password: Whether the wanted password is the one it has.
        tls: How it must connect: empty, ``ANY`` or another demand of the server's.
    """

    host: str
    has_password: bool
    tls: str = ""
    rights: tuple[Right, ...] = ()


@dataclass(frozen=True)
class Statement:
    """SQL with its arguments, and as it may be shown."""

    sql: str
    args: tuple[Any, ...]
    shown: str


@dataclass(frozen=True)
class UserPlan:
    """What has to be done.

    Attributes:
        statements: In order.
        surplus: Rights that are not needed, by account.
    """

    statements: tuple[Statement, ...]
    surplus: tuple[str, ...] = ()


def wanted_rights(columns: Mapping[str, Sequence[str]], *, only_read: bool = False) -> tuple[Right, ...]:
    """The rights that the day-to-day user needs.

    Args:
        columns: Table -> its columns, of those tables that exist.
        only_read: It is for pages that show backups.
    """
    tables, parts = (READ_TABLE_RIGHTS, READ_COLUMN_RIGHTS) if only_read else (TABLE_RIGHTS, COLUMN_RIGHTS)
    rights = [Right(name, table) for table, names in tables.items() for name in names]
    for table, names in parts.items():
        rights += [Right("SELECT", table, column) for column in names if column in columns.get(table, ())]
    return tuple(rights)


def check_names(user: str, hosts: Sequence[str]) -> None:
    """Refuse what no server takes, and what it would take for something else.

    Raises:
        InputError: Names it.
    """
    if not _USER.fullmatch(user):
        raise InputError(f"user is {user!r}; it must be 1 to 32 of the characters A-Z a-z 0-9 _ . -")
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise InputError(f"hosts holds {host!r}, which is no host, address or pattern of them.")


def plan_user(
    user: str,
    password: str,
    wanted: Sequence[Right],
    *,
    database: str,
    hosts: Sequence[str],
    tls: bool,
    accounts: Mapping[str, Account],
    hashed: bool,
) -> UserPlan:
    """Plan a user that may log in from ``hosts`` and do what is wanted.

    Args:
        tls: It has to use TLS.
        accounts: Host -> what the server has, of those that exist.
        hashed: The server gets the password's hash: MariaDB writes a password as it is into its general log.
    """
    secret = (" IDENTIFIED BY PASSWORD %s", native_hash(password)) if hashed else (" IDENTIFIED BY %s", password)
    statements: list[Statement] = []
    surplus: list[str] = []
    for host in hosts:
        account = accounts.get(host)
        statements += _login(user, secret, host, account, tls=tls)
        had = account.rights if account else ()
        statements += _grants(
            user, host, [right for right in wanted if not any(old.covers(right) for old in had)], database
        )
        surplus += [f"{user}@{host}: {right}" for right in had if not any(new.covers(right) for new in wanted)]
    return UserPlan(tuple(statements), tuple(surplus))


def plan_no_user(user: str, hosts: Sequence[str], accounts: Mapping[str, Account]) -> UserPlan:
    """Plan that the user is gone from ``hosts``, or with none given from everywhere."""
    gone = [host for host in (hosts or sorted(accounts)) if host in accounts]
    return UserPlan(tuple(_statement("DROP USER %s@%s", (user, host)) for host in gone))


def _login(user: str, secret: tuple[str, str], host: str, account: Account | None, *, tls: bool) -> list[Statement]:
    by, password = secret
    need = f" REQUIRE {'SSL' if tls else 'NONE'}"
    if account is None:
        return [_statement(f"CREATE USER %s@%s{by}{need if tls else ''}", (user, host, password))]
    changes = []
    if not account.has_password:
        changes.append(_statement(f"ALTER USER %s@%s{by}", (user, host, password)))
    # A demand that is stricter than ours, such as one for a certificate, is somebody's wish.
    if tls != bool(account.tls) and account.tls in ("", "ANY"):
        changes.append(_statement(f"ALTER USER %s@%s{need}", (user, host)))
    return changes


def _grants(user: str, host: str, missing: Sequence[Right], database: str) -> list[Statement]:
    by_table: dict[str, list[Right]] = {}
    for right in missing:
        by_table.setdefault(right.table, []).append(right)
    statements = []
    for table, rights in by_table.items():
        whole = [right.name for right in rights if right.column is None]
        columns = [f"`{right.column}`" for right in rights if right.column is not None]
        names = whole + ([f"SELECT ({', '.join(columns)})"] if columns else [])
        # %% for the library, which takes % for an argument.
        place = f"`{database}`.`{table}`".replace("%", "%%")
        statements.append(_statement(f"GRANT {', '.join(names)} ON {place} TO %s@%s", (user, host)))
    return statements


def _statement(sql: str, args: tuple[str, ...]) -> Statement:
    """The third argument is the password."""
    quoted = tuple(f"'{text}'" for text in args[:2]) + ((_HIDDEN,) if len(args) > 2 else ())
    return Statement(sql, args, sql % quoted)
