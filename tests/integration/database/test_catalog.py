# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue follows a node's listing, in a real server with the panel's tables."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _catalog_sync
from ansible_collections.vmforge.backup.plugins.module_utils._catalog_sync import CATALOG_ARGUMENTS, sync_catalog
from ansible_collections.vmforge.backup.plugins.module_utils._errors import BusyError, DatabaseError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_time, utc_now
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import Database, DatabaseConfig
from tests.bed.catalog import listed, prepare
from tests.bed.mariadb import MariaDB

A, B = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
FOREIGN = (
    "INSERT INTO backups (vm_uuid, type, size_bytes, storage, path, meta, status) VALUES "
    f"('{A}', 'full', 1, 'local', '/pack/a.qcow2', '{{\"by\": \"pack\"}}', 'ready'), "
    f"('{A}', 'full', 2, 'local', '/pack/b.qcow2', NULL, 'ready'), "
    f"('{A}', 'full', 3, 'local', '/var/lib/vmforge/backups/{A}/20261101T000000Z', '{{\"node\": \"N1\"}}', 'ready')"
)


@pytest.fixture
def database(server: MariaDB) -> MariaDB:
    prepare(server)
    server.sql(FOREIGN)
    return server


def sync(
    server: MariaDB, *backups: dict[str, Any], node: str = "n1", check: bool = False, login: Any = None, **more: Any
) -> Outcome:
    defaults = {name: argument.get("default") for name, argument in CATALOG_ARGUMENTS.items()}
    params = {**defaults, **server.params(**(login or {})), "node": node, "backups": list(backups), **more}
    return sync_catalog(Request(params, check_mode=check, diff_mode=True))


def rows(server: MariaDB, node: str = "n1") -> list[dict[str, Any]]:
    """This collection's rows of a node, read by somebody who knows nothing of ours."""
    session = server.connect()
    with session, session.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute("SELECT * FROM backups ORDER BY id")
        found = cursor.fetchall()
    return [
        row for row in found if row["meta"] and json.loads(row["meta"]).get("node") == node and row["type"] is not None
    ]


def others(server: MariaDB) -> list[dict[str, Any]]:
    return server.sql("SELECT * FROM backups WHERE path LIKE '/pack/%' OR meta LIKE '%N1%' ORDER BY id")


def test_new_changed_gone_and_failed(database: MariaDB) -> None:
    before, begun = others(database), utc_now().replace(microsecond=0)
    first = sync(database, listed(A, 1), listed(A, 2), listed(B, 1))
    assert (first.changed, first.values["inserted"]) == (True, 3)
    assert rows(database)[0]["created_at"] == datetime(2026, 1, 1, 0, 0, 1)
    second = sync(database, listed(A, 1), listed(A, 2), listed(B, 1))
    assert (second.changed, second.values["unchanged"]) == (False, 3)
    failure = {**listed(B, 3), "status": "failed", "path": None, "copies": [], "error": "No space.", "type": None}
    third = sync(database, listed(A, 1), listed(A, 2, hold={"reason": "audit"}), failure)
    assert {name: third.values[name] for name in ("inserted", "updated", "deleted", "unchanged")} == {
        "inserted": 1,
        "updated": 1,
        "deleted": 1,
        "unchanged": 1,
    }
    assert [(row["vm_uuid"], row["status"]) for row in rows(database)] == [
        (A, "ready"),
        (A, "ready"),
        (B, "deleted"),
        (B, "failed"),
    ]
    assert json.loads(rows(database)[1]["meta"])["hold"] == {"reason": "audit"}
    gone = json.loads(rows(database)[2]["meta"])
    assert (gone["id"], begun <= parse_time(gone["deleted_at"]) <= utc_now()) == (listed(B, 1)["id"], True)
    assert rows(database)[2]["created_at"] == datetime(2026, 1, 1, 0, 0, 1)
    assert others(database) == before


def test_other_nodes_are_left_alone_also_those_that_differ_only_in_case(database: MariaDB) -> None:
    sync(database, listed(A, 1, node="n2"), node="n2")
    sync(database, listed(A, 1, node="N1"), node="N1")
    assert not sync(database).changed
    assert [row["status"] for node in ("n2", "N1") for row in rows(database, node)] == ["ready", "deleted", "ready"]


def test_check_mode_tells_the_same_and_changes_nothing(database: MariaDB) -> None:
    sync(database, listed(A, 1), listed(A, 2))
    before = rows(database)
    planned = sync(database, listed(A, 2, size_bytes=7), listed(A, 3), check=True)
    assert rows(database) == before
    done = sync(database, listed(A, 2, size_bytes=7), listed(A, 3))
    assert (planned.values, planned.diff) == (done.values, done.diff)
    assert done.diff is not None
    assert f"{A}/20260101T000001Z: ready" in done.diff["before"]
    assert f"{A}/20260101T000001Z: deleted" in done.diff["after"]


def test_names_of_any_kind_survive(database: MariaDB) -> None:
    entry = listed(A, 1, node="nœud-1 '%s' \\ \"")
    entry["vm"]["name"] = "ночь 🐧 '; DROP TABLE backups; --"
    assert sync(database, entry, node=entry["vm"]["node"]).values["inserted"] == 1
    (row,) = rows(database, entry["vm"]["node"])
    assert json.loads(row["meta"])["vm_name"] == entry["vm"]["name"]
    assert not sync(database, entry, node=entry["vm"]["node"]).changed


def test_a_listing_that_is_not_sound_changes_nothing(database: MariaDB) -> None:
    sync(database, listed(A, 1))
    before = rows(database)
    with pytest.raises(InputError, match="Nothing was changed"):
        sync(database, listed(A, 2), {**listed(A, 3), "instant": None})
    with pytest.raises(InputError, match="twice"):
        sync(database, listed(A, 2), listed(A, 2))
    assert rows(database) == before


def test_all_or_nothing(database: MariaDB) -> None:
    sync(database, listed(A, 1))
    before = rows(database)
    # The last row does not fit its column: strict mode refuses it, and what went before with it.
    with pytest.raises(DatabaseError):
        sync(database, listed(B, 1), listed(B, 2, path="/" + "x" * 2000 + f"/{B}/20260101T000002Z"))
    assert rows(database) == before


def test_a_server_that_dies_in_the_middle_changes_nothing(database: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(database, listed(A, 1))
    before = rows(database)
    write = _catalog_sync.write_changes

    def die_after(connection: Any, plan: Any) -> None:
        write(connection, plan)
        database.stop(9)

    monkeypatch.setattr(_catalog_sync, "write_changes", die_after)
    try:
        with pytest.raises(DatabaseError) as caught:
            sync(database, listed(A, 2))
        assert caught.value.code in ("db_lost", "db_unreachable")
    finally:
        database.start()
    monkeypatch.undo()
    assert rows(database) == before
    assert sync(database, listed(A, 2)).values["inserted"] == 1


def test_two_at_once_wait_for_each_other(database: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_catalog_sync, "_LOCK_SECONDS", 1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with Database(DatabaseConfig.from_params(database.params())) as other, other.lock(_catalog_sync.LOCK):
            held.set()
            done.wait(300)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(300)
        with pytest.raises(BusyError, match="catalog"):
            sync(database, listed(A, 1))
    finally:
        done.set()
        thread.join()
    assert sync(database, listed(A, 1)).changed


def test_ten_thousand_in_few_statements(database: MariaDB) -> None:
    many = [listed(A, number) for number in range(10_000)]

    def statements() -> int:
        (status,) = database.sql("SHOW GLOBAL STATUS LIKE 'Questions'")
        return int(status["Value"])

    begun = statements()
    assert sync(database, *many).values["inserted"] == 10_000
    assert statements() - begun < 40
    begun = statements()
    changed = [{**entry, "hold": {"reason": "audit"}} for entry in many[:5_000]]
    outcome = sync(database, *changed)
    assert (outcome.values["updated"], outcome.values["deleted"]) == (5_000, 5_000)
    assert statements() - begun < 40
    assert not sync(database, *changed).changed


@pytest.mark.parametrize(
    ("login", "code"),
    [
        ({"db_password": "wrong"}, "db_login"),
        ({"db_port": 9}, "db_unreachable"),
        ({"db_name": "nothing"}, "db_missing"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_clear_error(database: MariaDB, login: Any, code: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        sync(database, listed(A, 1), login=login)
    assert caught.value.code == code
    assert database.admin_password not in caught.value.message


def test_a_panel_without_the_tables_says_what_to_do(server: MariaDB) -> None:
    server.reset()
    with pytest.raises(DatabaseError, match="vmforge_backup_schema"):
        sync(server, listed(A, 1))


def test_the_day_to_day_user_needs_no_more_rights_than_it_has(database: MariaDB) -> None:
    database.sql(
        "CREATE USER day@'%' IDENTIFIED BY 'day'",
        "GRANT SELECT, INSERT, UPDATE ON vmforge.backups TO day@'%'",
    )
    user = {"user": "day", "password": "day"}
    assert sync(database, listed(A, 1), listed(A, 2), login=user).values["inserted"] == 2
    assert sync(database, listed(A, 2, hold={"reason": "x"}), login=user).values["deleted"] == 1
    database.sql("REVOKE UPDATE ON vmforge.backups FROM day@'%'")
    with pytest.raises(DatabaseError) as caught:
        sync(database, login=user)
    assert caught.value.code == "db_rights"
