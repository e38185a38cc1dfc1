# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies as rows of the panel's table, in a real server."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    DatabaseError,
    InputError,
    NotFoundError,
    PolicyError,
)
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._policy_info import POLICY_INFO_ARGUMENTS, list_policies
from ansible_collections.vmforge.backup.plugins.module_utils._policy_rows import POLICY_ARGUMENTS, manage_policy
from tests.bed.catalog import prepare
from tests.bed.mariadb import MariaDB

WEB, DB = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
TWIN_1, TWIN_2 = "cccccccc-0000-4000-8000-000000000003", "dddddddd-0000-4000-8000-000000000004"
# A name of 32 hexadecimal digits is no UUID to anybody but a careless program.
LONG = "0123456789abcdef0123456789abcdef"
PANEL = {WEB: "web", DB.upper(): LONG, TWIN_1: "twin", TWIN_2: "twin"}


@pytest.fixture
def database(server: MariaDB) -> MariaDB:
    prepare(server, PANEL)
    return server


def policy(server: MariaDB, vm: str = "web", *, check: bool = False, **more: Any) -> Outcome:
    defaults = {name: argument.get("default") for name, argument in POLICY_ARGUMENTS.items()}
    return manage_policy(Request({**defaults, **server.params(), "vm": vm, **more}, check_mode=check, diff_mode=True))


def info(server: MariaDB | None, *uuids: str, login: Any = None, **more: Any) -> dict[str, Any]:
    defaults = {name: argument.get("default") for name, argument in POLICY_INFO_ARGUMENTS.items()}
    params = {**defaults, **(server.params(**(login or {})) if server else {})}
    vms = [{"uuid": uuid, "name": {WEB: "web", DB: LONG}.get(uuid)} for uuid in uuids]
    return dict(list_policies(Request({**params, "vms": vms, **more})).values)


def stored(server: MariaDB) -> list[dict[str, Any]]:
    return server.sql("SELECT * FROM backup_policies ORDER BY vm_uuid")


def test_a_row_is_made_changed_and_removed_and_every_step_is_idempotent(database: MariaDB) -> None:
    steps: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
        ({"keep_daily": 14, "max_total_gb": 100}, {"keep_daily": 14, "max_total_gb": 100, "offsite": "s3"}),
        ({"offsite": "none"}, {"keep_daily": 14, "max_total_gb": 100, "offsite": "none"}),
        ({"keep_daily": 0}, {"keep_daily": 0, "keep_weekly": None}),
        ({"reset": ["keep_daily", "offsite"]}, {"keep_daily": None, "max_total_gb": 100, "offsite": "s3"}),
        ({"delete_local_after_upload": True}, {"delete_local_after_upload": 1}),
        ({"state": "absent"}, None),
    ]
    for options, wanted in steps:
        before = stored(database)
        planned = policy(database, check=True, **options)
        assert stored(database) == before
        done = policy(database, **options)
        assert (done.changed, done.values, done.diff) == (True, planned.values, planned.diff)
        rows = stored(database)
        assert len(rows) == (wanted is not None)
        if wanted is not None:
            assert rows[0]["vm_uuid"] == WEB
            assert {name: rows[0][name] for name in wanted} == wanted
        assert not policy(database, **options).changed


def test_a_vm_is_found_by_name_and_by_uuid_however_the_panel_writes_it(database: MariaDB) -> None:
    assert policy(database, LONG, keep_daily=3).values["vm"] == {"uuid": DB.upper(), "name": LONG}
    assert not policy(database, DB, keep_daily=3).changed
    assert not policy(database, DB.replace("-", ""), keep_daily=3).changed
    assert info(database, DB)["policies"][DB]["keep_daily"] == 3


def test_a_name_of_two_and_a_name_of_none(database: MariaDB) -> None:
    with pytest.raises(InputError, match=f"{TWIN_1}, {TWIN_2}"):
        policy(database, "twin", keep_daily=3)
    for name in ("nobody", "WEB", "eeeeeeee-0000-4000-8000-000000000005"):
        with pytest.raises(NotFoundError, match=name):
            policy(database, name, keep_daily=3)
    assert not policy(database, "eeeeeeee-0000-4000-8000-000000000005", state="absent").changed
    assert stored(database) == []


@pytest.mark.parametrize(
    "options",
    [
        {"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0},
        {"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "max_age_days": 0},
        {"keep_daily": -1},
        {"offsite": "none", "delete_local_after_upload": True},
    ],
)
def test_a_policy_that_keeps_nothing_is_refused(database: MariaDB, options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        policy(database, **options)
    assert stored(database) == []
    policy(database, keep_daily=0, keep_weekly=0, keep_monthly=0, max_age_days=30)
    with pytest.raises(PolicyError):
        policy(database, reset=["max_age_days"])
    assert stored(database)[0]["max_age_days"] == 30


def test_a_value_and_its_reset_contradict_each_other(database: MariaDB) -> None:
    with pytest.raises(InputError, match="keep_daily"):
        policy(database, keep_daily=3, reset=["keep_daily"])


def test_row_then_variables_then_defaults(database: MariaDB) -> None:
    policy(database, keep_daily=3)
    found = info(
        database,
        WEB,
        DB,
        defaults={"keep_daily": 9, "keep_weekly": 9, "keep_monthly": 9},
        variables={"web": {"keep_daily": 5, "keep_weekly": 5}, WEB.upper(): {"keep_weekly": 6}, "other": {"no": 1}},
    )
    web, db = found["policies"][WEB], found["policies"][DB]
    assert [(web[name], web["sources"][name]) for name in ("keep_daily", "keep_weekly", "keep_monthly")] == [
        (3, "row"),
        (6, "variables"),
        (9, "defaults"),
    ]
    assert (web["max_total_gb"], db["max_total_gb"], db["keep_daily"]) == (None, 200, 9)
    assert found["known"] == sorted([WEB, DB, TWIN_1, TWIN_2])
    assert found["problems"] == {}


def test_without_a_database_variables_are_all_there_is() -> None:
    found = info(None, WEB, variables={"web": {"offsite": "s3"}})
    assert (found["policies"][WEB]["offsite"], found["known"]) == ("s3", None)


def test_one_policy_that_cannot_be_used_does_not_take_the_others_with_it(database: MariaDB) -> None:
    database.sql(f"INSERT INTO backup_policies (vm_uuid, keep_daily) VALUES ('{WEB}', -5)")
    found = info(database, WEB, DB, TWIN_1, variables={LONG: "daily"})
    assert list(found["policies"]) == [TWIN_1]
    assert "keep_daily is -5" in found["problems"][WEB]
    assert "vmforge_backup_policies" in found["problems"][DB]
    with pytest.raises(PolicyError, match="vmforge_backup_policy has no field"):
        info(database, WEB, defaults={"keep": 3})


def test_a_database_that_is_away_is_an_error_and_never_defaults(database: MariaDB) -> None:
    for login in ({"db_port": 9}, {"password": "wrong"}):
        with pytest.raises(DatabaseError):
            info(database, WEB, login=login)


def test_a_policy_goes_with_its_vm_and_the_vm_is_not_known_any_more(database: MariaDB) -> None:
    policy(database, keep_daily=3)
    database.sql(f"DELETE FROM vm_instances WHERE uuid = '{WEB}'")
    assert stored(database) == []
    found = info(database, WEB)
    assert found["policies"][WEB]["sources"]["keep_daily"] == "defaults"
    assert WEB not in found["known"]


def test_a_column_of_older_panels_counts(database: MariaDB) -> None:
    database.sql("ALTER TABLE backup_policies ADD keep_yearly INT NULL, MODIFY offsite ENUM('none','s3','nfs')")
    database.sql(f"INSERT INTO backup_policies (vm_uuid, keep_yearly, offsite) VALUES ('{WEB}', 2, 'nfs')")
    found = info(database, WEB)["policies"][WEB]
    assert (found["keep_yearly"], found["sources"]["keep_yearly"], found["offsite"]) == (2, "row", "none")
    policy(database, keep_daily=0, keep_weekly=0, keep_monthly=0)
    assert (stored(database)[0]["keep_yearly"], stored(database)[0]["offsite"]) == (2, "nfs")
