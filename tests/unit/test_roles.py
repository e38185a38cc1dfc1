# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of the roles, their documentation and the options of the modules agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

from ansible_collections.vmforge.backup.plugins.module_utils._listing import INFO_ARGUMENTS
from ansible_collections.vmforge.backup.plugins.module_utils._options import BACKUP_ARGUMENTS
from ansible_collections.vmforge.backup.plugins.module_utils._restore_options import RESTORE_ARGUMENTS
from ansible_collections.vmforge.backup.plugins.module_utils._verify_options import VERIFY_ARGUMENTS
from ansible_collections.vmforge.backup.plugins.module_utils._vm_info import VM_INFO_ARGUMENTS

# What it reads is the same for every Python.
pytestmark = pytest.mark.once
ROLES = Path(__file__).resolve().parents[2] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir())
# Words in the names of options that only matter to whoever writes to S3.
WRITING = ("lock", "sse", "encryption", "storage")
# Role, the module's options, and those that the role has no variable for.
PASSED = [
    ("backup", {**VM_INFO_ARGUMENTS, **BACKUP_ARGUMENTS}, {"state", "id"}),
    ("verify", VERIFY_ARGUMENTS, set()),
    (
        "restore",
        RESTORE_ARGUMENTS,
        {name for name in RESTORE_ARGUMENTS if name.startswith("s3_") and any(word in name for word in WRITING)},
    ),
    (
        "list",
        INFO_ARGUMENTS,
        {
            name
            for name in INFO_ARGUMENTS
            if "lock" in name or "sse" in name or "encryption" in name or "storage" in name
        },
    ),
]


def load(role: str, file: str) -> Any:
    return yaml.safe_load((ROLES / role / file).read_text())


def options(role: str) -> dict[str, Any]:
    spec: dict[str, Any] = load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return spec


def defaults(role: str, **variables: Any) -> dict[str, Any]:
    """The defaults as they are when nobody sets anything."""
    values = {"inventory_hostname": "node1", f"__{role}_master": "m", "hostvars": {"m": {}}, **variables}
    environment = NativeEnvironment()
    for name, text in load(role, "defaults/main.yml").items():
        values[name] = environment.from_string(text).render(values) if isinstance(text, str) else text
    # A text that is empty is None to Jinja2's native types.
    return {name: value for name, value in values.items() if name.startswith(f"{role}_")}


@pytest.mark.parametrize("role", NAMES)
def test_every_default_is_the_documented_one(role: str) -> None:
    variables = {f"{role}_s3_bucket": ""} if role in ("adopt", "list") else {}
    actual = defaults(role, **variables)
    spec = options(role)
    assert set(actual) == set(spec)
    for name, option in spec.items():
        if name not in {f"{role}_node", f"{role}_offsite"} or "default" in option:
            assert (actual[name] or None) == (option.get("default") or None), name


@pytest.mark.parametrize("role", NAMES)
def test_every_variable_can_be_set_for_all_roles_at_once(role: str) -> None:
    for name, text in load(role, "defaults/main.yml").items():
        short = name[len(role) + 1 :]
        shared = {"vm": "vm |", "id": "id |", "before": "before |", "to": "to |"}.get(short, "vmforge_backup_")
        assert text.startswith("{{ " + shared), name


@pytest.mark.parametrize("role", NAMES)
def test_secrets_are_marked(role: str) -> None:
    for name, option in options(role).items():
        if any(word in name for word in ("secret", "token", "password")):
            assert option.get("no_log") is True, name


@pytest.mark.parametrize(("role", "arguments", "others"), PASSED, ids=[item[0] for item in PASSED])
def test_a_role_has_every_option_of_its_module(role: str, arguments: dict[str, Any], others: set[str]) -> None:
    spec = options(role)
    for name, argument in arguments.items():
        variable = f"{role}_{'dir' if name == 'backup_dir' else name}"
        if name in others:
            assert variable not in spec or name == "id"
            continue
        option = spec[variable]
        assert option["type"] == ("str" if argument["type"] == "bytes" else argument["type"]), name
        assert (option.get("default") or None) == (argument.get("default") or None) or name == "offsite", name
        assert set(argument.get("choices", ())) == set(option.get("choices", ())) - {""}, name


def test_localhost_is_known_by_its_own_name() -> None:
    assert defaults("backup")["backup_node"] == "node1"
    assert not defaults("backup", inventory_hostname="localhost")["backup_node"]
    assert defaults("backup", inventory_hostname="localhost", vmforge_backup_node="hv1")["backup_node"] == "hv1"


def test_the_bucket_is_listed_when_there_is_one() -> None:
    assert defaults("list", list_s3_bucket="")["list_offsite"] == "none"
    assert defaults("list", list_s3_bucket="b")["list_offsite"] == "s3"
    assert defaults("list", list_s3_bucket="b", vmforge_backup_offsite="none")["list_offsite"] == "s3"
