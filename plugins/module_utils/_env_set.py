# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use cases of ``vmforge_env`` and ``vmforge_env_info``."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._env import EnvPlan, read_values, rewrite
from ansible_collections.vmforge.backup.plugins.module_utils._env_file import EnvFile, Rights
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request

# What the panel knows of backups, in the order in which it is written; S3_SECRET_KEY is the one that nobody may see.
OPEN_KEYS = (
    "BACKUP_DIR",
    "S3_ENDPOINT",
    "S3_REGION",
    "S3_BUCKET",
    "S3_ACCESS_KEY",
    "S3_USE_PATH_STYLE",
    "S3_SSL",
    "S3_PREFIX",
    "BACKUP_OFFSITE",
    "DELETE_LOCAL_AFTER_UPLOAD",
)
ENV_ARGUMENTS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "values": {"type": "dict", "default": {}},
    "secret_values": {"type": "dict", "default": {}, "no_log": True},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "raw", "default": "0640"},
    "backup": {"type": "bool", "default": True},
}
ENV_INFO_ARGUMENTS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "names": {"type": "list", "elements": "str", "default": list(OPEN_KEYS)},
}
_SECRET_NAME = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN")
_HIDDEN = "(hidden)"


def set_env(request: Request) -> Outcome:
    """Put values into a file, and leave all the rest of it alone.

    Raises:
        InputError: A name, a value or the path is not what it should be.
        StorageError: The file cannot be read or written.
    """
    params = request.params
    values, secrets = _texts(params["values"]), _texts(params["secret_values"])
    _check_secrets(values, secrets)
    rights = Rights.parse(params["owner"], params["group"], params["mode"])
    file = EnvFile.read(params["path"])
    plan = rewrite(file.text, {**values, **secrets})
    rewritten = plan.text != file.text or file.found is None
    redressed = file.found is not None and rights.differ(file.found)
    copy = None
    if not request.check_mode:
        if rewritten:
            copy = file.keep_copy() if params["backup"] and file.found is not None else None
            file.replace(plan.text, rights)
        elif redressed:
            file.set_rights(rights)
    result = {
        "path": str(file.path),
        "created": file.found is None,
        "names": [change.name for change in plan.changes],
        "duplicates": plan.duplicates,
        "backup_file": str(copy) if copy else None,
    }
    warnings = tuple(f"{file.path}: {text}" for text in plan.warnings)
    return Outcome(rewritten or redressed, result, _diff(file, plan, rights, secrets), warnings)


def read_env(request: Request) -> Outcome:
    """Read some values.

    Raises:
        InputError: The path is not what it should be.
        StorageError: The file cannot be read.
    """
    file = EnvFile.read(request.params["path"])
    lines = read_values(file.text)
    wanted = [name for name in request.params["names"] if name in lines]
    warnings = tuple(
        f"{file.path}: VMForge takes the comment behind the value of {name} for a part of it. Move it to its own line."
        for name in wanted
        if lines[name].comment is not None
    )
    values = {name: lines[name].meant for name in wanted}
    return Outcome(
        False, {"path": str(file.path), "exists": file.found is not None, "settings": values}, None, warnings
    )


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as text; a truth value is 1 or 0, as the panel writes it."""
    for name, value in values.items():
        if not (value is None or isinstance(value, (str, int, float))):
            raise InputError(f"The value of {name} is no text and no number.")
    return {
        name: "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in values.items()
    }


def _check_secrets(values: Iterable[str], secrets: Iterable[str]) -> None:
    for name in values:
        if name in secrets:
            raise InputError(f"{name} is in both values and secret_values.")
        if _SECRET_NAME.search(name):
            raise InputError(f"{name} is a secret: it belongs in secret_values, so that no log shows it.")


def _diff(file: EnvFile, plan: EnvPlan, rights: Rights, secrets: Iterable[str]) -> dict[str, Any]:
    """Only lines of ours: what stands beside them may be secret as well."""
    before, after = _describe(file, rights)
    for change in plan.changes:
        hidden = change.name in secrets
        if change.before is not None:
            before += f"{change.name}={_HIDDEN}, the old one" if hidden else change.before.replace("\r", "\\r")
            before += "\n"
        after += (f"{change.name}={_HIDDEN}" if hidden else change.after) + "\n"
    return {"before_header": str(file.path), "after_header": str(file.path), "before": before, "after": after}


def _describe(file: EnvFile, rights: Rights) -> tuple[str, str]:
    """Mode and owner, where they change."""
    new = f"# mode {rights.mode:04o}" + "".join(
        f", {kind} {value}" for kind, value in (("owner", rights.uid), ("group", rights.gid)) if value is not None
    )
    if file.found is None:
        return "", new + "\n"
    if not rights.differ(file.found):
        return "", ""
    old = f"# mode {stat.S_IMODE(file.found.st_mode):04o}"
    old += f", owner {file.found.st_uid}" if rights.uid is not None else ""
    old += f", group {file.found.st_gid}" if rights.gid is not None else ""
    return old + "\n", new + "\n"
