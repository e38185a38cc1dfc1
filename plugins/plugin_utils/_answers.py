# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node answered. Pure; runs on the control node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIXES = ("Task failed: ", "Module failed: ")


def reason(answer: Mapping[str, Any], otherwise: str) -> str:
    """Why a task failed on a node, in its own words without those that Ansible puts before them."""
    text = str(answer.get("msg") or otherwise)
    for prefix in _PREFIXES:
        text = text[len(prefix) :] if text.startswith(prefix) else text
    return text
