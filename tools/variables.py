# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes ``docs/variables.md``: every collection-wide variable, as the defaults of the roles and their specifications
have it. ``python3 tools/environments.py exec tools/variables.py``, after either was changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "variables.md"
# Whose words are taken where several roles have a variable.
ROLES = [
    "backup",
    "node",
    "prune",
    "catalog",
    "verify",
    "restore",
    "list",
    "hold",
    "adopt",
    "env",
    "schedule",
    "metrics",
    "ui",
    "awx",
]
HEAD = """# Variables

All that can be set for the collection as a whole, in an inventory or with `-e`. Each role refers to these with
variables of its own, such as `prune_confirm`, which are for plays of your own; `ansible-doc -t role` describes them.
`vm`, `id`, `before`, `to` and `node` are for one run, see [roles.md](roles.md#variables).

This page is made of the roles' own defaults and descriptions.
"""
TAIL = """
## Of playbooks

| variable | meaning |
|---|---|
| `vmforge_backup_progress_interval` | seconds between lines of progress, see [progress.md](progress.md) |
| `vmforge_backup_report_file` | a file for the table, see [progress.md](progress.md#the-table-as-a-file) |
| `vmforge_backup_serial` | how many nodes are made ready at a time, see [deployment.md](deployment.md#rolling-out) |
| `vmforge_backup_policy_set` | for `policy`: fields and their new values |
| `vmforge_backup_policy_reset` | for `policy`: fields whose defaults shall hold again |
| `vmforge_backup_policy_state` | for `policy`: `absent` removes the row |
"""


@dataclass(frozen=True)
class Variable:
    """One variable of the collection.

    Attributes:
        own: The variables of roles that refer to it, by role.
        option: What the specification of the first of them says.
    """

    name: str
    own: dict[str, str]
    option: dict[str, Any]

    def section(self) -> str:
        """Under which heading it stands."""
        if self.name.startswith("vmforge_backup_s3_"):
            return "S3"
        if self.name.startswith("vmforge_backup_db_"):
            return "The panel's database"
        return f"Role `{next(iter(self.own))}`" if len(self.own) == 1 else "Several roles"


def variables() -> list[Variable]:
    """All of them, in the order of the roles and their defaults."""
    own: dict[str, dict[str, str]] = {}
    options: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
        for entry, spec in specs.items():
            defaults = yaml.safe_load((ROOT / "roles" / role / "defaults" / f"{entry}.yml").read_text())
            for variable, text in defaults.items():
                found = re.match(r"\{\{ (vmforge_backup_\w+)", str(text))
                if found:
                    own.setdefault(found[1], {}).setdefault(role, variable)
                    options.setdefault(found[1], spec["options"][variable])
    return [Variable(name, own[name], option) for name, option in options.items()]


def page() -> str:
    """The text of the page."""
    found = variables()
    wide = {role: {mine: item.name for item in found for mine in [item.own.get(role)] if mine} for role in ROLES}
    sections: dict[str, list[Variable]] = {"Several roles": [], "S3": [], "The panel's database": []}
    for item in found:
        sections.setdefault(item.section(), []).append(item)
    text = HEAD
    for title, items in sections.items():
        text += f"\n## {title}\n\n| variable | meaning | default |\n|---|---|---|\n"
        text += "".join(_row(item, wide[next(iter(item.own))]) for item in items)
    return text + TAIL


def _row(item: Variable, wide: dict[str, str]) -> str:
    said = re.sub(r"C\(([^)]*)\)", r"`\1`", item.option["description"][0])
    for mine, name in wide.items():
        said = re.sub(rf"`?\b{mine}\b`?", f"`{name}`", said)
    choices = [f"`{choice}`" for choice in item.option.get("choices", ()) if choice != ""]
    if choices:
        said += f" One of {', '.join(choices)}."
    default = item.option.get("default")
    default = str(default).lower() if isinstance(default, bool) else default
    shown = "" if default in (None, "", [], {}) else f"`{default}`"
    return f"| `{item.name}` | {said} | {shown} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
