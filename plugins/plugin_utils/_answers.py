# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node answered. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_FEW = 5
_PREFIXES = ("Task failed: ", "Module failed: ")


def reason(answer: Mapping[str, Any], otherwise: str) -> str:
    """Why a task failed on a node, in its own words without those that Ansible puts before them."""
    text = str(answer.get("msg") or otherwise)
    for prefix in _PREFIXES:
        text = text[len(prefix) :] if text.startswith(prefix) else text
    return text


def some(names: Iterable[str]) -> str:
    """The first few of them, in words, and how many more there are."""
    all_of_them = list(names)
    more = len(all_of_them) - _FEW
    return ", ".join(all_of_them[:_FEW]) + (f" and {more} more" if more > 0 else "") or "none"
