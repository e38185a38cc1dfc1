# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The migration against a real server: from every form, interrupted anywhere, refused where it must be."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.vmforge.backup.plugins.module_utils import _mysql
from ansible_collections.vmforge.backup.plugins.module_utils._errors import BusyError, DatabaseError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._migrate import SCHEMA_ARGUMENTS, migrate
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import Database, DatabaseConfig
from tests.bed import panel
from tests.bed.mariadb import MariaDB, certificates

from .conftest import Start

SHAPES: dict[str, tuple[str, ...]] = {
    "none": (*panel.PANEL, *panel.LEDGER),
    "nodes": (*panel.PANEL, *panel.LEDGER, *panel.NODES_SHAPE, *panel.NODES_ROWS),
    "agent": (*panel.PANEL, *panel.LEDGER, *panel.AGENT_SHAPE, *panel.AGENT_ROWS),
    "pack": (*panel.PANEL, *panel.PACK_SHAPE, *panel.PACK_ROWS),
}
ROWS = "SELECT * FROM backups ORDER BY id"
ALTERING = "SELECT id AS number FROM information_schema.PROCESSLIST WHERE info LIKE 'ALTER TABLE%'"


def run(server: MariaDB, *, check: bool = False, **options: Any) -> Outcome:
    result = ArgumentSpecValidator(SCHEMA_ARGUMENTS).validate({**server.params(), **options})
    assert not result.error_messages
    return migrate(Request(result.validated_parameters, check_mode=check, diff_mode=True))


def tables(server: MariaDB) -> dict[str, str]:
    """Every table's definition, without the counter of its next row."""
    found = {}
    for row in server.sql("SHOW TABLES"):
        (name,) = row.values()
        shown = server.sql(f"SHOW CREATE TABLE `{name}`")[0]
        text = shown.get("Create Table") or shown["Create View"]
        found[name] = " ".join(word for word in text.split(" ") if not word.startswith("AUTO_INCREMENT="))
    return found


def content(server: MariaDB) -> dict[str, list[dict[str, Any]]]:
    return {name: server.sql(f"SELECT * FROM `{name}`") for name in tables(server)}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_form_is_brought_to_the_present_one(server: MariaDB, shape: str) -> None:
    server.reset(*SHAPES[shape])
    before = content(server)

    planned = run(server, check=True)
    assert planned.changed
    assert planned.values["shape"] == shape
    assert content(server) == before
    done = run(server)
    assert done.values["statements"] == planned.values["statements"]
    assert done.diff == planned.diff
    assert done.diff == {"prepared": "".join(f"{text};\n" for text in done.values["statements"])}

    after = content(server)
    for name, rows in before.items():
        # Whatever was there is there, with its values, and in its order; only where a copy is may be known better now.
        better = {"storage"} if name == "backups" else set()
        kept = [{key: new[key] for key in old if key not in better} for old, new in zip(rows, after[name])]
        assert kept == [{key: value for key, value in old.items() if key not in better} for old in rows], name
    again = run(server)
    assert (again.changed, again.values["shape"], again.values["statements"]) == (False, "current", [])
    assert [row["filename"] for row in after["_migrations"]].count(done.values["migration"]) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_statements_of_every_age_work_afterwards(server: MariaDB, shape: str) -> None:
    server.reset(*SHAPES[shape])
    run(server)
    count = len(server.sql(ROWS))
    assert "STRICT_TRANS_TABLES" in server.sql("SELECT @@sql_mode AS mode")[0]["mode"]
    server.sql(*panel.INSERTS)
    rows = server.sql(ROWS)[count:]
    assert [row["path"] for row in rows[:2]] == [None, None]
    assert rows[2]["path"] == "/var/lib/vmforge/backups/after.qcow2"
    assert (rows[3]["storage"], rows[3]["type"], rows[3]["status"]) == ("hybrid", "incremental", "ready")
    # What the panel shows of our rows is a text, not NULL.
    assert (rows[3]["snapshot_name"], rows[3]["location"]) == ("", "")

    # The panel goes on writing as it did: the next run makes these readable as well.
    done = run(server)
    assert (done.changed, done.values["shape"]) == (True, "current")
    paths = [row["path"] for row in server.sql(ROWS)[count:]]
    assert paths[:2] == ["/srv/backups/after.qcow2", "/var/lib/vmforge/backups/after.tar.gz"]
    assert not run(server).changed


@pytest.mark.parametrize("shape", ["nodes", "agent"])
def test_a_table_that_is_there_already_is_changed_and_not_passed_over(server: MariaDB, shape: str) -> None:
    server.reset(*SHAPES[shape])
    # What the pack did: nothing happens, and nobody is told.
    server.sql(panel.PACK_SHAPE[0].replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
    with pytest.raises(Exception, match="Unknown column"):
        server.sql(panel.PACK_INSERT)
    assert run(server).changed
    server.sql(panel.PACK_INSERT)


@pytest.mark.parametrize("shape", ["nodes", "agent"])
def test_old_rows_become_readable(server: MariaDB, shape: str) -> None:
    server.reset(*SHAPES[shape])
    times = [row["created_at"] for row in server.sql(ROWS)]
    run(server)
    rows = server.sql(ROWS)
    assert [row["created_at"] for row in rows] == times
    found = [(row["storage"], row["path"], row["s3_key"], row["status"]) for row in rows]
    if shape == "nodes":
        assert found == [
            ("local", "/srv/backups/web1-nightly.qcow2", None, "ready"),
            ("s3", None, "vms/mail1/älter.qcow2", "ready"),
            ("local", None, None, "ready"),
        ]
    else:
        assert found == [
            ("local", "/var/lib/vmforge/backups/web1-a.tar.gz", None, "ready"),
            ("nfs", "/mnt/nfs/web1-b.tar.gz", None, "creating"),
            ("hybrid", None, "mail1-a.tar.gz", "ready"),
        ]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_interrupted_migration_is_continued(server: MariaDB, shape: str) -> None:
    """Stop after each statement in turn; what comes out is always the same."""
    server.reset(*SHAPES[shape])
    statements = run(server).values["statements"]
    wanted = (tables(server), content(server))
    for done in range(1, len(statements)):
        server.reset(*SHAPES[shape])
        server.sql(*statements[:done])
        rest = run(server)
        assert rest.values["statements"] == statements[done:], done
        assert tables(server) == wanted[0]
        assert _without_times(content(server)) == _without_times(wanted[1])


def _without_times(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        name: [{key: value for key, value in row.items() if key != "applied_at"} for row in rows]
        for name, rows in found.items()
        if name not in ("nodes", "vm_instances")
    }


def test_a_migration_that_half_added_columns_is_continued(server: MariaDB) -> None:
    """As a server does that applies one column at a time and dies."""
    server.reset(*SHAPES["nodes"])
    server.sql("ALTER TABLE backups ADD COLUMN path VARCHAR(1024) NULL, MODIFY COLUMN node_id INT NULL")
    done = run(server)
    assert done.values["shape"] == "partial"
    assert not run(server).changed
    server.sql(*panel.INSERTS)
    assert server.sql("SELECT path FROM backups WHERE id = 1")[0]["path"] == "/srv/backups/web1-nightly.qcow2"


UNKNOWN = {
    "no panel": ((), "no table vm_instances"),
    "another table": (("CREATE TABLE backups (id INT PRIMARY KEY, file TEXT)",), "no column vm_uuid"),
    "a view": (("CREATE VIEW backups AS SELECT id, uuid AS vm_uuid FROM vm_instances",), "is a view"),
    "no transactions": (("{pack}", "ALTER TABLE backups ENGINE=MyISAM"), "MyISAM"),
    "an unknown demand": (("{pack}", "ALTER TABLE backups ADD COLUMN owner INT NOT NULL"), "column owner"),
    "another type": (("{pack}", "ALTER TABLE backups MODIFY COLUMN path BLOB"), "column path is blob"),
    "another key": (
        ("{pack}", "ALTER TABLE backup_policies DROP PRIMARY KEY, ADD PRIMARY KEY (vm_uuid, offsite)"),
        "primary key of backup_policies",
    ),
    "no numbers": (("{pack}", "ALTER TABLE backups MODIFY COLUMN id BIGINT NOT NULL"), "number itself"),
    "too short": (("{pack}", "ALTER TABLE backups MODIFY COLUMN vm_uuid VARCHAR(20) NOT NULL"), "too short"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_form_is_refused_and_unchanged(server: MariaDB, name: str) -> None:
    statements, words = UNKNOWN[name]
    base = () if name == "no panel" else panel.PANEL
    pack = [text for text in statements if text != "{pack}"]
    server.reset(*base, *(panel.PACK_SHAPE if "{pack}" in statements else ()), *pack)
    before = tables(server)
    for check in (True, False):
        with pytest.raises(DatabaseError, match=words) as raised:
            run(server, check=check)
        assert raised.value.code == "db_schema_unknown"
    assert tables(server) == before


def test_what_others_added_stays(server: MariaDB) -> None:
    server.reset(*SHAPES["agent"])
    server.sql(
        "ALTER TABLE backups ADD COLUMN note VARCHAR(20) NULL COMMENT 'of the panel'",
        "ALTER TABLE backups ADD COLUMN cost INT NOT NULL DEFAULT 3",
        "ALTER TABLE backups MODIFY COLUMN size_bytes BIGINT NOT NULL COMMENT 'all of it''s bytes'",
    )
    run(server)
    after = tables(server)["backups"]
    assert re.search(r"`note` varchar\(20\) .*DEFAULT NULL COMMENT 'of the panel',", after)
    assert re.search(r"`cost` int(\(11\))? NOT NULL DEFAULT '?3'?,", after)
    assert "COMMENT 'all of it''s bytes'" in after
    assert "'differential'" in after
    assert "'creating'" in after
    assert "'nfs'" in tables(server)["backup_policies"]
    assert "keep_yearly" in tables(server)["backup_policies"]


@pytest.mark.parametrize(
    "collation", ["utf8mb4_general_ci", "utf8mb4_bin", "utf8mb3_unicode_ci", "latin1_swedish_ci", "ascii_general_ci"]
)
def test_the_foreign_key_follows_the_collation_of_the_panel(server: MariaDB, collation: str) -> None:
    charset = collation.split("_")[0]
    change = (
        f"ALTER TABLE vm_instances MODIFY COLUMN uuid VARCHAR(64) CHARACTER SET {charset} COLLATE {collation} NOT NULL"
    )
    server.reset(*SHAPES["none"], change)
    run(server)
    server.sql(f"INSERT INTO backup_policies (vm_uuid) VALUES ('{panel.WEB}')")
    assert server.sql("SELECT offsite FROM backup_policies") == [{"offsite": "s3"}]
    server.sql(f"DELETE FROM vm_instances WHERE uuid = '{panel.WEB}'")
    assert not server.sql("SELECT * FROM backup_policies")


def test_a_missing_foreign_key_is_added_unless_a_policy_would_be_lost(server: MariaDB) -> None:
    server.reset(*SHAPES["pack"])
    server.sql(
        "ALTER TABLE backup_policies DROP FOREIGN KEY fk_backup_policies_vm",
        "ALTER TABLE backup_policies MODIFY COLUMN vm_uuid VARCHAR(64) COLLATE utf8mb4_bin NOT NULL",
        "INSERT INTO backup_policies (vm_uuid, keep_daily) VALUES ('gone', 5)",
    )
    first = run(server)
    assert len(first.warnings) == 1
    assert "1 rows of backup_policies" in first.warnings[0]
    assert len(server.sql("SELECT * FROM backup_policies")) == 2
    server.sql("DELETE FROM backup_policies WHERE vm_uuid = 'gone'")
    assert run(server).changed
    assert "ON DELETE CASCADE" in tables(server)["backup_policies"]
    assert not run(server).changed


def test_a_zero_that_meant_every_day_is_reported(server: MariaDB) -> None:
    server.reset(*SHAPES["agent"])
    done = run(server, check=True)
    assert done.values["policies_with_zero"] == [
        {"vm_uuid": panel.WEB, "keep_daily": 0, "keep_weekly": 4, "keep_monthly": None}
    ]
    assert panel.WEB in done.warnings[0]
    run(server)
    server.sql("UPDATE backup_policies SET keep_daily = 1, keep_monthly = 0")
    done = run(server)
    assert [row["keep_monthly"] for row in done.values["policies_with_zero"]] == [0]
    assert done.warnings == ()


def test_a_server_that_is_not_strict_is_migrated_alike(server: MariaDB) -> None:
    server.reset(*SHAPES["nodes"])
    run(server)
    strict = tables(server)
    mode = server.sql("SELECT @@GLOBAL.sql_mode AS mode")[0]["mode"]
    try:
        server.sql("SET GLOBAL sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES'")
        server.reset(*SHAPES["nodes"])
        run(server)
        server.sql(f"SET GLOBAL sql_mode = '{mode}'")
        assert tables(server) == strict
    finally:
        server.sql(f"SET GLOBAL sql_mode = '{mode}'")


def test_who_may_not_is_told_so(server: MariaDB) -> None:
    server.reset(*SHAPES["nodes"])
    before = tables(server)
    server.sql("CREATE USER reader IDENTIFIED BY 'pw'")
    server.sql("GRANT SELECT ON vmforge.* TO reader")
    for options, code, words in (
        ({"db_password": "wrong-Pässword"}, "db_login", "db_password"),
        ({"db_user": "nobody-at-all", "db_password": ""}, "db_login", "nobody-at-all"),
        ({"db_user": "reader", "db_password": "pw"}, "db_rights", "ALTER"),
        ({"db_name": "other"}, "db_missing", "db_name"),
        ({"db_port": 1}, "db_unreachable", "127.0.0.1:1"),
        ({"db_host": "no-such-host.invalid"}, "db_unreachable", "no-such-host"),
        ({"db_host": "", "db_socket": "/nonexistent/sock"}, "db_unreachable", "/nonexistent/sock"),
    ):
        with pytest.raises(VMForgeError) as raised:
            run(server, **options)
        assert raised.value.code == code, raised.value.message
        assert words in raised.value.message
        assert "wrong-Pässword" not in raised.value.message
        assert server.admin_password not in raised.value.message
    assert tables(server) == before


def test_a_server_that_dies_in_the_middle_is_continued(server: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is cut while it waits for a table; the error says so, and nothing is lost."""
    server.reset(*SHAPES["agent"])
    rows = server.sql(ROWS)
    blocker = server.connect()
    with blocker.cursor() as cursor:
        cursor.execute("LOCK TABLES backups READ")
        errors: list[VMForgeError] = []

        def attempt() -> None:
            try:
                run(server)
            except VMForgeError as error:
                errors.append(error)

        thread = threading.Thread(target=attempt)
        thread.start()
        killed = False
        while thread.is_alive() and not killed:
            for row in server.sql(ALTERING):
                server.sql(f"KILL {row['number']}")
                killed = True
            time.sleep(0.05)
        thread.join()
    blocker.close()
    assert killed
    assert errors[0].code == "db_lost"
    assert "continues here" in errors[0].message
    assert server.sql(ROWS) == rows
    assert run(server).changed
    assert not run(server).changed


def test_a_machine_that_dies_while_a_large_table_is_altered_loses_nothing(server: MariaDB) -> None:
    server.reset(*SHAPES["nodes"])
    twice = (
        "INSERT INTO backups (vm_uuid, node_id, snapshot_name, location) "
        "SELECT vm_uuid, 1, UUID(), CONCAT('/srv/', UUID()) FROM backups"
    )
    server.sql(*[twice] * 15)
    (before,) = server.sql("SELECT COUNT(*) AS n, SUM(location LIKE '/%') AS paths FROM backups")
    errors: list[VMForgeError] = []

    def attempt() -> None:
        try:
            run(server)
        except VMForgeError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    # Some time into it, as far as this machine shows it.
    while thread.is_alive() and not server.sql(ALTERING):
        time.sleep(0.01)
    time.sleep(0.15)
    server.stop(signal.SIGKILL)
    thread.join()
    server.start()
    assert errors[0].code in ("db_lost", "db_unreachable")
    assert server.sql("SELECT COUNT(*) AS n FROM backups")[0]["n"] == before["n"]
    run(server)
    assert not run(server).changed
    assert server.sql("SELECT COUNT(*) AS n FROM backups WHERE path = location")[0]["n"] == before["paths"]


def test_two_at_once_do_it_once(server: MariaDB) -> None:
    server.reset(*SHAPES["agent"])
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _number: run(server), range(4)))
    assert sorted(outcome.changed for outcome in outcomes) == [False, False, False, True]
    assert not run(server).changed


def test_a_database_of_another_character_set(server: MariaDB) -> None:
    server.reset("ALTER DATABASE vmforge CHARACTER SET latin1 COLLATE latin1_swedish_ci", *SHAPES["nodes"][1:])
    run(server)
    server.sql(*panel.INSERTS)
    assert server.sql("SELECT s3_key FROM backups WHERE id = 2")[0]["s3_key"] == "vms/mail1/älter.qcow2"
    assert run(server).values["shape"] == "current"


def test_it_waits_for_others_and_gives_up(server: MariaDB) -> None:
    server.reset(*SHAPES["agent"])
    before = tables(server)
    blocker = server.connect()
    with blocker.cursor() as cursor:
        cursor.execute("LOCK TABLES backups READ")
        with pytest.raises(BusyError) as raised:
            run(server, lock_timeout=1)
        assert raised.value.code == "db_busy"
        cursor.execute("UNLOCK TABLES")
        cursor.execute("SELECT GET_LOCK('vmforge_backup:vmforge:schema', 1)")
        with pytest.raises(BusyError, match="schema"):
            run(server, lock_timeout=1)
    blocker.close()
    assert tables(server) == before
    assert run(server).changed


def test_tls_is_demanded_and_checked(server: MariaDB, tmp_path: Path) -> None:
    server.reset(*SHAPES["none"])
    assert server.ca is not None
    run(server, check=True, db_ca=str(server.ca))
    run(server, check=True, db_tls="required")
    server.sql("CREATE USER secure IDENTIFIED BY 'pw' REQUIRE SSL")
    server.sql("GRANT ALL ON vmforge.* TO secure")
    run(server, check=True, db_user="secure", db_password="pw", db_tls="required")
    with pytest.raises(DatabaseError) as raised:
        run(server, db_user="secure", db_password="pw", db_tls="disabled")
    assert raised.value.code in ("db_login", "db_tls")
    other = tmp_path / "other"
    with pytest.raises(DatabaseError) as raised:
        run(server, db_ca=str(certificates(other)))
    assert raised.value.code == "db_tls"
    with pytest.raises(VMForgeError, match="db_ca"):
        run(server, db_ca=str(tmp_path / "none.pem"))
    # Over the socket there is nothing to encrypt.
    run(server, check=True, db_host="", db_socket=server.socket, db_tls="required")


def test_a_server_without_tls_never_sees_a_password_when_tls_is_demanded(start_server: Start, tmp_path: Path) -> None:
    with start_server() as plain:
        plain.reset(*SHAPES["none"])
        run(plain, check=True)
        plain.sql("SET GLOBAL log_output = 'TABLE'", "SET GLOBAL general_log = ON")
        for options in ({"db_tls": "required"}, {"db_ca": str(certificates(tmp_path / "ca"))}):
            with pytest.raises(DatabaseError, match="offers no TLS") as raised:
                run(plain, **options)
            assert raised.value.code == "db_tls"
        # Nobody even tried to log in.
        connected = plain.sql("SELECT * FROM mysql.general_log WHERE command_type = 'Connect'")
        assert not [row for row in connected if "TCP" in str(row["argument"])]


def test_what_listens_but_never_speaks_is_given_up(server: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mysql, "_CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DatabaseError) as raised:
        run(server, db_port=silent.getsockname()[1])
    assert raised.value.code in ("db_lost", "db_unreachable")
    # What takes longer once logged in is waited for.
    with Database(DatabaseConfig.from_params(server.params())) as database:
        assert database.query("SELECT SLEEP(2) AS woken")[0]["woken"] == 0
