# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``playbooks/list.yml``: nodes and a bucket, and what of them is gone."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest

from tests.bed.s3 import S3Server
from tests.integration.engine.shelf import Shelf
from tests.integration.roles.conftest import DEAD, Hypervisor, Play, Storage, nodes


@pytest.fixture
def offsite(bucket: S3Server, storage: Storage) -> dict[str, Any]:
    """The variables of a bucket."""
    return {
        "vmforge_backup_s3_endpoint": bucket.endpoint,
        "vmforge_backup_s3_bucket": bucket.bucket,
        "vmforge_backup_s3_access_key": bucket.access_key,
        "vmforge_backup_s3_secret_key": bucket.secret_key,
        "vmforge_backup_s3_prefix": f"list/{storage.place.name}",
    }


def test_nodes_and_bucket_make_one_list_and_the_bucket_outlives_the_node(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, offsite: dict[str, Any]
) -> None:
    db = hypervisor.db
    made = play_newest("backup.yml", vm=db.name, inventory=nodes("good"), vmforge_backup_offsite="s3", **offsite)
    assert made.code == 0, made.text
    output = storage.place / "list.json"
    run = play_newest("list.yml", inventory=nodes("good"), vmforge_backup_list_output=str(output), **offsite)
    assert run.code == 0, run.text
    [backup] = run.stats["vmforge_backup_list"]["backups"]
    assert (backup["vm_name"], backup["node"], backup["status"]) == (db.name, "good", "ready")
    assert backup["copies"] == ["local", "s3"]
    assert "local+s3" in run.text
    assert json.loads(output.read_text()) == run.stats["vmforge_backup_list"]
    shutil.rmtree(storage.backups / db.uuid)
    run = play_newest("list.yml", inventory=nodes(DEAD, "good"), vm=db.name, **offsite)
    assert run.code == 2
    [backup] = run.stats["vmforge_backup_list"]["backups"]
    assert (backup["node"], backup["copies"], backup["path"]) == ("good", ["s3"], None)
    assert re.search(r"dead could not be listed: .*\bssh\b", run.text, re.IGNORECASE), run.text


@pytest.mark.exhaustive
def test_a_bucket_alone_and_a_copy_that_is_gone(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, bucket: S3Server, offsite: dict[str, Any]
) -> None:
    name = hypervisor.db.name
    made = play_newest("backup.yml", vm=name, vmforge_backup_offsite="s3", **offsite)
    assert made.code == 0, made.text
    elsewhere = storage.place / "elsewhere"
    run = play_newest("list.yml", inventory=nodes(DEAD), **{**offsite, "vmforge_backup_dir": str(elsewhere)})
    assert run.code == 2
    assert [backup["copies"] for backup in run.stats["vmforge_backup_list"]["backups"]] == [["s3"]]
    client = bucket.client()
    for found in client.list_objects_v2(Bucket=bucket.bucket, Prefix=offsite["vmforge_backup_s3_prefix"])["Contents"]:
        client.delete_object(Bucket=bucket.bucket, Key=found["Key"])
    client.close()
    run = play_newest("list.yml", **offsite)
    assert run.code == 0, run.text
    [backup] = run.stats["vmforge_backup_list"]["backups"]
    assert (backup["copies"], backup["s3_key"]) == (["local"], None)
    assert "not in the bucket" in run.text


def test_a_bucket_that_cannot_be_listed_is_an_error_and_the_nodes_are_shown(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, offsite: dict[str, Any]
) -> None:
    Shelf(storage.backups, node="good", vm=hypervisor.db.uuid, name=hypervisor.db.name).days(1)
    run = play_newest("list.yml", **{**offsite, "vmforge_backup_s3_secret_key": "n0t-the-s3cret"})
    assert run.code == 2
    assert [backup["copies"] for backup in run.stats["vmforge_backup_list"]["backups"]] == [["local"]]
    assert [problem["place"] for problem in run.stats["vmforge_backup_list"]["problems"]] == ["S3"]
    assert "n0t-the-s3cret" not in run.text


@pytest.mark.exhaustive
def test_filters_and_an_empty_list(play_newest: Play, hypervisor: Hypervisor) -> None:
    run = play_newest("list.yml", inventory=nodes("good"))
    assert run.code == 0
    assert "There is no backup." in run.text
    run = play_newest("list.yml", inventory=nodes("good"), vmforge_backup_list_status=["redy"])
    assert run.code == 2
    assert "list_status" in run.text
    assert hypervisor.db.name not in run.text
