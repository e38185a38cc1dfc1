# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of the small files that may be added to a backup after its manifest."""

from __future__ import annotations

HOLD = "hold.json"
VERIFIED = "verified.json"
