# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be kept of a VM's backups, and where it comes from: its row, else variables, else defaults. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import PolicyError

RULES = ("keep_last", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")
CAPS = ("max_total_gb", "max_age_days")
# All that the format promises of a row. What else a database may have, older panels wrote, and is read as well.
COLUMNS = ("keep_daily", "keep_weekly", "keep_monthly", *CAPS, "offsite", "delete_local_after_upload")
_COUNTS = (*RULES, "min_keep", *CAPS)
# More than any calendar holds; it fits into every integer column.
_MAX_COUNT = 2**31 - 1


@dataclass(frozen=True)
class Policy:
    """What holds for one VM, every value resolved.

    Attributes:
        keep_last: Newest backups to keep; of this and each other ``keep_`` rule, 0 turns it off.
        keep_daily: Days that have a backup; so are weeks (ISO), months and years.
        min_keep: Good backups that nothing may delete, at least 1.
        max_total_gb: GiB that all backups of the VM may take, None for no cap.
        max_age_days: Days after which a backup goes, None for no cap.
        offsite: ``none`` or ``s3``.
        timezone: In which days, weeks, months and years are counted.
    """

    keep_last: int = 0
    keep_daily: int = 7
    keep_weekly: int = 4
    keep_monthly: int = 12
    keep_yearly: int = 0
    min_keep: int = 1
    max_total_gb: int | None = 200
    max_age_days: int | None = None
    offsite: str = "none"
    delete_local_after_upload: bool = False
    timezone: str = "UTC"

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Policy:
        """The reverse of :meth:`values`, as another module returned it; other keys are passed over.

        Raises:
            PolicyError: A value that no policy can have.
        """
        read = checked_fields({name: values[name] for name in FIELDS if name in values}, "The policy")
        return cls(**{**read, **{name: read.get(name) or None for name in CAPS if name in values}})

    def values(self) -> dict[str, Any]:
        """All fields, as plain values."""
        return {name: getattr(self, name) for name in FIELDS}

    def check(self) -> None:
        """Refuse what would keep nothing but the floor.

        Raises:
            PolicyError: All rules are off and no age cap keeps what is younger.
        """
        if not self.max_age_days and not any(getattr(self, rule) for rule in RULES):
            raise PolicyError(
                f"All of {', '.join(RULES)} are 0 and max_age_days is not set, so nothing would be kept. Set one of "
                "them above 0, or max_age_days to keep everything that is younger."
            )


FIELDS = tuple(field.name for field in fields(Policy))


def checked_fields(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those fields that are set, typed. None and an absent key mean the same: not set.

    Args:
        where: What to name in an error, such as ``vmforge_backup_policies of web1``.

    Raises:
        PolicyError: An unknown field, or a value that a field cannot have.
    """
    unknown = sorted(str(name) for name in values if name not in FIELDS)
    if unknown:
        raise PolicyError(f"{where} has no field {', '.join(unknown)}. There are: {', '.join(FIELDS)}.")
    return {name: _value(name, value, where) for name, value in values.items() if value is not None}


def effective(
    row: Mapping[str, Any] | None, variables: Mapping[str, Any] | None, defaults: Mapping[str, Any] | None
) -> tuple[Policy, dict[str, str]]:
    """Resolve every field: the row's value, else the VM's variables', else that of all VMs, else the built-in one.

    Args:
        row: What ``backup_policies`` has, by column; None without a row. Columns that are no fields are passed over.
        variables: Fields for this VM alone.
        defaults: Fields for all VMs.

    Returns:
        The policy, and for each field ``row``, ``variables`` or ``defaults``.

    Raises:
        PolicyError: A value that a field cannot have. That it keeps something is not checked here.
    """
    known = {name: row[name] for name in FIELDS if name in row} if row is not None else {}
    layers = (
        ("row", checked_fields(known, "The row in backup_policies")),
        ("variables", checked_fields(variables or {}, "The variables of this VM")),
        ("defaults", checked_fields(defaults or {}, "The policy for all VMs")),
    )
    built_in = Policy().values()
    if row is not None:
        # The panel's way: a row without a size means no cap.
        built_in["max_total_gb"] = None
    values, sources = {}, {}
    for name in FIELDS:
        source, layer = next(((source, layer) for source, layer in layers if name in layer), ("defaults", built_in))
        values[name], sources[name] = layer[name], source
    return Policy(**{**values, **{name: values[name] or None for name in CAPS}}), sources


def _value(name: str, value: Any, where: str) -> Any:
    if name in _COUNTS:
        return _count(name, value, where)
    if name == "delete_local_after_upload":
        return _flag(name, value, where)
    if name == "offsite":
        # A panel that copies to NFS by itself asks nothing of us.
        offsite = "none" if value == "nfs" else value
        if offsite not in ("none", "s3"):
            raise PolicyError(f"{where}: offsite is {value!r}; it must be none or s3.")
        return offsite
    if not isinstance(value, str) or not value.strip():
        raise PolicyError(f"{where}: {name} is {value!r}; it must be the name of a zone, such as Europe/Berlin.")
    return value.strip()


def _count(name: str, value: Any, where: str) -> int:
    # Text, because values given with -e are.
    text = str(value).strip()
    digits = text[1:] if text.startswith("-") else text
    low = 1 if name == "min_keep" else 0
    number = int(text) if not isinstance(value, bool) and digits.isdecimal() and len(digits) <= 20 else None
    if number is None or not low <= number <= _MAX_COUNT:
        raise PolicyError(f"{where}: {name} is {value!r}; it must be a whole number from {low} to {_MAX_COUNT}.")
    return number


def _flag(name: str, value: Any, where: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = known.get(str(value).strip().lower())
    if found is None:
        raise PolicyError(f"{where}: {name} is {value!r}; it must be true or false.")
    return found
