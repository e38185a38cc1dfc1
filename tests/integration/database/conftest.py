# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One private server of each kind for all tests here; each test begins with an empty database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.bed.databases import mysql, new_mariadb, old_mariadb
from tests.bed.mariadb import MariaDB, mariadb

_ITS_OWN = ("root", "mysql", "mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema")
Start = Callable[..., AbstractContextManager[MariaDB]]


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(mariadb, id="mariadb"),
        pytest.param(mysql, id="mysql", marks=pytest.mark.exhaustive),
        pytest.param(old_mariadb, id="mariadb-10.5", marks=pytest.mark.exhaustive),
        pytest.param(new_mariadb, id="mariadb-11.8", marks=pytest.mark.exhaustive),
    ],
)
def start_server(request: pytest.FixtureRequest) -> Start:
    """Starts a server of one of the kinds that panels have."""
    start: Start = request.param
    return start


@pytest.fixture(scope="session")
def running_database(start_server: Start) -> Iterator[MariaDB]:
    with start_server(tls=True) as server:
        yield server


@pytest.fixture
def server(running_database: MariaDB) -> MariaDB:
    """With a database that is empty, and without users that other tests made."""
    running_database.reset()
    for row in running_database.sql("SELECT User AS user, Host AS host FROM mysql.user"):
        if row["user"] not in (running_database.admin, *_ITS_OWN):
            running_database.sql(f"DROP USER '{row['user']}'@'{row['host']}'")
    return running_database
