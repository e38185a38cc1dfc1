# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue sync of a node with many backups, in a real MariaDB: seconds and statements of the server."""

from __future__ import annotations

import json
import time
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._catalog_sync import CATALOG_ARGUMENTS, sync_catalog
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from tests.bed.catalog import listed, prepare
from tests.bed.mariadb import MariaDB, mariadb

BACKUPS, VMS = 10_000, 50
TARGET_SECONDS = 5.0
_NODE = "node1"


def measure() -> dict[str, Any]:
    """Sync new backups, changed ones and unchanged ones: name -> seconds and statements."""
    uuids = [f"aaaaaaaa-0000-4000-8000-{number:012d}" for number in range(VMS)]
    # As a node with two years of daily backups lists them.
    new = [listed(uuid, number * 86400, node=_NODE) for uuid in uuids for number in range(BACKUPS // VMS)]
    changed = [{**entry, "verified": {"results": [{"copy": "local", "ok": True}]}} for entry in new]
    result: dict[str, Any] = {}
    with mariadb() as server:
        prepare(server)
        for name, entries in (("new", new), ("changed", changed), ("unchanged", changed), ("gone", [])):
            before, began = _questions(server), time.monotonic()
            defaults = {name: argument.get("default") for name, argument in CATALOG_ARGUMENTS.items()}
            # As a module gets them and gives them back.
            text = json.dumps({**defaults, **server.params(), "node": _NODE, "backups": entries})
            outcome = sync_catalog(Request(json.loads(text)))
            json.dumps(dict(outcome.values))
            if len(outcome.values["changes"]) != (0 if name == "unchanged" else BACKUPS):
                raise RuntimeError(f"bench: {name} backups made {len(outcome.values['changes'])} changes")
            result[name] = {
                "seconds": round(time.monotonic() - began, 2),
                # Less the one that asks.
                "statements": _questions(server) - before - 1,
            }
    return {"backups": BACKUPS, **result}


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    found = []
    for name in ("new", "changed", "unchanged", "gone"):
        seconds, statements = report[name]["seconds"], report[name]["statements"]
        words = f"catalogue, {report['backups']} {name}"
        verdict = f"to reach: {TARGET_SECONDS:.0f} s  {'yes' if seconds <= TARGET_SECONDS else 'NO'}"
        found.append(f"{words:32}{seconds:6.2f} s, {statements} statements   {verdict}")
    return found


def _questions(server: MariaDB) -> int:
    return int(server.sql("SHOW GLOBAL STATUS LIKE 'Questions'")[0]["Value"])


if __name__ == "__main__":
    print("\n".join(lines(measure())))
