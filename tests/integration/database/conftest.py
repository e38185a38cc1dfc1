# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One private MariaDB for all tests here; each begins with an empty database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bed.mariadb import MariaDB, mariadb


@pytest.fixture(scope="session")
def running_database() -> Iterator[MariaDB]:
    with mariadb(tls=True) as server:
        yield server


@pytest.fixture
def server(running_database: MariaDB) -> MariaDB:
    """With a database that is empty."""
    running_database.reset()
    return running_database
