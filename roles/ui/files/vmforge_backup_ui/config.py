# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of both programs: JSON files that the role writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class WebConfig:
    """Of the pages.

    Attributes:
        listen: ``HOST:PORT`` of this host.
        url: Where the pages begin.
        proxied: Whether a proxy of this host is in front, and tells who asks.
        secure: Whether browsers send the session over HTTPS alone.
        runner: The runner's socket.
        audit_log: Where every action and every sign-in is written down.
        list: The list that the runner keeps, where there is no database.
        database: As modules take it, ``db_host`` and so on; None without.
        admin: ``name``, ``password_hash`` and ``totp_secret`` of somebody whom the panel does not know, or None.
        operators: Who may act: e-mail addresses, or ``role:admin`` for those with that role in the panel.
        readers: Who may look.
        policy: The variable ``vmforge_backup_policy``; ``policies`` is ``vmforge_backup_policies``.
    """

    runner: str
    audit_log: str
    listen: str = "127.0.0.1:8437"
    url: str = "/admin/backups"
    proxied: bool = True
    secure: bool = True
    list: str = ""
    database: Mapping[str, Any] | None = None
    admin: Mapping[str, str] | None = None
    operators: Sequence[str] = ()
    readers: Sequence[str] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> WebConfig:
        """Read a file; SystemExit if it cannot be used."""
        return cls(**_values(path, [item.name for item in fields(cls)]))


@dataclass(frozen=True)
class RunnerConfig:
    """Of the program that starts playbooks.

    Attributes:
        state: Where the records of its jobs lie.
        path: Directories of programs, for ``ansible-playbook``.
        ansible_config: The file with inventory and collections.
        playbooks: What stands before the name of a playbook.
        arguments: More arguments of all playbooks, such as a file of secrets.
        list: Where a list of all backups is kept; empty where a database says what there is.
        keep: How many jobs are remembered.
        parallel: How many may run at the same time.
    """

    state: str
    path: str
    ansible_config: str
    playbooks: str = "vmforge.backup."
    arguments: Sequence[str] = ()
    list: str = ""
    keep: int = 200
    parallel: int = 4

    @classmethod
    def read(cls, path: Path) -> RunnerConfig:
        """Read a file; SystemExit if it cannot be used."""
        return cls(**_values(path, [item.name for item in fields(cls)]))


def _values(path: Path, known: Collection[str]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SystemExit(f"{path} has what means nothing: {', '.join(unknown)}")
    return dict(values)
