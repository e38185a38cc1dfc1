# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables for programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.plugin_utils._report_file import as_csv, as_json, write_report

COLUMNS = [{"key": "vm", "title": "VM"}, {"key": "copies", "title": "COPIES", "kind": "list"}]


def test_csv_has_the_columns_first_and_what_else_fits() -> None:
    rows: list[dict[str, Any]] = [
        {"vm": "web, 1", "copies": ["local", "s3"], "size": 5, "held": True, "deep": {"x": 1}, "deeper": [{"x": 1}]},
        {"vm": None, "id": "x"},
    ]
    assert as_csv(COLUMNS, rows) == 'vm,copies,held,id,size\n"web, 1",local+s3,true,,5\n,,,x,\n'


@pytest.mark.parametrize(
    ("name", "cell"), [("=1+1", "'=1+1"), ("@a", "'@a"), ("-x", "'-x"), ("-", "-"), ("a=1", "a=1")]
)
def test_a_name_is_no_formula(name: str, cell: str) -> None:
    assert as_csv(COLUMNS, [{"vm": name}]).splitlines()[1] == f"{cell},"


@given(st.lists(st.fixed_dictionaries({"vm": st.text(), "x": st.integers()}, optional={"y": st.text() | st.none()})))
def test_any_rows_are_a_line_each(rows: list[dict[str, Any]]) -> None:
    text = as_csv(COLUMNS, rows)
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [int(row["x"]) for row in found] == [row["x"] for row in rows]
    assert text.count("\n") == len(rows) + 1
    assert json.loads(as_json(rows, title="T"))["rows"] == rows


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for text in ("a long one", "b"):
        write_report(tmp_path / "x.json", text)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.json", "b")]
