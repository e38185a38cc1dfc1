# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One of our backups in a fresh process, as Ansible would run it: options as JSON on stdin, the result on stdout."""

from __future__ import annotations

import json
import sys

from tests.soak.child import call, module_params


def main() -> None:
    """Run it."""
    result = call(module_params(**json.load(sys.stdin)))
    json.dump(result, sys.stdout)
    sys.exit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main()
