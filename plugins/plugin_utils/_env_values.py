# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``.env`` files say about backups, as variables, and the other way round. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Key -> variable without "vmforge_backup_", and what is written where nobody says anything.
KEYS: Mapping[str, tuple[str, str]] = {
    "BACKUP_DIR": ("dir", "/var/lib/vmforge/backups"),
    "S3_ENDPOINT": ("s3_endpoint", ""),
    "S3_REGION": ("s3_region", "us-east-1"),
    "S3_BUCKET": ("s3_bucket", ""),
    "S3_ACCESS_KEY": ("s3_access_key", ""),
    "S3_SECRET_KEY": ("s3_secret_key", ""),
    "S3_USE_PATH_STYLE": ("s3_use_path_style", ""),
    "S3_SSL": ("s3_ssl", "1"),
    "S3_PREFIX": ("s3_prefix", ""),
    "BACKUP_OFFSITE": ("offsite", "none"),
    "DELETE_LOCAL_AFTER_UPLOAD": ("delete_local_after_upload", "0"),
}
# Hosts may have keys of their own, with rights of their own.
OWN = ("S3_ACCESS_KEY", "S3_SECRET_KEY")
_TRUTHS = ("S3_USE_PATH_STYLE", "S3_SSL", "DELETE_LOCAL_AFTER_UPLOAD")
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "": False, "0": False, "false": False, "no": False}
_WORDS["off"] = False
_AMAZON = ("", "s3.amazonaws.com")


def env_variables(settings: Mapping[str, str]) -> dict[str, Any]:
    """The collection's variables that some values of a file stand for. An empty value stands for none.

    Raises:
        ValueError: A value is none that its key may have.
    """
    variables: dict[str, Any] = {}
    for key, (name, _default) in KEYS.items():
        text = settings.get(key, "")
        if text:
            variables[f"vmforge_backup_{name}"] = _value(key, text)
    return variables


def env_values(
    wanted: Mapping[str, Any],
    own: Mapping[str, str],
    master: Mapping[str, str] | None = None,
    adopted: Iterable[str] = (),
) -> dict[str, Any]:
    """Decide what a host's file is to say.

    Args:
        wanted: Key -> what the variables say; None where they say nothing.
        own: What the host's own file says.
        master: What the master's file says, which the others follow. None if there is no master, or this is it.
        adopted: Variables that were only taken from the host's own file before, and say nothing new.

    Returns:
        ``values``; ``secrets``; ``problems``: sentences about what cannot be decided.
    """
    values: dict[str, str] = {}
    problems: list[str] = []
    taken = set(adopted)
    given = _without_scheme(
        {key: None if f"vmforge_backup_{KEYS[key][0]}" in taken else value for key, value in wanted.items()}
    )
    for key, (name, default) in KEYS.items():
        first, second = (own, master or {}) if key in OWN else (master or {}, own)
        if given.get(key) is not None and (given[key] != "" or key != "BACKUP_OFFSITE"):
            values[key] = _text(given[key])
        else:
            values[key] = first.get(key) or second.get(key) or default
            if key not in OWN and first.get(key) and second.get(key) and first[key] != second[key]:
                problems.append(
                    f"{key} is {second[key]} here and {first[key]} on the master: set vmforge_backup_{name} for all"
                )
    if not values["S3_USE_PATH_STYLE"]:
        values["S3_USE_PATH_STYLE"] = "0" if values["S3_ENDPOINT"] in _AMAZON else "1"
    for key in _TRUTHS:
        try:
            _value(key, values[key])
        except ValueError as error:
            problems.append(str(error))
    secrets = {"S3_SECRET_KEY": values.pop("S3_SECRET_KEY")}
    return {"values": values, "secrets": secrets, "problems": problems}


def _value(key: str, text: str) -> Any:
    """Raises ``ValueError`` for what the panel and we would take differently."""
    if key in _TRUTHS:
        if text.lower() not in _WORDS:
            raise ValueError(f"{key} is {text} in the .env file, which is neither 1 nor 0")
        return _WORDS[text.lower()]
    if key == "BACKUP_OFFSITE":
        if text.lower() not in ("none", "s3"):
            raise ValueError(f"{key} is {text} in the .env file, which is neither none nor s3")
        return text.lower()
    return text


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return str(value)


def _without_scheme(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The panel knows no URLs: host and port, and TLS or not."""
    given = dict(wanted)
    scheme, separator, place = str(given.get("S3_ENDPOINT") or "").partition("://")
    if separator:
        given["S3_ENDPOINT"] = place.rstrip("/")
        given["S3_SSL"] = scheme.lower() == "https"
    return given
