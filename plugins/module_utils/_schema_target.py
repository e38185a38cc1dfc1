# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of the catalogue as they have to be, column by column, and what is wrong with a column. Pure.

The panel has written three kinds of rows over time, and may still write any of them. So the tables hold the columns of
all of them, and each can be left out by the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENUM_VALUE = re.compile(r"'((?:[^']|'')*)'")


@dataclass(frozen=True)
class Column:
    """A column as ``information_schema`` describes it.

    Attributes:
        kind: Its data type without length, such as ``varchar``.
        type: Its whole type, such as ``varchar(64)``.
        default: Its default as the server writes it; None where an INSERT has to give a value, or NULL is meant.
        extra: Such as ``auto_increment``.
    """

    name: str
    kind: str
    type: str
    nullable: bool = True
    default: str | None = None
    extra: str = ""
    charset: str | None = None
    collation: str | None = None
    comment: str = ""

    @property
    def length(self) -> int:
        """Characters that fit in."""
        found = re.search(r"\((\d+)\)", self.type)
        return int(found.group(1)) if found else 0

    @property
    def values(self) -> tuple[str, ...]:
        """Of an ENUM."""
        return tuple(value.replace("''", "'") for value in _ENUM_VALUE.findall(self.type))

    @property
    def can_be_left_out(self) -> bool:
        """Whether an INSERT in strict mode need not mention it."""
        special = any(word in self.extra.lower() for word in ("auto_increment", "generated"))
        return self.nullable or self.default is not None or special

    @property
    def is_generated(self) -> bool:
        """Whether the server computes it."""
        extra = self.extra.lower().replace("default_generated", "")
        return "generated" in extra or extra in ("virtual", "persistent", "stored")


@dataclass(frozen=True)
class Rule:
    """What a column has to be.

    Attributes:
        ddl: Of a new one, after its name; ``{uuid}`` stands for the type of ``vm_instances.uuid``.
        kinds: Data types that will do.
        length: Characters that have to fit in.
        values: That an ENUM has to know.
        default: What stands in it when an INSERT leaves it out; None for NULL.
        required: No known form of the table is without it.
    """

    name: str
    ddl: str
    kinds: tuple[str, ...]
    length: int = 0
    values: tuple[str, ...] = ()
    default: str | None = None
    required: bool = False


_NOW = "CURRENT_TIMESTAMP"
_TEXT = ("varchar",)
_WHOLE = ("tinyint", "smallint", "mediumint", "int", "bigint")

BACKUPS = (
    Rule("id", "BIGINT NOT NULL AUTO_INCREMENT", ("int", "bigint"), required=True),
    Rule("vm_uuid", "{uuid} NOT NULL", ("char", "varchar"), 36, required=True),
    Rule(
        "created_at",
        f"TIMESTAMP NOT NULL DEFAULT {_NOW}",
        ("timestamp", "datetime"),
        default=_NOW,
        required=True,
    ),
    Rule(
        "type",
        "ENUM('full','incremental') NOT NULL DEFAULT 'full'",
        ("enum",),
        values=("full", "incremental"),
        default="full",
    ),
    Rule("size_bytes", "BIGINT NULL", ("bigint",)),
    Rule("checksum_sha256", "CHAR(64) NULL", ("char", "varchar"), 64),
    Rule(
        "storage",
        "ENUM('local','s3','hybrid') NOT NULL DEFAULT 'local'",
        ("enum",),
        values=("local", "s3", "hybrid"),
        default="local",
    ),
    Rule("path", "VARCHAR(1024) NULL", _TEXT, 1024),
    Rule("s3_key", "VARCHAR(1024) NULL", _TEXT, 1024),
    Rule("meta", "JSON NULL", ("json", "longtext")),
    Rule(
        "status",
        "ENUM('ready','deleted','failed') NOT NULL DEFAULT 'ready'",
        ("enum",),
        values=("ready", "deleted", "failed"),
        default="ready",
    ),
    # What the panel wrote before, and shows. Empty rather than NULL: it does not expect NULL there.
    Rule("node_id", "INT NULL", _WHOLE),
    Rule("snapshot_name", "VARCHAR(190) NOT NULL DEFAULT ''", _TEXT, 190, default=""),
    Rule("location", "VARCHAR(500) NOT NULL DEFAULT ''", _TEXT, 500, default=""),
)

POLICIES = (
    Rule("vm_uuid", "{uuid} NOT NULL", ("char", "varchar"), 36, required=True),
    *(
        Rule(name, "INT NULL", _WHOLE)
        for name in ("keep_daily", "keep_weekly", "keep_monthly", "max_total_gb", "max_age_days")
    ),
    Rule("offsite", "ENUM('none','s3') NOT NULL DEFAULT 's3'", ("enum",), values=("none", "s3"), default="s3"),
    Rule("delete_local_after_upload", "TINYINT(1) NOT NULL DEFAULT 0", _WHOLE, default="0"),
)

LEDGER = (
    Rule("filename", "VARCHAR(255) NOT NULL", ("varchar", "char"), required=True),
    Rule("applied_at", f"TIMESTAMP NOT NULL DEFAULT {_NOW}", ("timestamp", "datetime"), default=_NOW),
)


def problem(rule: Rule, column: Column) -> str | None:
    """Say why this column cannot be used, nor made usable without touching what is in it."""
    if column.kind not in rule.kinds:
        return f"column {column.name} is {column.type}, and not {' or '.join(rule.kinds)}"
    if column.is_generated:
        return f"column {column.name} is computed by the server"
    if rule.required and 0 < column.length < rule.length and column.kind in ("char", "varchar"):
        return f"column {column.name} is {column.type}, too short"
    if rule.required and rule.default is not None and not column.can_be_left_out:
        return f"column {column.name} has to be given for every row"
    return None


def mended(rule: Rule, column: Column) -> str | None:
    """Return the definition, after its name, that makes this column usable; None where it is so already.

    Nothing is taken away: it only gets longer, knows more values, or can be left out.
    """
    missing = tuple(value for value in rule.values if value not in column.values)
    too_short = column.kind in ("char", "varchar") and column.length < rule.length
    if not missing and not too_short and (rule.required or _is_optional(rule, column)):
        return None
    kind = column.type
    if missing:
        kind = f"enum({','.join(literal(value) for value in (*column.values, *missing))})"
    elif too_short:
        kind = f"varchar({rule.length})"
    parts = [kind, collated(column)]
    default = _default(column)
    if default is None and rule.default is not None:
        default = rule.default if rule.default == _NOW else literal(rule.default)
    parts.append("NULL" if column.nullable or rule.default is None else "NOT NULL")
    if default is not None:
        parts.append(f"DEFAULT {default}")
    if column.comment:
        parts.append(f"COMMENT {literal(column.comment)}")
    return " ".join(part for part in parts if part)


def _is_optional(rule: Rule, column: Column) -> bool:
    # A column that is NULL by default in our form may be given as NULL as well.
    return column.nullable or (rule.default is not None and column.can_be_left_out)


def _default(column: Column) -> str | None:
    """Return the default as SQL: MariaDB writes it as SQL, MySQL as bare text."""
    text = column.default
    if text is None:
        return None
    if "default_generated" in column.extra.lower() and not text.upper().startswith(_NOW):
        # An expression of MySQL's.
        return f"({text})"
    if text.startswith("'") or re.fullmatch(r"-?\d+(\.\d+)?|\w+\([^)]*\)|CURRENT_TIMESTAMP", text):
        return text
    return literal(text)


def collated(column: Column) -> str:
    """Return the character set and collation of a column as SQL; nothing where it has none."""
    if not column.charset or not column.collation:
        return ""
    return f"CHARACTER SET {column.charset} COLLATE {column.collation}"


def literal(text: str) -> str:
    """A text as SQL. Only for our own words and what the server itself told."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
