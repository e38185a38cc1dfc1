# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The S3 options: every half-configured or contradictory set is refused by name, and keys stay below the prefix."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3_ARGUMENTS, S3Config, parse_endpoint

KEYS = {"s3_access_key": "AKIA", "s3_secret_key": "hush"}


def config(**options: Any) -> S3Config:
    return S3Config.from_params({"s3_bucket": "backups", **options})


@pytest.mark.parametrize(
    ("endpoint", "ssl", "expected"),
    [
        (None, True, (None, True)),
        ("minio", True, ("https://minio", True)),
        ("minio:9000", True, ("https://minio:9000", True)),
        ("minio:9000", False, ("http://minio:9000", False)),
        ("http://minio:9000", True, ("http://minio:9000", False)),
        ("https://minio:9000/", False, ("https://minio:9000", True)),
        ("HTTPS://MinIO.Example.com", False, ("https://minio.example.com", True)),
        ("[::1]:9000", False, ("http://[::1]:9000", False)),
        ("127.0.0.1:8333", False, ("http://127.0.0.1:8333", False)),
        (" minio:9000 ", True, ("https://minio:9000", True)),
        ("s3.amazonaws.com", True, (None, True)),
        ("https://s3.amazonaws.com", True, (None, True)),
        ("s3.eu-west-1.amazonaws.com", True, ("https://s3.eu-west-1.amazonaws.com", True)),
    ],
)
def test_endpoints(endpoint: str | None, ssl: bool, expected: tuple[str | None, bool]) -> None:
    assert parse_endpoint(endpoint, ssl, "s3_endpoint") == expected


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://minio",
        "minio:port",
        "minio:99999",
        "minio/bucket",
        "https://minio/bucket",
        "https://user:pass@minio",
        "https://",
        "two words",
        "https://minio?x=1",
        "mi\nnio",
        ":9000",
    ],
)
def test_endpoints_that_are_none(endpoint: str) -> None:
    with pytest.raises(InputError, match="s3_endpoint"):
        parse_endpoint(endpoint, True, "s3_endpoint")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"s3_bucket": None}, "s3_bucket is missing"),
        ({"s3_bucket": ""}, "s3_bucket is missing"),
        ({"s3_bucket": "a"}, "s3_bucket"),
        ({"s3_bucket": "a/b/c"}, "s3_bucket"),
        ({"s3_access_key": "AKIA"}, "s3_secret_key is missing"),
        ({"s3_secret_key": "hush"}, "s3_access_key is missing"),
        ({"s3_session_token": "token"}, "s3_access_key is missing"),
        ({**KEYS, "s3_profile": "me"}, "not both"),
        ({"s3_object_lock_mode": "GOVERNANCE"}, "s3_object_lock_retain_until is missing"),
        ({"s3_object_lock_retain_until": "2099-01-01"}, "s3_object_lock_mode is missing"),
        ({"s3_object_lock_mode": "GOVERNANCE", "s3_object_lock_retain_until": "soon"}, "soon"),
        ({"s3_sse_kms_key_id": "k"}, "aws:kms"),
        ({"s3_ca_bundle": "/ca.pem", "s3_validate_certs": False}, "s3_validate_certs"),
        ({"s3_prefix": "a/../b"}, "s3_prefix"),
        ({"s3_prefix": "a//b"}, "s3_prefix"),
    ],
)
def test_half_configured(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        config(**options)
    assert words in caught.value.message
    assert "hush" not in caught.value.message


def test_defaults_of_the_argument_spec_are_a_configuration() -> None:
    defaults = {name: option.get("default") for name, option in S3_ARGUMENTS.items()}
    made = S3Config.from_params({**defaults, "s3_bucket": "backups"})
    assert made == S3Config(bucket="backups")
    assert not S3Config.is_configured(defaults)
    assert S3Config.is_configured({"s3_endpoint": "minio"})


def test_secrets_are_not_shown() -> None:
    shown = repr(config(**KEYS, s3_session_token="token"))
    assert "hush" not in shown
    assert "token" not in shown.replace("session_token", "")
    assert S3_ARGUMENTS["s3_secret_key"]["no_log"]
    assert S3_ARGUMENTS["s3_session_token"]["no_log"]


def test_other_names_of_the_same_server() -> None:
    config = S3Config.from_params(
        {
            "s3_endpoint": "s3.local",
            "s3_bucket": "abc",
            "s3_same_endpoints": ["http://10.0.0.5:9000", "S3.Amazonaws.com"],
        }
    )
    note = {"bucket": "abc", "prefix": "uuid/id"}
    for endpoint in ("https://s3.local", "http://10.0.0.5:9000", None):
        assert config.is_place_of({**note, "endpoint": endpoint}, "uuid", "id")
    for other in ({"endpoint": "http://s3.local"}, {"bucket": "abd"}, {"prefix": "uuid/other"}):
        assert not config.is_place_of({**note, "endpoint": None, **other}, "uuid", "id")


def test_path_style_follows_the_endpoint() -> None:
    assert config(s3_endpoint="minio").path_style
    assert not config().path_style
    assert not config(s3_endpoint="minio", s3_use_path_style=False).path_style
    assert config(s3_use_path_style=True).path_style


def test_lock_times_are_utc() -> None:
    for text in ("2099-01-01", "2099-01-01T00:00:00Z", "2099-01-01T01:00:00+01:00"):
        made = config(s3_object_lock_mode="COMPLIANCE", s3_object_lock_retain_until=text)
        assert made.object_lock_retain_until == datetime(2099, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("part", ["", ".", "..", "a/../b", "/a", "a/", "a//b", "a\nb", "a\x00b", "a\\b", "x" * 1025])
def test_keys_that_are_none(part: str) -> None:
    with pytest.raises(InputError):
        config(s3_prefix="p").key(part)


def test_keys() -> None:
    assert config(s3_prefix="/vmforge/backups/").key("u/i", "vda.qcow2") == "vmforge/backups/u/i/vda.qcow2"
    assert config().key("a") == "a"


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_no_key_leaves_the_prefix(parts: list[str]) -> None:
    made = config(s3_prefix="vmforge/backups")
    try:
        key = made.key(*parts)
    except InputError:
        return
    assert key.startswith("vmforge/backups/")
    assert not {"", ".", ".."} & set(key.split("/"))
    assert key.isprintable() or not any(ord(letter) < 32 for letter in key)


@given(st.text(max_size=40), st.booleans())
def test_any_endpoint_is_a_url_or_refused(text: str, ssl: bool) -> None:
    try:
        url, tls = parse_endpoint(text, ssl, "s3_endpoint")
    except InputError:
        return
    assert url is None or url.startswith("https://" if tls else "http://")
