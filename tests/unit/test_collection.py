# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's own files agree with each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

# What it reads is the same for every Python.
pytestmark = pytest.mark.once
ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "plugins" / "modules").glob("vmforge_*.py"))
NODE_CODE = sorted((ROOT / "plugins").rglob("*.py"))
ROLES = sorted(path.parents[1] for path in (ROOT / "roles").glob("*/tasks/main.yml"))
HEADER = (ROOT / "plugins" / "module_utils" / "_errors.py").read_text().splitlines()[:3]
IO_LIBRARIES = {"boto3", "botocore", "libvirt", "nbd", "pymysql", "zstandard"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def constant(path: Path, name: str) -> str:
    """Return the text that a module assigns to a name, without running it."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return str(ast.literal_eval(node.value))
    raise AssertionError(f"{names(path)} has no {name}")


def test_the_action_group_has_every_module_that_says_so() -> None:
    members = [path.stem for path in MODULES if _attributes(path).get("action_group", {}).get("support") != "none"]
    assert load(ROOT / "meta" / "runtime.yml")["action_groups"]["all"] == members


def _attributes(path: Path) -> dict[str, Any]:
    return yaml.safe_load(constant(path, "DOCUMENTATION")).get("attributes") or {}


def test_there_are_no_ignore_files() -> None:
    assert not list((ROOT / "tests").glob("sanity/ignore*"))
    assert not list(ROOT.glob(".ansible-lint-ignore"))


@pytest.mark.parametrize("path", NODE_CODE, ids=names)
def test_node_code_has_licence_and_lazy_annotations(path: Path) -> None:
    lines = path.read_text().splitlines()
    if path.name == "__init__.py" and not lines:
        return
    head = [line for line in lines[:4] if not line.startswith("#!")][:3]
    assert head == HEADER
    assert "from __future__ import annotations" in lines


@pytest.mark.parametrize("path", NODE_CODE, ids=names)
def test_node_code_imports_libraries_only_where_they_are_guarded(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    imported = set(_imports(tree))
    if path.name != "_deps.py":
        assert not {name.split(".")[0] for name in imported} & IO_LIBRARIES
    if path.parent.name == "module_utils" and path.name not in {"_deps.py", "_module.py"}:
        assert not {name for name in imported if name == "ansible" or name.startswith("ansible.")}


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", NODE_CODE, ids=names)
def test_nothing_is_silenced(path: Path) -> None:
    found = re.findall(r"#\s*(?:noqa|type: ignore|pylint: disable|TODO|FIXME|XXX).*", path.read_text())
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_a_module_is_documentation_and_one_call(path: Path) -> None:
    documentation = yaml.safe_load(constant(path, "DOCUMENTATION"))
    assert documentation["module"] == path.stem
    fragments = documentation["extends_documentation_fragment"]
    assert "attributes" in documentation or any("attributes" in fragment for fragment in fragments)
    text = path.read_text()
    code = re.sub(r'^[A-Z]+ = r?""".*?^"""\n', "", text, flags=re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 80


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_examples_use_options_that_exist(path: Path) -> None:
    documentation = yaml.safe_load(constant(path, "DOCUMENTATION"))
    options = set(documentation.get("options") or {})
    for fragment in documentation["extends_documentation_fragment"]:
        file, _dot, part = fragment.split("vmforge.backup.")[1].partition(".")
        source = ROOT / "plugins" / "doc_fragments" / f"{file}.py"
        options |= set(
            (yaml.safe_load(_fragment(source, (part or "documentation").upper())) or {}).get("options") or {}
        )
    for task in yaml.safe_load(constant(path, "EXAMPLES")):
        arguments = task.get(f"vmforge.backup.{path.stem}") or {}
        assert set(arguments) <= options, task["name"]


def _fragment(path: Path, name: str) -> str:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if (
                    isinstance(line, ast.Assign)
                    and isinstance(line.targets[0], ast.Name)
                    and line.targets[0].id == name
                ):
                    return str(ast.literal_eval(line.value))
    raise AssertionError(f"{names(path)} has no {name}")


def test_defaults_and_specs_of_roles_agree() -> None:
    for role in ROLES:
        _check_specs(role)


def _check_specs(role: Path) -> None:
    for entry, spec in load(role / "meta" / "argument_specs.yml")["argument_specs"].items():
        defaults_file = role / "defaults" / ("main.yml" if entry == "main" else f"{entry}.yml")
        defaults = (load(defaults_file) or {}) if defaults_file.exists() else {}
        optional = {name for name, option in (spec.get("options") or {}).items() if not option.get("required")}
        assert set(defaults) == optional, f"{names(role)}, entry point {entry}"


def test_no_path_or_host_of_a_workplace_is_named() -> None:
    tracked = [
        path for folder in ("plugins", "roles", "playbooks", "docs", "meta") for path in (ROOT / folder).rglob("*")
    ]
    for path in tracked:
        if path.is_file() and path.suffix in {".py", ".yml", ".yaml", ".md", ".txt"}:
            assert not re.search(r"/work/|shared/(?:DESIGN|FACTS|STYLE|TESTBED)", path.read_text()), names(path)
