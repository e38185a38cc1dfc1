# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable as ``ansible_collections.vmforge.backup``, wherever it lies."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def _package(name: str, *paths: str) -> None:
    module = ModuleType(name)
    module.__path__ = list(paths)
    sys.modules[name] = module


if "ansible_collections.vmforge.backup" not in sys.modules:
    _package("ansible_collections")
    _package("ansible_collections.vmforge")
    _package("ansible_collections.vmforge.backup", str(ROOT))
