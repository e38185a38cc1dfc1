# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``.env`` files and variables say about backups, and which of them counts."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._env_set import OPEN_KEYS
from ansible_collections.vmforge.backup.plugins.plugin_utils._env_values import KEYS, env_values, env_variables

DEFAULTS = {
    "BACKUP_DIR": "/var/lib/vmforge/backups",
    "S3_ENDPOINT": "",
    "S3_REGION": "us-east-1",
    "S3_BUCKET": "",
    "S3_ACCESS_KEY": "",
    "S3_USE_PATH_STYLE": "0",
    "S3_SSL": "1",
    "S3_PREFIX": "",
    "BACKUP_OFFSITE": "none",
    "DELETE_LOCAL_AFTER_UPLOAD": "0",
}


def test_the_eleven_keys_are_those_that_the_module_reads_and_the_secret_one() -> None:
    assert [*OPEN_KEYS, "S3_SECRET_KEY"] == [key for key in KEYS if key != "S3_SECRET_KEY"] + ["S3_SECRET_KEY"]
    assert len(KEYS) == 11


def test_where_nobody_says_anything_there_are_defaults() -> None:
    decided = env_values(dict.fromkeys(KEYS), {})
    assert decided == {"values": DEFAULTS, "secrets": {"S3_SECRET_KEY": ""}, "problems": []}


@pytest.mark.parametrize(
    ("wanted", "own", "master", "expected"),
    [
        ("/v", "/o", "/m", "/v"),
        (None, None, "/m", "/m"),
        (None, "/o", None, "/o"),
        (None, "/o", "", "/o"),
        (None, "/o", "/o", "/o"),
    ],
)
def test_variables_come_first_then_the_master_then_the_host(
    wanted: str | None, own: str | None, master: str | None, expected: str
) -> None:
    files = [{} if text is None else {"BACKUP_DIR": text} for text in (own, master)]
    decided = env_values({"BACKUP_DIR": wanted}, *files)
    assert (decided["values"]["BACKUP_DIR"], decided["problems"]) == (expected, [])


def test_a_host_that_says_otherwise_than_the_master_is_refused() -> None:
    [problem] = env_values({}, {"BACKUP_DIR": "/o"}, {"BACKUP_DIR": "/m"})["problems"]
    assert problem == "BACKUP_DIR is /o here and /m on the master: set vmforge_backup_dir for all"


def test_the_two_keys_may_differ() -> None:
    own, master = ({"S3_ACCESS_KEY": f"{who}-key", "S3_SECRET_KEY": f"{who}-secret"} for who in ("own", "master"))
    decided = env_values({}, own, master)
    assert (decided["values"]["S3_ACCESS_KEY"], decided["secrets"], decided["problems"]) == (
        "own-key",
        {"S3_SECRET_KEY": "own-secret"},
        [],
    )
    assert env_values({}, {}, master)["secrets"] == {"S3_SECRET_KEY": "master-secret"}


def test_what_was_only_taken_from_the_own_file_is_no_variable() -> None:
    given = {"BACKUP_DIR": "/o"}
    assert env_values(given, given, {"BACKUP_DIR": "/m"}, ["vmforge_backup_dir"])["problems"]
    assert not env_values(given, given, {"BACKUP_DIR": "/m"})["problems"]


@pytest.mark.parametrize(
    ("wanted", "endpoint", "ssl", "path_style"),
    [
        ({"S3_ENDPOINT": "http://minio:9000/"}, "minio:9000", "0", "1"),
        ({"S3_ENDPOINT": "https://minio", "S3_SSL": False}, "minio", "1", "1"),
        ({"S3_ENDPOINT": "minio:9000", "S3_SSL": False}, "minio:9000", "0", "1"),
        ({"S3_ENDPOINT": "s3.amazonaws.com"}, "s3.amazonaws.com", "1", "0"),
        ({"S3_ENDPOINT": "minio", "S3_USE_PATH_STYLE": False}, "minio", "1", "0"),
    ],
)
def test_the_panel_gets_an_endpoint_as_it_knows_it(
    wanted: dict[str, Any], endpoint: str, ssl: str, path_style: str
) -> None:
    values = env_values(wanted, {})["values"]
    assert (values["S3_ENDPOINT"], values["S3_SSL"], values["S3_USE_PATH_STYLE"]) == (endpoint, ssl, path_style)


def test_values_become_variables() -> None:
    settings = {**DEFAULTS, "S3_SSL": "No", "BACKUP_OFFSITE": "S3", "S3_SECRET_KEY": "x", "APP": "y"}
    assert env_variables(settings) == {
        "vmforge_backup_dir": "/var/lib/vmforge/backups",
        "vmforge_backup_s3_region": "us-east-1",
        "vmforge_backup_s3_secret_key": "x",
        "vmforge_backup_s3_use_path_style": False,
        "vmforge_backup_s3_ssl": False,
        "vmforge_backup_offsite": "s3",
        "vmforge_backup_delete_local_after_upload": False,
    }


@pytest.mark.parametrize(("key", "value"), [("S3_SSL", "maybe"), ("BACKUP_OFFSITE", "nfs")])
def test_a_value_that_nobody_understands_is_named(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is {value} in the .env file"):
        env_variables({key: value})
