# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a database, what its errors mean, and which rights its user lacks."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import BusyError, DatabaseError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._grants import (
    Account,
    Right,
    UserPlan,
    check_names,
    plan_no_user,
    plan_user,
    wanted_rights,
)
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import DatabaseConfig
from ansible_collections.vmforge.backup.plugins.module_utils._mysql_errors import database_error
from ansible_collections.vmforge.backup.plugins.module_utils._password_hash import (
    CACHING_SHA2,
    NATIVE,
    is_password,
    native_hash,
    sha256_crypt,
)

GIVEN = {"db_host": "db", "db_port": 3306, "db_name": "vmforge", "db_user": "u", "db_password": "s3cret"}


def test_options_become_a_value() -> None:
    config = DatabaseConfig.from_params({**GIVEN, "db_ca": "/ca.pem", "db_tls": "preferred", "db_socket": ""})
    assert (config.host, config.socket, config.tls) == ("db", None, "required")
    assert config.where == "database 'vmforge' at db:3306 as user 'u'"
    assert "s3cret" not in repr(config)


def test_a_database_is_set_by_a_host_or_a_socket() -> None:
    assert DatabaseConfig.is_configured({"db_socket": "/run/s"})
    assert DatabaseConfig.is_configured(GIVEN)
    assert not DatabaseConfig.is_configured({"db_host": "", "db_socket": None, "db_user": "u"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"db_host": ""}, "db_socket"),
        ({"db_socket": "/run/s"}, "not both"),
        ({"db_user": ""}, "db_user"),
        ({"db_name": ""}, "db_name"),
        ({"db_port": 70000}, "70000"),
        ({"db_ca": "/ca.pem", "db_tls": "disabled"}, "forbids"),
    ],
)
def test_options_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        DatabaseConfig.from_params({**GIVEN, **change})


@pytest.mark.parametrize(
    ("number", "code", "advice", "kind"),
    [
        (1045, "db_login", "db_password", DatabaseError),
        (1146, "db_schema", "vmforge_backup_schema", DatabaseError),
        (1205, "db_busy", "later", BusyError),
        (2061, "db_login", "python3-cryptography", DatabaseError),
        (3118, "db_login", "unlock", DatabaseError),
        (2003, "db_unreachable", "db_host", DatabaseError),
        (9999, "database", "", DatabaseError),
        (None, "database", "", DatabaseError),
    ],
)
def test_errors_say_what_to_do(number: int | None, code: str, advice: str, kind: type[Exception]) -> None:
    error = database_error(number, "It said no.", where="database 'x'", what="Asking")
    assert isinstance(error, kind)
    assert error.code == code
    assert error.message.startswith("Asking failed on database 'x': ")
    assert "It said no. " in f"{error.message} "
    assert advice in error.message


# From another program: openssl passwd -5 -salt 'rounds=…$saltstring' password
SHA256_CRYPT = [
    ("Hello world!", 5000, "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
    ("pa'ss wörd", 1000, "J4Xd1tjhe/zJkJTpfYeIc5sHYRpvU8Kp0TsEhS4RaE6"),
    ("x" * 32, 1000, "8uRt7LAoBu4RRi8ETZlb0dls3g.AF5JsD9wnLYcya.6"),
    ("y" * 100, 10000, "WQNExot2IHEug.UaJ.68r.MhxMJx6i3J9pgwxXroQe0"),
]

COLUMNS = {"vm_instances": ["uuid", "name", "root_password"], "nodes": ["id", "token", "name"]}
WANTED = wanted_rights(COLUMNS)


def plan(*accounts: Account, tls: bool = False, hashed: bool = True, hosts: tuple[str, ...] = ("h",)) -> UserPlan:
    known = {account.host: account for account in accounts}
    return plan_user("u", "p'w", WANTED, database="db", hosts=hosts, tls=tls, accounts=known, hashed=hashed)


def shown(result: UserPlan) -> list[str]:
    return [statement.shown for statement in result.statements]


def test_secrets_of_the_panel_are_not_among_the_rights() -> None:
    assert not {"root_password", "token"} & {right.column for right in WANTED}
    assert Right("SELECT", "nodes", "name") in WANTED


def test_a_new_user_gets_everything_and_its_password_is_hidden() -> None:
    result = plan(tls=True)
    assert shown(result) == [
        "CREATE USER 'u'@'h' IDENTIFIED BY PASSWORD '********' REQUIRE SSL",
        "GRANT SELECT, INSERT, UPDATE ON `db`.`backups` TO 'u'@'h'",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON `db`.`backup_policies` TO 'u'@'h'",
        "GRANT SELECT (`uuid`, `name`) ON `db`.`vm_instances` TO 'u'@'h'",
        "GRANT SELECT (`id`, `name`) ON `db`.`nodes` TO 'u'@'h'",
    ]
    assert result.statements[0].args == ("u", "h", native_hash("p'w"))
    assert plan(hashed=False).statements[0].args == ("u", "h", "p'w")
    assert plan(hosts=("a", "b")).statements[5].args == ("u", "b", native_hash("p'w"))


def test_a_hash_is_that_of_the_server() -> None:
    # SELECT PASSWORD('mariadb') of MariaDB 10.11
    assert native_hash("mariadb") == "*54958E764CE10E50764C2EECBB71D01F08549980"


@pytest.mark.parametrize(("password", "rounds", "wanted"), SHA256_CRYPT)
def test_a_hash_is_that_of_other_programs(password: str, rounds: int, wanted: str) -> None:
    assert sha256_crypt(password.encode(), b"saltstring", rounds) == wanted


def test_a_password_is_compared_where_the_server_tells_its_hash() -> None:
    stored = f"$A$001${'s' * 20}{sha256_crypt(b'right', b's' * 20, 1000)}"
    assert is_password("right", CACHING_SHA2, stored) is True
    assert is_password("wrong", CACHING_SHA2, stored) is False
    assert is_password("right", CACHING_SHA2, stored.replace("$001$", "$002$")) is False
    assert is_password("right", NATIVE, native_hash("right").lower()) is True
    assert is_password("right", "", native_hash("wrong")) is False
    assert is_password("right", "ed25519", "x") is None
    assert is_password("right", CACHING_SHA2, "") is None


@pytest.mark.parametrize(
    ("account", "tls", "wanted"),
    [
        (Account("h", True, "", WANTED), False, []),
        (Account("h", False, "", WANTED), False, ["ALTER USER 'u'@'h' IDENTIFIED BY PASSWORD '********'"]),
        (Account("h", True, "", WANTED), True, ["ALTER USER 'u'@'h' REQUIRE SSL"]),
        (Account("h", True, "ANY", WANTED), False, ["ALTER USER 'u'@'h' REQUIRE NONE"]),
        (Account("h", True, "ANY", WANTED), True, []),
        (Account("h", True, "X509", WANTED), False, []),
        (Account("h", True, "X509", WANTED), True, []),
        (Account("h", True, "", WANTED[1:]), False, ["GRANT SELECT ON `db`.`backups` TO 'u'@'h'"]),
        (Account("h", True, "", (Right("ALL PRIVILEGES", "*"),)), False, []),
        (Account("h", True, "", (*WANTED[:-1], Right("SELECT", "nodes"))), False, []),
    ],
)
def test_only_what_is_missing_is_done(account: Account, tls: bool, wanted: list[str]) -> None:
    assert shown(plan(account, tls=tls)) == wanted


def test_what_is_too_much_is_named_and_nothing_else() -> None:
    more = (Right("DELETE", "backups"), Right("SELECT", "*.*"), Right("SELECT", "nodes", "token"))
    assert plan(Account("h", True, "", (*WANTED, *more))).surplus == (
        "u@h: DELETE on backups",
        "u@h: SELECT on *.*",
        "u@h: SELECT(token) on nodes",
    )


def test_a_user_is_dropped_where_it_is() -> None:
    accounts = {host: Account(host, False) for host in ("a", "b")}
    assert shown(plan_no_user("u", (), accounts)) == ["DROP USER 'u'@'a'", "DROP USER 'u'@'b'"]
    assert shown(plan_no_user("u", ("b", "c"), accounts)) == ["DROP USER 'u'@'b'"]


@pytest.mark.parametrize(
    ("user", "host"), [("", "h"), ("a'b", "h"), ("u" * 33, "h"), ("u", ""), ("u", "a b"), ("u", "'")]
)
def test_names_that_no_server_has_are_refused(user: str, host: str) -> None:
    with pytest.raises(InputError):
        check_names(user, [host])


def test_names_that_servers_have_are_taken() -> None:
    check_names(
        "vmforge_backup", ["localhost", "10.0.0.%", "10.0.0.0/255.255.255.0", "2001:db8::1", "%.example.com", "%"]
    )
