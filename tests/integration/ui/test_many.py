# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""More machines and backups than a page shows: how many questions it asks. ``make bench`` tells how long it takes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import pytest

from tests.bed.history import fill, uuid_of
from tests.bed.mariadb import DATABASE
from tests.integration.ui.conftest import PASSWORD, URL, Bed
from vmforge_backup_ui import app as pages
from vmforge_backup_ui.auth import hash_password
from vmforge_backup_ui.config import WebConfig
from vmforge_backup_ui.reader import DatabaseReader, open_database


@pytest.fixture(scope="module")
def full(bed: Bed) -> Bed:
    """Machines for two pages, one of them with backups for two."""
    fill(bed.server, [60, *([1] * 55)], gone=2)
    return bed


def test_a_page_asks_the_same_whatever_there_is(full: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DatabaseReader] = []

    @contextlib.contextmanager
    def watched(settings: Mapping[str, Any]) -> Iterator[DatabaseReader]:
        with open_database(settings) as reader:
            seen.append(reader)
            yield reader

    monkeypatch.setattr(pages, "open_database", watched)
    login = {"db_host": "127.0.0.1", "db_port": full.server.port, "db_name": DATABASE}
    config = WebConfig(
        runner=str(full.place / "runner.sock"),
        audit_log=str(full.place / "many.log"),
        secure=False,
        database={**login, "db_user": "ui", "db_password": "u"},
        operators=["op@example.com"],
        admin={"name": "admin", "password_hash": hash_password(PASSWORD)},
    )
    client = pages.create_app(config).test_client()
    token = re.search('name="csrf_token" value="([^"]+)"', client.get(f"{URL}/sign-in").text)
    assert token
    form = {"csrf_token": token[1], "name": "op@example.com", "password": PASSWORD}
    assert client.post(f"{URL}/sign-in", data=form).status_code == 303
    for name, path, most in (
        ("machines", "/", 6),
        ("stored", "/stored", 5),
        ("search", "/?q=vm1&sort=age", 6),
        ("machine", f"/vms/{uuid_of(0)}", 6),
        ("its last page", f"/vms/{uuid_of(0)}?page=2", 5),
        ("policy", f"/vms/{uuid_of(0)}/policy", 6),
    ):
        seen.clear()
        assert client.get(URL + path).status_code == 200
        assert [reader.queries <= most for reader in seen] == [True], (name, seen[0].queries)


def test_what_is_gone_counts_until_it_went(full: Bed) -> None:
    login = {"db_host": "127.0.0.1", "db_port": full.server.port, "db_name": DATABASE}
    known = "SELECT SUM(size_bytes) AS size FROM backups WHERE status = '{}'"
    [ready], [gone] = (full.server.sql(known.format(status)) for status in ("ready", "deleted"))
    with open_database({**login, "db_user": "ui", "db_password": "u"}) as reader:
        for since, counted in ((date(2000, 1, 1), gone["size"]), (date(2999, 1, 1), 0)):
            sizes = [size for _day, _storage, size in reader.growth(since)]
            assert (sum(sizes), sum(size for size in sizes if size < 0)) == (ready["size"], -counted)


def test_the_pages_cannot_write_or_read_more(full: Bed) -> None:
    with contextlib.closing(full.server.connect(user="ui", password="u")) as connection, connection.cursor() as cursor:
        for statement in (
            "UPDATE backups SET status = 'deleted'",
            "DELETE FROM backup_policies",
            "UPDATE users SET failed_logins = 0",
            "SELECT api_token FROM users",
            "SELECT token FROM nodes",
        ):
            with pytest.raises(Exception, match="denied"):
                cursor.execute(statement)
