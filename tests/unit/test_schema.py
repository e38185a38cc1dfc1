# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which form a database is in, and what is missing in it, from what ``information_schema`` says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import DatabaseError
from ansible_collections.vmforge.backup.plugins.module_utils._schema import Facts, Table, plan_schema
from ansible_collections.vmforge.backup.plugins.module_utils._schema_target import (
    BACKUPS,
    LEDGER,
    POLICIES,
    Column,
    Rule,
    literal,
    mended,
    problem,
)

COLLATED = {"charset": "utf8mb4", "collation": "utf8mb4_unicode_ci"}
ID = Column("id", "bigint", "bigint(20)", False, extra="auto_increment")
UUID = Column("vm_uuid", "varchar", "varchar(64)", False, **COLLATED)
CREATED = Column("created_at", "timestamp", "timestamp", False, "current_timestamp()")
KEY = {"PRIMARY": (True, ("id",))}
INSTANCES = Table(
    "vm_instances",
    {"uuid": replace(UUID, name="uuid"), "id": ID},
    indexes={**KEY, "uuid": (True, ("uuid",))},
)


def text(name: str, length: int, **more: Any) -> Column:
    return Column(name, "varchar", f"varchar({length})", **{"nullable": False, **COLLATED, **more})


def enum(name: str, *values: str, default: str) -> Column:
    return Column(name, "enum", f"enum({','.join(map(literal, values))})", False, f"'{default}'", **COLLATED)


def table(name: str, *columns: Column, key: str = "id", **more: Any) -> Table:
    indexes = {"PRIMARY": (True, (key,)), "by_vm": (False, ("vm_uuid", "created_at"))}
    if any(column.name == "status" for column in columns):
        indexes["by_status"] = (False, ("status",))
    return Table(name, {column.name: column for column in columns}, indexes=indexes, **more)


COUNT = Column("size_bytes", "bigint", "bigint(20)")
SUM = Column("checksum_sha256", "char", "char(64)", **COLLATED)
META = Column("meta", "longtext", "longtext", charset="utf8mb4", collation="utf8mb4_bin")
KIND = enum("type", "full", "incremental", default="full")
STORAGE = enum("storage", "local", "s3", "hybrid", default="local")
STATUS = enum("status", "ready", "deleted", "failed", default="ready")
NODE = Column("node_id", "int", "int(11)", False)
NODES = table("backups", ID, UUID, NODE, text("snapshot_name", 190), text("location", 255), COUNT, CREATED)
AGENT = table(
    "backups",
    ID,
    UUID,
    text("snapshot_name", 190),
    text("location", 500),
    enum("type", "full", "incremental", "differential", default="full"),
    replace(COUNT, nullable=False),
    replace(SUM, nullable=False),
    enum("storage", "local", "s3", "nfs", "hybrid", default="local"),
    enum("status", "creating", "ready", "deleted", "failed", default="creating"),
    META,
    CREATED,
)
PACK = table(
    "backups", ID, UUID, CREATED, KIND, COUNT, SUM, STORAGE, text("path", 500), text("s3_key", 500), META, STATUS
)
CURRENT = table(
    "backups",
    *(ID, UUID, CREATED, KIND, COUNT, SUM, STORAGE, META, STATUS, replace(NODE, nullable=True)),
    text("path", 1024, nullable=True),
    text("s3_key", 1024, nullable=True),
    text("snapshot_name", 190, default="''"),
    text("location", 500, default="''"),
)
COUNTS = [
    Column(name, "int", "int(11)")
    for name in ("keep_daily", "keep_weekly", "keep_monthly", "max_total_gb", "max_age_days")
]
POLICY = table(
    "backup_policies",
    *(UUID, *COUNTS, enum("offsite", "none", "s3", default="s3")),
    Column("delete_local_after_upload", "tinyint", "tinyint(1)", False, "0"),
    key="vm_uuid",
    foreign_keys=("vm_uuid",),
)
MIGRATIONS = table(
    "_migrations", text("filename", 255), replace(CREATED, name="applied_at", nullable=True), key="filename"
)


def facts(*tables: Table, **more: Any) -> Facts:
    return Facts({item.name: item for item in (INSTANCES, *tables)}, **more)


def verbs(statements: Iterable[str]) -> list[str]:
    return [" ".join(text.split()[:3]).replace("`", "").rstrip("(") for text in statements]


@pytest.mark.parametrize(
    ("shape", "found", "wanted"),
    [
        ("none", facts(), ["CREATE TABLE backups", "CREATE TABLE backup_policies", "CREATE TABLE _migrations"]),
        ("nodes", facts(NODES, MIGRATIONS), ["ALTER TABLE backups", "CREATE TABLE backup_policies"]),
        ("agent", facts(AGENT, POLICY, MIGRATIONS), ["ALTER TABLE backups"]),
        ("pack", facts(PACK, POLICY, MIGRATIONS), ["ALTER TABLE backups"]),
        ("current", facts(CURRENT, POLICY, MIGRATIONS, recorded=True), []),
        # As interruptions leave them.
        ("partial", facts(CURRENT, MIGRATIONS, recorded=True), ["CREATE TABLE backup_policies"]),
        ("partial", facts(CURRENT, POLICY), ["CREATE TABLE _migrations"]),
        ("current", facts(CURRENT, POLICY, MIGRATIONS), []),
        ("partial", facts(NODES, POLICY, MIGRATIONS), ["ALTER TABLE backups"]),
        ("partial", facts(POLICY, MIGRATIONS), ["CREATE TABLE backups"]),
    ],
)
def test_forms_are_recognised(shape: str, found: Facts, wanted: list[str]) -> None:
    plan = plan_schema(found, where="here")
    assert plan.shape == shape
    assert verbs(plan.statements) == wanted
    assert bool(plan.fills) is not found.recorded


def test_nothing_is_ever_taken_away() -> None:
    for found in (facts(), facts(NODES), facts(AGENT, POLICY), facts(PACK, POLICY)):
        for statement in plan_schema(replace(found, local_rows=1, s3_rows=1), where="here").all:
            words = re.sub(r"ON DELETE CASCADE|'[^']*'", "", statement)
            assert not re.search(r"\b(?:DROP|DELETE|TRUNCATE|RENAME|CHANGE|REPLACE|IGNORE|IF NOT EXISTS)\b", words)


def test_lists_need_not_read_what_is_gone() -> None:
    (alter, _policies) = plan_schema(facts(NODES, MIGRATIONS), where="here").statements
    assert alter.endswith(", ADD INDEX `idx_status` (`status`)")
    assert "INDEX" not in plan_schema(facts(AGENT, POLICY, MIGRATIONS), where="here").statements[0]


def test_the_exact_changes() -> None:
    (alter,) = plan_schema(facts(AGENT, POLICY, MIGRATIONS), where="here").statements
    charset = "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
    assert alter.split(", ADD COLUMN ")[0].split(", MODIFY COLUMN ") == [
        "ALTER TABLE `backups` MODIFY COLUMN `size_bytes` bigint(20) NULL",
        f"`checksum_sha256` char(64) {charset} NULL",
    ]
    assert alter.split(", ADD COLUMN ")[1:] == [
        "`path` VARCHAR(1024) NULL",
        "`s3_key` VARCHAR(1024) NULL",
        (
            f"`node_id` INT NULL, MODIFY COLUMN `snapshot_name` varchar(190) {charset} NOT NULL DEFAULT '', "
            f"MODIFY COLUMN `location` varchar(500) {charset} NOT NULL DEFAULT ''"
        ),
    ]


def test_rows_are_filled_only_where_some_are_to_be() -> None:
    plan = plan_schema(facts(CURRENT, POLICY, MIGRATIONS, recorded=True, local_rows=1), where="here")
    assert verbs(plan.all) == ["UPDATE backups SET"]
    assert "path = location" in plan.all[0]
    plan = plan_schema(facts(CURRENT, POLICY, MIGRATIONS, recorded=True, s3_rows=1), where="here")
    assert "s3_key = SUBSTRING" in plan.all[0]
    assert len(plan.all) == 1


def without(item: Table, name: str) -> Table:
    return replace(item, columns={key: value for key, value in item.columns.items() if key != name})


def having(item: Table, *columns: Column) -> Table:
    return replace(item, columns={**item.columns, **{column.name: column for column in columns}})


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Facts({}), "no table vm_instances"),
        (Facts({"vm_instances": replace(INSTANCES, indexes=KEY)}), "no unique column uuid"),
        (Facts({"vm_instances": replace(INSTANCES, engine="MyISAM")}), "stored by MyISAM"),
        (facts(without(PACK, "vm_uuid")), "backups has no column vm_uuid"),
        (facts(without(PACK, "created_at")), "no column created_at"),
        (facts(replace(PACK, kind="VIEW")), "backups is a view"),
        (facts(replace(PACK, engine="Aria")), "stored by Aria"),
        (facts(having(PACK, Column("owner", "int", "int(11)", False))), "column owner, unknown here"),
        (facts(having(PACK, Column("path", "text", "text"))), "column path is text"),
        (facts(having(PACK, replace(META, extra="STORED GENERATED"))), "computed by the server"),
        (facts(having(PACK, replace(ID, extra=""))), "does not number itself"),
        (facts(having(PACK, replace(CREATED, default=None))), "has to be given for every row"),
        (facts(having(PACK, text("vm_uuid", 32))), "too short"),
        (facts(having(PACK, Column("status", "int", "int(11)"))), "column status is int"),
        (facts(replace(POLICY, indexes=KEY)), "primary key of backup_policies"),
        (facts(without(MIGRATIONS, "filename")), "_migrations has no column filename"),
    ],
)
def test_what_is_unknown_is_refused_with_what_was_found(found: Facts, words: str) -> None:
    with pytest.raises(DatabaseError, match=words) as raised:
        plan_schema(found, where="database 'x'")
    assert raised.value.code == "db_schema_unknown"
    assert "Nothing was changed" in raised.value.message
    assert "database 'x'" in raised.value.message


@pytest.mark.parametrize(
    "column",
    [
        Column("note", "text", "text"),
        Column("cost", "int", "int(11)", False, "3"),
        Column("changed", "timestamp", "timestamp", False, "CURRENT_TIMESTAMP", "DEFAULT_GENERATED"),
        Column("short", "char", "char(8)", False, None, "VIRTUAL GENERATED"),
    ],
)
def test_columns_of_others_that_can_be_left_out_do_no_harm(column: Column) -> None:
    found = facts(having(CURRENT, column), POLICY, MIGRATIONS, recorded=True)
    assert plan_schema(found, where="here").shape == "current"


RULES = {rule.name: rule for rule in (*LEDGER, *POLICIES, *BACKUPS)}


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (NODE, "int(11) NULL"),
        (replace(NODE, type="int(10) unsigned"), "int(10) unsigned NULL"),
        (replace(NODE, comment="it's"), "int(11) NULL COMMENT 'it''s'"),
        (
            text("location", 255, charset="latin1", collation="latin1_bin"),
            "varchar(500) CHARACTER SET latin1 COLLATE latin1_bin NOT NULL DEFAULT ''",
        ),
        # MySQL writes a default as it is, MariaDB as SQL.
        (
            replace(enum("type", "full", default="full"), default="full"),
            "enum('full','incremental') {} NOT NULL DEFAULT 'full'",
        ),
        (enum("type", "full", "b'a", default="full"), "enum('full','b''a','incremental') {} NOT NULL DEFAULT 'full'"),
        (replace(STATUS, default=None), "enum('ready','deleted','failed') {} NOT NULL DEFAULT 'ready'"),
        (Column("keep_daily", "int", "int", False, "7"), "int NULL DEFAULT 7"),
        (
            replace(text("location", 255, default="concat('/',uuid())"), extra="DEFAULT_GENERATED"),
            "varchar(500) {} NOT NULL DEFAULT (concat('/',uuid()))",
        ),
        (replace(CREATED, name="applied_at", default=None), "timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP"),
        (text("path", 2000, nullable=True), None),
        (STATUS, None),
        (replace(CREATED, name="applied_at"), None),
    ],
)
def test_columns_are_mended(column: Column, wanted: str | None) -> None:
    charset = "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
    assert mended(RULES[column.name], column) == (wanted and wanted.format(charset))


@given(
    rule=st.sampled_from(BACKUPS + POLICIES),
    length=st.integers(0, 3000),
    nullable=st.booleans(),
    default=st.sampled_from([None, "''", "'full'", "7", "x"]),
    values=st.sets(st.sampled_from(["full", "local", "ready", "none", "it's", "ü,(x)"])),
)
def test_a_mended_column_is_sound_and_loses_nothing(
    rule: Rule, length: int, nullable: bool, default: str | None, values: set[str]
) -> None:
    kind = rule.kinds[-1]
    full = {"enum": f"enum({','.join(map(literal, sorted(values)))})", "varchar": f"varchar({length})"}.get(kind, kind)
    column = Column(rule.name, kind, full, nullable, default)
    definition = mended(rule, column)
    if problem(rule, column) or definition is None:
        return
    match = re.fullmatch(r"(enum\(.*?\)|\S+) (NOT NULL|NULL)(?: DEFAULT (.*))?", definition)
    assert match, definition
    after = Column(rule.name, match[1].split("(")[0], match[1], match[2] == "NULL", match[3])
    assert mended(rule, after) is None
    assert set(column.values) <= set(after.values)
    assert after.length >= column.length
    assert after.nullable >= column.nullable


def test_a_foreign_key_is_added_unless_a_policy_has_no_vm() -> None:
    loose = replace(POLICY, foreign_keys=())
    plan = plan_schema(facts(CURRENT, loose, MIGRATIONS, recorded=True), where="here")
    assert plan.all == (
        (
            "ALTER TABLE `backup_policies` ADD CONSTRAINT `fk_backup_policies_vm` FOREIGN KEY (`vm_uuid`) "
            "REFERENCES `vm_instances` (`uuid`) ON DELETE CASCADE"
        ),
    )
    other = having(loose, replace(UUID, collation="utf8mb4_bin"))
    plan = plan_schema(facts(CURRENT, other, MIGRATIONS, recorded=True), where="here")
    assert (
        "MODIFY COLUMN `vm_uuid` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL" in plan.all[0]
    )
    plan = plan_schema(facts(CURRENT, loose, MIGRATIONS, recorded=True, orphans=2), where="here")
    assert plan.all == ()
    assert "2 rows" in plan.warnings[0]
