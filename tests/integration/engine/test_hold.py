# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding and freeing a backup, here and in S3."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, NotFoundError, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._hold import HOLD_ARGUMENTS, hold_backup
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from tests.bed.s3 import S3Server

from .shelf import Shelf, results

LATER = (datetime.now(timezone.utc) + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """One node."""
    return Shelf(tmp_path / "backups")


@pytest.fixture
def offsite(tmp_path: Path, server: S3Server) -> Shelf:
    """One node with a place in S3 of its own."""
    prefix = f"h/{uuid.uuid4().hex[:8]}"
    return Shelf(tmp_path / "backups", s3={"offsite": "s3", **server.params(s3_prefix=prefix)})


def hold(shelf: Shelf, backup_id: str, *, check_mode: bool = False, **more: Any) -> Outcome:
    params = {name: spec.get("default") for name, spec in HOLD_ARGUMENTS.items()}
    params.update(vm=shelf.vm, id=backup_id, node=shelf.node, backup_dir=str(shelf.path), reason="audit 7", **shelf.s3)
    params.update(more)
    return hold_backup(Request(params, check_mode=check_mode))


def held(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["id"] for entry in entries if entry["hold"] is not None]


def test_hold_twice_change_and_free(shelf: Shelf) -> None:
    ids = shelf.days(3)
    planned = hold(shelf, ids[1], check_mode=True)
    assert planned.changed
    assert held(shelf.listing()) == []
    outcome = hold(shelf, ids[1])
    assert outcome.changed
    assert planned.diff is not None
    assert "audit 7" in planned.diff["after"]
    assert held(shelf.listing()) == [ids[1]]
    assert not hold(shelf, ids[1]).changed
    since = outcome.values["backup"]["hold"]["since"]
    longer = hold(shelf, ids[1], until=LATER, by="me")
    assert longer.changed
    assert longer.values["backup"]["hold"] == {"reason": "audit 7", "by": "me", "since": since, "until": LATER}
    assert hold(shelf, ids[1], state="absent", check_mode=True).changed
    assert held(shelf.listing()) == [ids[1]]
    assert hold(shelf, ids[1], state="absent").changed
    assert held(shelf.listing()) == []
    assert not hold(shelf, ids[1], state="absent").changed


def test_the_latest_by_the_name_that_backups_remember(shelf: Shelf) -> None:
    ids = shelf.days(3)
    assert hold(shelf, "latest", vm="web1").values["backup"]["id"] == ids[0]
    other = Shelf(shelf.path)
    other.days(1)
    with pytest.raises(InputError, match=other.vm):
        hold(shelf, "latest", vm="web1")


def test_nothing_deletes_what_is_held(shelf: Shelf) -> None:
    ids = shelf.days(9)
    hold(shelf, ids[8])
    assert results(shelf.prune())[ids[8]] == "kept"
    named = shelf.prune(vm=[shelf.vm], id=[ids[8]])
    assert "audit 7" in str(named.failure)
    assert shelf.ids() == [*ids[:7], ids[8]]
    hold(shelf, ids[8], state="absent")
    assert results(shelf.prune())[ids[8]] == "deleted"


@pytest.mark.parametrize("drop_local", [False, True])
def test_a_copy_in_s3_is_held_too(offsite: Shelf, drop_local: bool) -> None:
    [backup_id] = offsite.days(1)
    offsite.upload(backup_id, drop_local=drop_local)
    with pytest.raises(InputError, match="S3 options"):
        hold(offsite, backup_id, offsite="none")
    assert hold(offsite, backup_id).values["backup"]["copies"] == ["local", "s3"]
    assert held(offsite.listing()) == held(offsite.bucket()) == [backup_id]
    assert not hold(offsite, backup_id).changed
    (offsite.path / offsite.vm / backup_id / "hold.json").unlink()
    assert hold(offsite, backup_id).changed
    assert hold(offsite, backup_id, state="absent").changed
    assert held(offsite.listing()) == held(offsite.bucket()) == []


def test_a_hold_goes_along_with_a_later_upload(offsite: Shelf) -> None:
    [backup_id] = offsite.days(1)
    hold(offsite, backup_id, offsite="none")
    offsite.upload(backup_id, drop_local=False)
    assert held(offsite.bucket()) == [backup_id]


def test_with_keys_that_may_only_write(offsite: Shelf, server: S3Server) -> None:
    assert server.write_only is not None
    ids = offsite.days(9)
    offsite.upload(*ids)
    keys = {"s3_access_key": server.write_only.access_key, "s3_secret_key": server.write_only.secret_key}
    hold(offsite, ids[8], **keys)
    assert held(offsite.bucket()) == [ids[8]]
    assert not hold(offsite, ids[8], **keys).changed
    assert hold(offsite, ids[8], state="absent", **keys).changed
    assert not hold(offsite, ids[8], state="absent").changed
    assert results(offsite.prune())[ids[8]] == "deleted"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"id": "20200101T000000Z"}, NotFoundError),
        ({"id": "yesterday"}, InputError),
        ({"reason": " "}, InputError),
        ({"until": "soon"}, InputError),
        ({"until": "2020-01-01"}, InputError),
        ({"node": "node2"}, InputError),
    ],
)
def test_bad_input_touches_nothing(shelf: Shelf, wrong: dict[str, str], error: type[VMForgeError]) -> None:
    [backup_id] = shelf.days(1)
    with pytest.raises(error):
        hold(shelf, **{"backup_id": wrong.pop("id", backup_id), **wrong})
    assert held(shelf.listing()) == []


@pytest.mark.parametrize("until", ["2099-01-31", "2099-01-31T00:00:00", "2099-01-31T01:00:00+01:00"])
def test_a_time_without_a_zone_is_utc(shelf: Shelf, until: str) -> None:
    [backup_id] = shelf.days(1)
    assert hold(shelf, backup_id, until=until).values["backup"]["hold"]["until"] == "2099-01-31T00:00:00Z"
