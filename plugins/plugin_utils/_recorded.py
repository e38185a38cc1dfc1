# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel's database does not say yet. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason


def unrecorded(nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tell of every node whose rows may not be right, and why; nodes with the same reason in one sentence.

    Args:
        nodes: Node -> ``listing``, ``recorded``, ``bucket`` and ``corrected``: the results of the tasks of those names,
            empty where a task did not run; and ``pending``: new backups, as ``vmforge_backup`` returned them.
    """
    reasons: dict[str, list[str]] = {}
    for node, answers in nodes.items():
        why = _why(answers) if answers else None
        if why is not None:
            pending = ", ".join(f"{new['vm']['name']} {new['id']}" for new in answers.get("pending") or ())
            reasons.setdefault(why, []).append(f"{node} ({pending})" if pending else node)
    return [
        f"Not recorded in the panel's database: {'; '.join(places)}. The next run records it. The reason: {why}"
        for why, places in reasons.items()
    ]


def _why(answers: Mapping[str, Any]) -> str | None:
    listing, recorded = answers.get("listing") or {}, answers.get("recorded") or {}
    if "backups" not in listing:
        return "what the node has could not be listed: " + reason(listing, "it gave no answer")
    if "uncertain" not in recorded:
        return reason(recorded, "the database host gave no answer")
    if not recorded["uncertain"] or "uncertain" in (answers.get("corrected") or {}):
        return None
    bucket = answers.get("bucket") or {}
    failed = "backups" not in bucket and not bucket.get("skipped")
    why = reason(bucket, "it gave no answer") if failed else reason(answers.get("corrected") or {}, "no bucket is set")
    return f"backups that were in S3 are not on the node any more, and the bucket could not be looked at: {why}"
