# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small files that may be added to a backup after its manifest: their names, and when a hold ends. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_time

HOLD = "hold.json"
VERIFIED = "verified.json"


def is_over(hold: Mapping[str, Any], now: datetime) -> bool:
    """Whether a hold has ended by itself. A damaged one protects, too."""
    try:
        return hold.get("until") is not None and parse_time(hold["until"]) <= now
    except (ValueError, TypeError, AttributeError):
        return False
