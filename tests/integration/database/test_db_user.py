# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The day-to-day user in a real server: what it can do, what it cannot, and that nobody learns its password."""

from __future__ import annotations

import json
from typing import Any

import pymysql
import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.vmforge.backup.plugins.module_utils._db_user import USER_ARGUMENTS, keep_user
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from tests.bed import panel
from tests.bed.mariadb import MariaDB

from .test_schema import run as migrate

USER, PASSWORD = "vmforge_backup", "pa'ss\"wörd\\ 100%s"


@pytest.fixture
def server(server: MariaDB) -> MariaDB:
    """With the tables."""
    server.reset(*panel.PANEL)
    migrate(server)
    return server


def keep(server: MariaDB, *, check: bool = False, **options: Any) -> Outcome:
    given = {**server.params(), "user": USER, "password": PASSWORD, **options}
    result = ArgumentSpecValidator(USER_ARGUMENTS).validate(given)
    assert not result.error_messages
    outcome = keep_user(Request(result.validated_parameters, check_mode=check, diff_mode=True))
    assert PASSWORD not in json.dumps([dict(outcome.values), outcome.diff, outcome.warnings], ensure_ascii=False)
    return outcome


def session(server: MariaDB, password: str = PASSWORD, **more: Any) -> Any:
    login = {"unix_socket": None, "host": "127.0.0.1", "port": server.port, **more}
    return server.connect(user=USER, password=password.encode(), **login)


def identified(server: MariaDB) -> str:
    """MariaDB gets the password's hash."""
    return "IDENTIFIED BY PASSWORD" if server.flavour == "mariadb" else "IDENTIFIED BY"


def accounts(server: MariaDB) -> list[dict[str, Any]]:
    return server.sql(f"SELECT * FROM mysql.user WHERE User = '{USER}' ORDER BY Host")


def test_it_can_do_its_work_and_no_more(server: MariaDB) -> None:
    planned = keep(server, check=True)
    assert planned.changed
    assert not accounts(server)
    done = keep(server)
    assert done.values["statements"] == planned.values["statements"]
    assert done.values["hosts"] == ["localhost", "127.0.0.1", "::1"]
    assert f"{identified(server)} '********'" in done.values["statements"][0]
    assert not keep(server).changed

    with session(server) as connection, connection.cursor() as cursor:
        cursor.execute(panel.OUR_INSERT)
        cursor.execute("UPDATE backups SET status = 'deleted'")
        cursor.execute(f"INSERT INTO backup_policies (vm_uuid, keep_daily) VALUES ('{panel.WEB}', 3)")
        cursor.execute("SELECT * FROM backup_policies FOR UPDATE")
        cursor.execute("DELETE FROM backup_policies")
        cursor.execute("SELECT v.uuid, v.name, n.name FROM vm_instances v JOIN nodes n ON n.id = v.node_id")
        assert len(cursor.fetchall()) == 2
        cursor.execute("SELECT GET_LOCK('x', 0), COUNT(*) FROM backups")
        for forbidden in (
            "DELETE FROM backups",
            "SELECT token FROM nodes",
            "SELECT * FROM nodes",
            "UPDATE vm_instances SET name = 'x'",
            "ALTER TABLE backups ADD COLUMN x INT",
            "DROP TABLE backup_policies",
            "CREATE TABLE mine (id INT)",
            "SELECT * FROM mysql.user",
            "GRANT SELECT ON vmforge.backups TO root",
        ):
            with pytest.raises(pymysql.err.MySQLError, match="denied|1044|1142|1143|1410|1227"):
                cursor.execute(forbidden)


def test_what_is_missing_is_given_and_what_is_wrong_is_put_right(server: MariaDB) -> None:
    keep(server, hosts=["127.0.0.1", "localhost"])
    server.sql(f"REVOKE UPDATE ON vmforge.backups FROM '{USER}'@'localhost'")
    server.sql(f"REVOKE SELECT (name) ON vmforge.vm_instances FROM '{USER}'@'localhost'")
    server.sql(f"ALTER USER '{USER}'@'127.0.0.1' IDENTIFIED BY 'other'")
    done = keep(server, hosts=["127.0.0.1", "localhost"])
    assert done.values["statements"] == [
        f"ALTER USER '{USER}'@'127.0.0.1' {identified(server)} '********'",
        f"GRANT UPDATE ON `vmforge`.`backups` TO '{USER}'@'localhost'",
        f"GRANT SELECT (`name`) ON `vmforge`.`vm_instances` TO '{USER}'@'localhost'",
    ]
    assert not keep(server, hosts=["127.0.0.1", "localhost"]).changed
    session(server).close()
    # A new password reaches every account.
    assert keep(server, password="next", hosts=["127.0.0.1", "localhost"]).changed
    session(server, "next").close()
    assert not keep(server, password="next", hosts=["127.0.0.1", "localhost"]).changed


def test_it_may_log_in_only_from_where_it_was_let(server: MariaDB) -> None:
    done = keep(server, hosts=["192.0.2.10", "10.0.0.%"])
    assert [row["Host"] for row in accounts(server)] == ["10.0.0.%", "192.0.2.10"]
    with pytest.raises(pymysql.err.OperationalError, match="1045"):
        session(server)
    assert not keep(server, hosts=["192.0.2.10", "10.0.0.%"]).changed
    assert not done.warnings
    other = keep(server)
    assert other.values["other_hosts"] == ["10.0.0.%", "192.0.2.10"]
    assert "elsewhere" in other.warnings[0]


def test_tls_can_be_demanded_and_given_up(server: MariaDB) -> None:
    import ssl

    keep(server, tls="required")
    assert {row["ssl_type"] for row in accounts(server)} == {"ANY"}
    with pytest.raises(pymysql.err.OperationalError, match="1045"):
        session(server)
    session(server, ssl=ssl.create_default_context(cafile=str(server.ca))).close()
    assert not keep(server, tls="required").changed
    assert keep(server, tls="optional").changed
    session(server).close()
    assert not keep(server, tls="optional").changed
    # Whoever demands a certificate demands more than we do.
    server.sql(f"ALTER USER '{USER}'@'localhost' REQUIRE X509")
    assert not keep(server, tls="optional").changed


def test_rights_beyond_are_reported_and_left(server: MariaDB) -> None:
    keep(server, hosts=["localhost"])
    server.sql(f"GRANT ALL ON vmforge.* TO '{USER}'@'localhost'", f"GRANT PROCESS ON *.* TO '{USER}'@'localhost'")
    again = keep(server, hosts=["localhost"])
    assert not again.changed
    assert f"{USER}@localhost: PROCESS on *.*" in again.values["surplus"]
    assert f"{USER}@localhost: DROP on *" in again.values["surplus"]
    assert "DROP on *" in again.warnings[0]
    # Who has all rights needs none of ours.
    server.sql(f"DROP USER '{USER}'@'localhost'", f"CREATE USER '{USER}'@'localhost' IDENTIFIED BY 'x'")
    server.sql(f"GRANT ALL ON vmforge.* TO '{USER}'@'localhost'")
    assert len(keep(server, hosts=["localhost"]).values["statements"]) == 1


def test_a_password_that_cannot_be_compared_is_tried(server: MariaDB) -> None:
    other = {
        "mariadb": "IDENTIFIED VIA unix_socket OR mysql_native_password USING PASSWORD('right')",
        "mysql": "IDENTIFIED WITH sha256_password BY 'right'",
    }
    server.sql(f"CREATE USER '{USER}'@'localhost' {other[server.flavour]}")
    assert not [
        text for text in keep(server, hosts=["localhost"], password="right").values["statements"] if "BY" in text
    ]
    assert not keep(server, hosts=["localhost"], password="right").changed
    wrong = keep(server, hosts=["localhost"])
    assert len(wrong.values["statements"]) == 1
    session(server).close()
    assert not keep(server, hosts=["localhost"]).changed


def test_it_is_dropped(server: MariaDB) -> None:
    keep(server, hosts=["localhost", "192.0.2.10", "192.0.2.11"])
    assert keep(server, state="absent", password="", hosts=["192.0.2.10", "nowhere"]).changed
    assert len(accounts(server)) == 2
    assert keep(server, state="absent", password="", check=True).changed
    assert len(accounts(server)) == 2
    assert keep(server, state="absent", password="").changed
    assert not accounts(server)
    assert not keep(server, state="absent", password="").changed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"password": ""}, "password is missing"),
        ({"user": "x'; DROP DATABASE vmforge; --"}, "user is"),
        ({"user": "administrator"}, "of their own"),
        ({"hosts": ["a b"]}, "hosts holds"),
        ({"hosts": [""]}, "hosts holds"),
    ],
)
def test_bad_input_is_refused(server: MariaDB, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        keep(server, **options)


def test_who_may_not_is_told_so(server: MariaDB) -> None:
    server.sql("CREATE USER reader IDENTIFIED BY 'pw'", "GRANT ALL ON vmforge.* TO reader")
    with pytest.raises(VMForgeError) as raised:
        keep(server, db_user="reader", db_password="pw")
    assert raised.value.code == "db_rights"
    assert not accounts(server)


def test_the_server_writes_no_password_into_its_log(server: MariaDB) -> None:
    server.sql("SET GLOBAL log_output = 'TABLE'", "TRUNCATE mysql.general_log", "SET GLOBAL general_log = ON")
    try:
        keep(server, password="plain-and-unique", hosts=["localhost"])
        keep(server, password="plain-and-unique-2", hosts=["localhost"])
    finally:
        server.sql("SET GLOBAL general_log = OFF")
    logged = [str(row["argument"]) for row in server.sql("SELECT argument FROM mysql.general_log")]
    assert any("CREATE USER" in text for text in logged)
    assert not [text for text in logged if "plain-and-unique" in text]
