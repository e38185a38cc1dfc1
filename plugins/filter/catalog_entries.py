# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that makes a long listing light."""

from __future__ import annotations

DOCUMENTATION = r"""
name: catalog_entries
short_description: Shorten a listing to what the catalogue needs
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - Takes what M(vmforge.backup.vmforge_backup_info) returned as C(backups), and makes of every entry one JSON text with
    what M(vmforge.backup.vmforge_backup_catalog) needs. Ansible carries texts faster than values.
options:
  _input:
    description: Entries.
    type: list
    elements: dict
    required: true
  vms:
    description: Only those of these UUIDs. All, unless set.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Show the entries as texts
  ansible.builtin.debug:
    msg: "{{ listing.backups | vmforge.backup.catalog_entries }}"
"""

RETURN = r"""
_value:
  description: A JSON object for each entry.
  type: list
  elements: str
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

_KEYS = (
    "vm",
    "id",
    "status",
    "type",
    "instant",
    "finished_at",
    "consistency",
    "parent",
    "size_bytes",
    "checksum_sha256",
    "path",
    "s3_key",
    "copies",
    "hold",
    "verified",
    "error",
)


def catalog_entries(backups: Iterable[Mapping[str, Any]], vms: Collection[str] | None = None) -> list[str]:
    """Shorten; see above."""
    return [
        json.dumps({key: entry[key] for key in _KEYS if key in entry}, default=_plain)
        for entry in backups
        if vms is None or entry["vm"]["uuid"] in vms
    ]


def _plain(value: Any) -> Any:
    """Ansible's own kinds of dictionaries and lists as ordinary ones."""
    return dict(value) if isinstance(value, Mapping) else list(value)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"catalog_entries": catalog_entries}
