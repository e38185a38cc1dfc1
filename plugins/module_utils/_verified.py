# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``verified.json``: what is known of each copy of a backup, and whose turn to be verified it is. Pure.

Format: ``manifest_sha256``, and ``results``, each with ``copy``, ``level``, ``ok``, ``at`` and ``detail``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError

# Each proves all that the ones before it prove.
LEVELS = ("manifest", "data", "boot")
_SHARE = re.compile(r"\s*(?:([0-9]+)\s*/\s*([0-9]+)|([0-9]+(?:\.[0-9]+)?)\s*%)\s*\Z")
T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One verification of one copy.

    Attributes:
        copy: ``local`` or ``s3``.
        level: One of ``LEVELS``.
        ok: Whether nothing was wrong.
        at: RFC 3339, when.
        detail: What was wrong, or what was mended.
    """

    copy: str
    level: str
    ok: bool
    at: str
    detail: str | None = None


def merge_checks(records: Iterable[Mapping[str, Any]], manifest_sha256: str, checks: Iterable[Check]) -> dict[str, Any]:
    """The new content of ``verified.json``.

    A check that found nothing replaces those of its level and of lower ones. It does not clear what a higher level
    found: that a file is there says nothing about its content. That a machine did not boot says nothing about its
    files.

    Args:
        records: Earlier contents, of any copy; those of another manifest are dropped.
        manifest_sha256: Of the manifest that is believed.
        checks: New, one for each copy that was looked at.
    """
    known = _known(records, manifest_sha256)
    for check in checks:
        mine = [other for other in known if other.copy == check.copy]
        worse = [other for other in mine if not other.ok and _rank(other) > _rank(check)]
        if check.ok and worse:
            continue
        known = [other for other in known if not _is_replaced(other, check)] + [check]
    known.sort(key=lambda check: (check.copy, _rank(check)))
    return {"manifest_sha256": manifest_sha256, "results": [asdict(check) for check in known]}


def bad_copies(records: Iterable[Mapping[str, Any]], manifest_sha256: str) -> set[str]:
    """Copies whose files are known to be damaged. A machine that did not boot may be the fault of that day's host."""
    known = _known(records, manifest_sha256)
    return {check.copy for check in known if not check.ok and check.level != "boot"}


def last_verified(
    records: Iterable[Mapping[str, Any]], manifest_sha256: str, *, level: str, copies: Iterable[str]
) -> str:
    """When the copy that waits longest was last verified at a level or a higher one; empty for never."""
    known = [check for check in _known(records, manifest_sha256) if LEVELS.index(level) <= _rank(check)]
    return min((max((check.at for check in known if check.copy == copy), default="") for copy in copies), default="")


def parse_share(text: str) -> float:
    """``1/7`` or ``15%`` as a number above 0 and up to 1.

    Raises:
        InputError: Anything else.
    """
    match = _SHARE.match(text)
    if match:
        over, under, percent = match.groups()
        share = float(percent) / 100 if percent else int(over) / int(under) if int(under) else 0.0
        if 0 < share <= 1:
            return share
    raise InputError(f"sample is {text!r}; write a share such as 1/7 or 15%, above 0 and up to all.")


def take_sample(items: Sequence[tuple[str, T]], share: float) -> list[T]:
    """A share of the items, rounded up: those that wait longest.

    Args:
        items: Each with the time of its last verification, empty for never.
    """
    count = math.ceil(len(items) * share - 1e-9)
    # Stable: of those that were never verified the first come first.
    return [item for _at, item in sorted(items, key=lambda pair: pair[0])[:count]]


def _is_replaced(old: Check, new: Check) -> bool:
    if old.copy != new.copy or _rank(old) > _rank(new):
        return False
    return old.level == new.level or new.ok or new.level != "boot"


def _rank(check: Check) -> int:
    return LEVELS.index(check.level)


def _known(records: Iterable[Mapping[str, Any]], manifest_sha256: str) -> list[Check]:
    """The newest check of each copy and level; what cannot be read is not known."""
    newest: dict[tuple[str, str], Check] = {}
    for record in records:
        results = record.get("results") if record.get("manifest_sha256") == manifest_sha256 else None
        for result in results if isinstance(results, list) else ():
            if not isinstance(result, dict) or result.get("level") not in LEVELS:
                continue
            detail = result.get("detail")
            check = Check(
                copy=str(result.get("copy")),
                level=result["level"],
                ok=result.get("ok") is True,
                at=str(result.get("at")),
                detail=None if detail is None else str(detail),
            )
            key = (check.copy, check.level)
            if key not in newest or newest[key].at <= check.at:
                newest[key] = check
    return list(newest.values())
