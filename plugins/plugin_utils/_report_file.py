# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A table as JSON or CSV, for programs. Pure but for the one function that writes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._table import printable

# A spreadsheet would take a text that begins so for a formula, and names are anybody's.
_FORMULA = ("=", "+", "-", "@")


def as_json(rows: Sequence[Mapping[str, Any]], **more: Any) -> str:
    """All that is known of the rows, and what belongs to the table as a whole."""
    return json.dumps({**more, "rows": list(rows)}, indent=2, default=str) + "\n"


def as_csv(columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> str:
    """The columns of the table under their keys, then whatever else the rows have that fits into a cell."""
    first = [str(column["key"]) for column in columns]
    more = sorted({str(key) for row in rows for key, value in row.items() if _fits(value)} - set(first))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*first, *more])
    for row in rows:
        writer.writerow([_cell(row.get(key)) for key in (*first, *more)])
    return text.getvalue()


def write_report(path: Path, text: str) -> None:
    """Replace the file, so that whoever reads it sees all of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _fits(value: Any) -> bool:
    return not isinstance(value, Mapping) and not (isinstance(value, list) and any(map(_is_nested, value)))


def _is_nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return _cell("+".join(str(item) for item in value))
    if isinstance(value, bool):
        return str(value).lower()
    text = printable(str(value))
    return f"'{text}" if isinstance(value, str) and len(text) > 1 and text.startswith(_FORMULA) else text
