# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which ways a node backs up its virtual machines, as their policies demand. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason

_NO_BUCKET = (
    "its policy wants a copy in S3, and no bucket is set here: it is backed up locally only. Set "
    "vmforge_backup_s3_bucket, or offsite of its policy to none."
)


def ways(
    vms: Iterable[str],
    policies: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    *,
    offsite: str = "none",
    s3_configured: bool = False,
) -> dict[str, Any]:
    """Put together what is backed up alike.

    Args:
        vms: UUIDs of what the node backs up.
        policies: What ``vmforge_backup_policy_info`` returned, also if it failed.
        names: Names by UUID, for warnings.
        offsite: For a VM whose policy is not known. Its local copy is always kept.
        s3_configured: Whether there is a bucket.

    Returns:
        ``groups``, each with ``vms``, ``offsite`` and ``delete_local_after_upload``; and ``warnings``.
    """
    uuids = list(vms)
    known = policies.get("policies") or {}
    problems = policies.get("problems") or {}
    warnings: list[str] = []
    if uuids and "policies" not in policies:
        why = reason(policies, "they were not read")
        warnings.append(f"The policies could not be read, so every local copy is kept: {why}")
    groups: dict[tuple[str, bool], list[str]] = {}
    for uuid in uuids:
        name = (names or {}).get(uuid, uuid)
        if uuid in problems:
            warnings.append(f"{name}: {problems[uuid]} Its local copy is kept.")
        policy = known.get(uuid) or {"offsite": offsite, "delete_local_after_upload": False}
        where = policy["offsite"]
        if where == "s3" and not s3_configured:
            warnings.append(f"{name}: {_NO_BUCKET}")
            where = "none"
        groups.setdefault((where, where == "s3" and policy["delete_local_after_upload"]), []).append(uuid)
    return {
        "groups": [
            {"vms": some, "offsite": where, "delete_local_after_upload": drop} for (where, drop), some in groups.items()
        ],
        "warnings": warnings,
    }
