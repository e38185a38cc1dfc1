# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 demo run`` and ``python3 demo clean``: what ``make demo`` and ``make demo-clean`` do."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Find the checkout's own code, then do as told."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
    from demo.story import DemoError, clean, tell

    actions = {"run": tell, "clean": clean}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        print("usage: python3 demo run|clean", file=sys.stderr)
        return 2
    try:
        actions[sys.argv[1]]()
    except (DemoError, RuntimeError, TimeoutError, AssertionError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
