# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database has: asked of ``information_schema``, and counted."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._mysql import Database
from ansible_collections.vmforge.backup.plugins.module_utils._schema import (
    LOCAL_LOCATION,
    MIGRATION,
    S3_LOCATION,
    TABLES,
    UNFILLED,
    Facts,
    Table,
)
from ansible_collections.vmforge.backup.plugins.module_utils._schema_target import Column


def read_facts(database: Database) -> Facts:
    """Ask ``information_schema`` and count the rows that have to be filled."""
    tables = _tables(database)
    backups, policies = tables.get("backups"), tables.get("backup_policies")
    local, s3, orphans = 0, 0, 0
    if backups is not None and {"location", "created_at"} <= set(backups.columns):
        has_new = {"path", "s3_key"} <= set(backups.columns)
        unfilled = f"{UNFILLED} AND " if has_new else ""
        local = _count(database, f"backups WHERE {unfilled}{LOCAL_LOCATION}")
        s3 = _count(database, f"backups WHERE {unfilled}{S3_LOCATION}")
    if policies is not None and "vm_uuid" in policies.columns and "uuid" in _columns_of(tables, "vm_instances"):
        # Compared as bytes: the two may have different collations.
        orphans = _count(
            database,
            "backup_policies WHERE BINARY vm_uuid NOT IN (SELECT BINARY uuid FROM vm_instances)",
        )
    ledger = "filename" in _columns_of(tables, "_migrations")
    recorded = ledger and _count(database, f"_migrations WHERE filename = '{MIGRATION}'") > 0
    return Facts(tables, local, s3, orphans, recorded)


def _columns_of(tables: dict[str, Table], name: str) -> set[str]:
    return set(tables[name].columns) if name in tables else set()


def _count(database: Database, where: str) -> int:
    return int(database.query(f"SELECT COUNT(*) AS rows_found FROM {where}")[0]["rows_found"])


def _tables(database: Database) -> dict[str, Table]:
    name = database.config.name
    kinds = database.query(
        "SELECT TABLE_NAME AS name, TABLE_TYPE AS kind, ENGINE AS engine FROM information_schema.TABLES "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN %s",
        (name, TABLES),
    )
    columns, indexes, references = _columns(database), _indexes(database), _references(database)
    return {
        row["name"]: Table(
            name=row["name"],
            columns=columns[row["name"]],
            kind=row["kind"],
            engine=row["engine"] or "",
            indexes=indexes[row["name"]],
            foreign_keys=tuple(references[row["name"]]),
        )
        for row in kinds
    }


def _columns(database: Database) -> dict[str, dict[str, Column]]:
    rows = database.query(
        "SELECT TABLE_NAME AS tab, COLUMN_NAME AS name, DATA_TYPE AS kind, COLUMN_TYPE AS type, "
        "IS_NULLABLE AS nullable, COLUMN_DEFAULT AS value, EXTRA AS extra, CHARACTER_SET_NAME AS charset, "
        "COLLATION_NAME AS collation, COLUMN_COMMENT AS comment FROM information_schema.COLUMNS "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN %s ORDER BY ORDINAL_POSITION",
        (database.config.name, TABLES),
    )
    found: dict[str, dict[str, Column]] = defaultdict(dict)
    for row in rows:
        # MariaDB says NULL in words, MySQL by a NULL.
        default = None if row["value"] in (None, "NULL") else str(row["value"])
        found[row["tab"]][row["name"]] = Column(
            name=row["name"],
            kind=row["kind"].lower(),
            type=_text(row["type"]),
            nullable=row["nullable"] == "YES",
            default=default,
            extra=row["extra"] or "",
            charset=row["charset"],
            collation=row["collation"],
            comment=_text(row["comment"]),
        )
    return found


def _text(value: Any) -> str:
    # MySQL returns some columns of its dictionary as bytes.
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _indexes(database: Database) -> dict[str, dict[str, tuple[bool, tuple[str, ...]]]]:
    rows = database.query(
        "SELECT TABLE_NAME AS tab, INDEX_NAME AS name, NON_UNIQUE AS many, COLUMN_NAME AS col "
        "FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN %s "
        "ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX",
        (database.config.name, TABLES),
    )
    found: dict[str, dict[str, tuple[bool, tuple[str, ...]]]] = defaultdict(dict)
    for row in rows:
        columns = found[row["tab"]].get(row["name"], (True, ()))[1]
        found[row["tab"]][row["name"]] = (not int(row["many"]), (*columns, row["col"]))
    return found


def _references(database: Database) -> dict[str, list[str]]:
    rows = database.query(
        "SELECT TABLE_NAME AS tab, COLUMN_NAME AS col FROM information_schema.KEY_COLUMN_USAGE "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN %s AND REFERENCED_TABLE_NAME = 'vm_instances' "
        "AND REFERENCED_COLUMN_NAME = 'uuid'",
        (database.config.name, TABLES),
    )
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row["tab"]].append(row["col"])
    return found


def policy_columns(database: Database) -> set[str]:
    """The columns of ``backup_policies``; none where there is no such table."""
    return set(_columns(database).get("backup_policies", {}))
