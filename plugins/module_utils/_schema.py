# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a database has to what the catalogue needs: the form that was found, and the exact statements. Pure.

There is one target and no list of steps: the plan is what is missing. So a migration that was interrupted is continued
by planning it again, for DDL cannot be rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.vmforge.backup.plugins.module_utils._errors import DatabaseError
from ansible_collections.vmforge.backup.plugins.module_utils._schema_target import (
    BACKUPS,
    LEDGER,
    POLICIES,
    Column,
    Rule,
    collated,
    literal,
    mended,
    problem,
)

MIGRATION = "0024_backups_and_policies.sql"
TABLES = ("backups", "backup_policies", "vm_instances", "_migrations")
# Rows of before whose place is known only from `location`: a path, or s3://bucket/key.
LOCAL_LOCATION = "location LIKE '/%'"
S3_LOCATION = "location LIKE 's3://_%/_%'"
UNFILLED = "path IS NULL AND s3_key IS NULL"
_OPTIONS = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
_RULES = {"backups": BACKUPS, "backup_policies": POLICIES, "_migrations": LEDGER}
_KEYS = {"backups": "id", "backup_policies": "vm_uuid", "_migrations": "filename"}
_FOREIGN_KEY = (
    "CONSTRAINT `fk_backup_policies_vm` FOREIGN KEY (`vm_uuid`) REFERENCES `vm_instances` (`uuid`) ON DELETE CASCADE"
)


@dataclass(frozen=True)
class Table:
    """A table as ``information_schema`` describes it.

    Attributes:
        kind: ``BASE TABLE`` for a real one.
        indexes: Name -> (unique, columns in order).
        foreign_keys: Columns that refer to ``vm_instances.uuid``.
    """

    name: str
    columns: Mapping[str, Column]
    kind: str = "BASE TABLE"
    engine: str = "InnoDB"
    indexes: Mapping[str, tuple[bool, tuple[str, ...]]] = field(default_factory=dict)
    foreign_keys: tuple[str, ...] = ()

    @property
    def primary(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return self.indexes.get("PRIMARY", (True, ()))[1]

    def leads(self, column: str, *, unique: bool = False) -> bool:
        """Whether an index begins with a column; with ``unique``, consists of it alone and is unique."""
        wanted = [columns for is_unique, columns in self.indexes.values() if is_unique or not unique]
        return any(columns == (column,) if unique else columns[:1] == (column,) for columns in wanted)


@dataclass(frozen=True)
class Facts:
    """What a database has.

    Attributes:
        tables: Those of :data:`TABLES` that exist.
        local_rows: Rows of ``backups`` whose path stands in ``location`` only.
        s3_rows: Rows of ``backups`` whose key stands in ``location`` only.
        orphans: Policies of VMs that the panel does not have.
        recorded: The ledger has our entry.
    """

    tables: Mapping[str, Table]
    local_rows: int = 0
    s3_rows: int = 0
    orphans: int = 0
    recorded: bool = False


@dataclass(frozen=True)
class SchemaPlan:
    """What has to be done.

    Attributes:
        shape: ``none``, ``nodes`` or ``agent`` (the panel's older ones), ``pack``, ``current``, or ``partial``:
            between two of them, as an interrupted migration leaves it.
        statements: SQL that changes tables, in order; each can be run by itself.
        fills: SQL that changes rows, in order, after ``statements``.
    """

    shape: str
    statements: tuple[str, ...] = ()
    fills: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Everything that is executed, in order."""
        return (*self.statements, *self.fills)


def plan_schema(facts: Facts, *, where: str) -> SchemaPlan:
    """Plan the migration.

    Args:
        facts: What was found.
        where: The database, for messages.

    Raises:
        DatabaseError: A table is none that is known, and so nothing may be changed; says what was found.
    """
    problems = [text for name in TABLES for text in _problems(name, facts.tables.get(name))]
    if problems:
        raise DatabaseError(
            f"Nothing was changed: the tables of {where} are in no form that is known. Found: {'; '.join(problems)}. "
            "Is this the panel's database, and may this user see all of its tables?",
            code="db_schema_unknown",
        )
    uuid = facts.tables["vm_instances"].columns["uuid"]
    statements, warnings = [], []
    for name in ("backups", "backup_policies", "_migrations"):
        table = facts.tables.get(name)
        clauses = _additions(table, uuid) if table else []
        if name == "backup_policies" and table and not table.foreign_keys:
            if facts.orphans:
                warnings.append(_orphan_warning(facts.orphans))
            else:
                clauses += _reference(table, uuid)
        if table is None:
            statements.append(_create(name, uuid))
        elif clauses:
            statements.append(f"ALTER TABLE `{name}` {', '.join(clauses)}")
    fills = _fills(facts)
    shape = _shape(facts) if statements else "current"
    return SchemaPlan(shape, tuple(statements), tuple(fills), tuple(warnings))


def _shape(facts: Facts) -> str:
    backups, policies = facts.tables.get("backups"), facts.tables.get("backup_policies")
    if backups is None:
        return "none" if policies is None else "partial"
    has = set(backups.columns)
    old, new = {"snapshot_name", "location"} & has, {"path", "s3_key"} & has
    if old and not new:
        if "node_id" in has and not {"status", "storage", "type"} & has:
            return "nodes" if policies is None else "partial"
        return "agent" if {"status", "storage", "type"} <= has and "node_id" not in has else "partial"
    return "pack" if len(new) == 2 and not old and policies is not None else "partial"


def _problems(name: str, table: Table | None) -> list[str]:
    """Say why a table can neither be used nor be made usable."""
    if table is None:
        return ["there is no table vm_instances"] if name == "vm_instances" else []
    if table.kind != "BASE TABLE":
        return [f"{name} is a {table.kind.lower()}"]
    found = [] if table.engine == "InnoDB" else [f"{name} is stored by {table.engine}, and not by InnoDB"]
    if name == "vm_instances":
        uuid = table.columns.get("uuid")
        if uuid is None or uuid.kind not in ("char", "varchar") or not table.leads("uuid", unique=True):
            found.append("vm_instances has no unique column uuid of text")
        return found
    rules = {rule.name: rule for rule in _RULES[name]}
    for rule in rules.values():
        if rule.required and rule.name not in table.columns:
            found.append(f"{name} has no column {rule.name}")
    if table.primary != (_KEYS[name],):
        found.append(f"the primary key of {name} is ({', '.join(table.primary)}), and not ({_KEYS[name]})")
    for column in table.columns.values():
        known = rules.get(column.name)
        text = problem(known, column) if known else None
        if known is None and not column.can_be_left_out:
            text = f"column {column.name}, unknown here, has to be given for every row"
        if text:
            found.append(f"in {name}, {text}")
    if name == "backups" and not _numbers_itself(table):
        found.append("the column id of backups does not number itself")
    return found


def _numbers_itself(table: Table) -> bool:
    column = table.columns.get("id")
    return column is None or "auto_increment" in column.extra.lower()


def _additions(table: Table, uuid: Column) -> list[str]:
    """Return clauses of ALTER TABLE for what is missing."""
    clauses = []
    for rule in _RULES[table.name]:
        column = table.columns.get(rule.name)
        if column is None:
            clauses.append(f"ADD COLUMN `{rule.name}` {_new(rule, uuid)}")
            continue
        definition = mended(rule, column)
        if definition is not None:
            clauses.append(f"MODIFY COLUMN `{rule.name}` {definition}")
    if table.name == "backups" and not table.leads("vm_uuid"):
        clauses.append("ADD INDEX `idx_vm_time` (`vm_uuid`, `created_at`)")
    if table.name == "backups" and not table.leads("status"):
        # Rows of what is gone are kept for ever: lists of what there is must not read them.
        clauses.append("ADD INDEX `idx_status` (`status`)")
    return clauses


def _reference(table: Table, uuid: Column) -> list[str]:
    """A foreign key needs the very type and collation of what it refers to."""
    own = table.columns["vm_uuid"]
    same = (own.type, own.charset, own.collation) == (uuid.type, uuid.charset, uuid.collation)
    return ([] if same else [f"MODIFY COLUMN `vm_uuid` {_uuid_type(uuid)} NOT NULL"]) + [f"ADD {_FOREIGN_KEY}"]


def _new(rule: Rule, uuid: Column) -> str:
    return rule.ddl.replace("{uuid}", _uuid_type(uuid))


def _uuid_type(uuid: Column) -> str:
    return f"{uuid.type} {collated(uuid)}".strip()


def _create(name: str, uuid: Column) -> str:
    lines = [f"`{rule.name}` {_new(rule, uuid)}" for rule in _RULES[name]]
    lines.append(f"PRIMARY KEY (`{_KEYS[name]}`)")
    if name == "backups":
        lines += ["INDEX `idx_vm_time` (`vm_uuid`, `created_at`)", "INDEX `idx_status` (`status`)"]
    if name == "backup_policies":
        lines.append(_FOREIGN_KEY)
    body = ",\n  ".join(lines)
    return f"CREATE TABLE `{name}` (\n  {body}\n) {_OPTIONS}"


def _fills(facts: Facts) -> list[str]:
    fills = []
    # created_at as it is: some servers would set a TIMESTAMP to now.
    if facts.local_rows:
        fills.append(
            f"UPDATE backups SET path = location, created_at = created_at WHERE {UNFILLED} AND {LOCAL_LOCATION}"
        )
    if facts.s3_rows:
        fills.append(
            "UPDATE backups SET s3_key = SUBSTRING(location, LOCATE('/', location, 6) + 1), "
            "storage = IF(storage = 'hybrid', 'hybrid', 's3'), created_at = created_at "
            f"WHERE {UNFILLED} AND {S3_LOCATION}"
        )
    if not facts.recorded:
        fills.append(f"INSERT INTO _migrations (filename) VALUES ({literal(MIGRATION)})")
    return fills


def _orphan_warning(count: int) -> str:
    return (
        f"{count} rows of backup_policies belong to VMs that vm_instances does not have. They were kept, and so the "
        "foreign key is missing. Delete them, and run this again."
    )
