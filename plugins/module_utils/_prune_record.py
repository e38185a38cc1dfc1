# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy by which a VM was last pruned: a change that deletes more than it keeps wants a person's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._files import read_json, storage_errors, write_json
from ansible_collections.vmforge.backup.plugins.module_utils._policy import CAPS, RULES, Policy
from ansible_collections.vmforge.backup.plugins.module_utils._retention import PrunePlan

_FIELDS = (*RULES, "min_keep", *CAPS, "timezone")
NAME = ".policy.json"


class PolicyRecord:
    """What was remembered of one VM.

    Args:
        path: A file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, plan: PrunePlan, policy: Policy, *, confirmed: bool) -> None:
        """Raise ``InputError`` with code ``confirm`` if this plan needs a person's word and has none.

        It does when it deletes more backups than it keeps and the policy is not that of the last run. Nothing
        remembered counts as a change.
        """
        if confirmed or len(plan.deleted) <= len(plan.kept) or self._read() == _remembered(policy):
            return
        raise InputError(
            f"With this policy, which is new here, {len(plan.deleted)} backups would be deleted and {len(plan.kept)} "
            "kept. Nothing is before a person says so: look at the plan with --check; if it is right, run once with "
            "confirm: true (with the playbook: -e vmforge_backup_confirm=true).",
            code="confirm",
        )

    def write(self, policy: Policy) -> None:
        """Remember a policy, unless it is the one that is."""
        if self._read() == _remembered(policy):
            return
        with storage_errors(f"creating {self._path.parent}"):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self._path, {"schema": 1, "policy": _remembered(policy)})

    def _read(self) -> Any:
        try:
            return read_json(self._path).get("policy")
        except (FileNotFoundError, FormatError):
            return None


def _remembered(policy: Policy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in _FIELDS}
