# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be asked for, and which playbook does it with which variables. Pure.

Both sides look: the pages to tell people, the runner because it believes nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import PolicyError
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, is_id, parse_time
from ansible_collections.vmforge.backup.plugins.module_utils._policy import COLUMNS, checked_fields
from vmforge_backup_ui.errors import RefusedError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}\Z")
# Variables are templates to Ansible: what people write must never become one.
_TEMPLATE = re.compile(r"\{[{%#]|[{%#]\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")
_MAX_TEXT = 300
# What is about no machine.
_OF_ALL = ("list", "status")
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Order:
    """One action, checked.

    Attributes:
        action: Its name.
        vm: The machine's UUID, or its name where no UUID is known; empty for what is about no machine.
        by: Who asks.
        values: What else was asked for, for the record.
        playbook: Its name without that of the collection.
        variables: For the playbook.
    """

    action: str
    vm: str
    by: str
    playbook: str
    values: Values = field(default_factory=dict)
    variables: Values = field(default_factory=dict)


def order(action: Any, vm: Any, by: Any, values: Any) -> Order:
    """Check what was asked for.

    Raises:
        RefusedError: It is nothing that may be asked for, or not in this form; names what is wrong.
    """
    if not isinstance(action, str) or action not in _ACTIONS:
        raise RefusedError(f"There is no action {action!r}.")
    if not isinstance(values, Mapping):
        raise RefusedError("The values of an action are a mapping.")
    playbook, make, known = _ACTIONS[action]
    unknown = sorted(str(name) for name in values if name not in known)
    if unknown:
        raise RefusedError(f"The action {action} knows no {', '.join(unknown)}.")
    who = _text(by, "Who asks", needed=True)
    machine = "" if action in _OF_ALL else _machine(vm, names=action == "backup")
    made = make(dict(values), who)
    return Order(action, machine, who, playbook, dict(values), {**({"vm": machine} if machine else {}), **made})


def _machine(vm: Any, *, names: bool) -> str:
    uuid = canonical_uuid(vm) if isinstance(vm, str) else None
    if uuid is not None:
        return uuid
    if names and isinstance(vm, str) and NAME.match(vm):
        return vm
    raise RefusedError("That is no UUID of a machine.")


def _id(value: Any) -> str:
    if not isinstance(value, str) or not is_id(value):
        raise RefusedError("That is no id of a backup, such as 20261122T151200Z.")
    return value


def _text(value: Any, what: str, *, needed: bool = False) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if value is not None and not isinstance(value, str):
        raise RefusedError(f"{what} must be a text.")
    if needed and not text:
        raise RefusedError(f"{what} is missing.")
    if len(text) > _MAX_TEXT or _CONTROL.search(text):
        raise RefusedError(f"{what} must be one line of at most {_MAX_TEXT} characters.")
    if _TEMPLATE.search(text):
        raise RefusedError(f"{what} must not hold braces beside each other, nor beside % or #.")
    return text


def _flag(value: Any, what: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise RefusedError(f"{what} must be true or false.")
    return bool(value)


def _nothing(_values: dict[str, Any], _by: str) -> dict[str, Any]:
    return {}


def _delete(values: dict[str, Any], _by: str) -> dict[str, Any]:
    ids = values.get("ids")
    if not isinstance(ids, list) or not ids:
        raise RefusedError("Name the backups to delete.")
    return {"id": [_id(item) for item in ids]}


def _hold(values: dict[str, Any], by: str) -> dict[str, Any]:
    made = {
        "id": _id(values.get("id")),
        "vmforge_backup_hold_reason": _text(values.get("reason"), "The reason", needed=True),
        "vmforge_backup_hold_by": by,
    }
    until = _text(values.get("until"), "The end")
    if until:
        try:
            parse_time(until)
        except ValueError as error:
            raise RefusedError("The end must be a time such as 2027-01-31T00:00:00Z.") from error
        made["vmforge_backup_hold_until"] = until
    return made


def _free(values: dict[str, Any], _by: str) -> dict[str, Any]:
    return {"id": _id(values.get("id")), "vmforge_backup_hold_state": "absent"}


def _verify(values: dict[str, Any], _by: str) -> dict[str, Any]:
    return {"id": _id(values.get("id"))} if values.get("id") else {}


def _restore(values: dict[str, Any], _by: str) -> dict[str, Any]:
    made: dict[str, Any] = {"id": _id(values.get("id"))}
    to = values.get("to")
    if to:
        if not isinstance(to, str) or not NAME.match(to):
            raise RefusedError("The new name must have letters, digits and . _ + - only, at most 63, a letter first.")
        made["to"] = to
        made["vmforge_backup_restore_networks"] = (
            "disconnect" if _flag(values.get("disconnect"), "disconnect") else "keep"
        )
    elif _flag(values.get("force"), "force"):
        made["vmforge_backup_restore_force"] = True
    if _flag(values.get("start"), "start"):
        made["vmforge_backup_restore_start"] = True
    return made


def _policy(values: dict[str, Any], _by: str) -> dict[str, Any]:
    if _flag(values.get("remove"), "remove"):
        return {"vmforge_backup_policy_state": "absent"}
    given = {name: values[name] for name in COLUMNS if values.get(name) is not None}
    try:
        checked = checked_fields(given, "The policy")
    except PolicyError as error:
        raise RefusedError(error.message) from error
    return {
        "vmforge_backup_policy_set": checked,
        "vmforge_backup_policy_reset": [name for name in COLUMNS if name not in given],
    }


# Name -> playbook, what makes its variables, and the values that it knows.
_ACTIONS: Mapping[str, tuple[str, Callable[[dict[str, Any], str], dict[str, Any]], tuple[str, ...]]] = {
    "backup": ("backup", _nothing, ()),
    "delete": ("delete", _delete, ("ids",)),
    "hold": ("hold", _hold, ("id", "reason", "until")),
    "free": ("hold", _free, ("id",)),
    "verify": ("verify", _verify, ("id",)),
    "restore": ("restore", _restore, ("id", "to", "disconnect", "force", "start")),
    "policy": ("policy", _policy, ("remove", *COLUMNS)),
    "list": ("list", _nothing, ()),
    "status": ("status", _nothing, ()),
}
