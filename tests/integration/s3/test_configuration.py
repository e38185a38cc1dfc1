# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wrong key, bucket, name, port, protocol, certificate or clock: one code, a message that names it, and no secret."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import types
from pathlib import Path

import botocore.auth
import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from tests.bed.s3 import Keys, S3Server, rclone
from tests.bed.s3_proxy import tls_proxy

from .conftest import MakeStore, failure

MIB = 1024 * 1024


def test_wrong_secret(server: S3Server, make_store: MakeStore) -> None:
    error = failure(make_store(server, Keys(server.access_key, "not-the-secret-key")))
    assert error.code == "s3_credentials"
    assert "s3_secret_key" in error.message


def test_unknown_key(seaweed: S3Server, make_store: MakeStore) -> None:
    error = failure(make_store(seaweed, Keys("NOBODY", "whatever-secret")))
    assert error.code == "s3_credentials"
    assert "NOBO…" in error.message


def test_missing_bucket(simple: S3Server, make_store: MakeStore) -> None:
    error = failure(make_store(simple, s3_bucket="no-such-bucket"))
    assert error.code == "s3_no_bucket"
    assert "no-such-bucket" in error.message


def test_missing_bucket_is_no_empty_one(seaweed: S3Server, make_store: MakeStore) -> None:
    # SeaweedFS makes a missing bucket when something is written, but not for these.
    store = make_store(seaweed, s3_bucket="no-such-bucket")
    for look in (lambda: store.head("x"), lambda: store.list(""), lambda: store.get("x", max_size=1)):
        with pytest.raises(S3Error) as caught:
            look()
        assert caught.value.code == "s3_no_bucket"


@pytest.mark.usefixtures("no_waiting")
def test_no_upload_ever(make_store: MakeStore, tmp_path: Path) -> None:
    with rclone(tmp_path) as fresh:
        store = make_store(fresh)
        assert store.list_multiparts("") == []
        assert store.abort_multiparts("") == []


@pytest.mark.usefixtures("no_waiting")
def test_nothing_listens(make_store: MakeStore, simple: S3Server) -> None:
    error = failure(make_store(simple, s3_endpoint="http://127.0.0.1:1"))
    assert error.code == "s3_unreachable"
    assert "refused" in error.message


@pytest.mark.usefixtures("no_waiting")
def test_unknown_host(make_store: MakeStore, simple: S3Server) -> None:
    error = failure(make_store(simple, s3_endpoint="http://nowhere.invalid"))
    assert error.code == "s3_dns"
    assert "nowhere.invalid" in error.message


@pytest.mark.usefixtures("no_waiting")
def test_https_where_http_is_spoken(server: S3Server, make_store: MakeStore) -> None:
    error = failure(make_store(server, s3_endpoint=server.endpoint.replace("http:", "https:")))
    assert error.code == "s3_protocol"
    assert "s3_ssl" in error.message


@pytest.mark.usefixtures("no_waiting")
def test_http_where_https_is_spoken(simple: S3Server, make_store: MakeStore, tmp_path: Path) -> None:
    with tls_proxy(simple.port, tmp_path) as (proxy, _certificate):
        error = failure(make_store(simple, s3_endpoint=f"http://127.0.0.1:{proxy.port}"))
    assert error.code == "s3_protocol"
    assert "s3_ssl" in error.message


@pytest.mark.usefixtures("no_waiting")
def test_http_to_a_server_that_says_so(simple: S3Server, make_store: MakeStore, tmp_path: Path) -> None:
    with tls_proxy(simple.port, tmp_path):
        pass
    options = ("--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem"))
    with rclone(tmp_path / "tls", *options) as secure:
        assert failure(make_store(secure)).code == "s3_protocol"
        endpoint = secure.endpoint.replace("http:", "https:")
        store = make_store(secure, s3_endpoint=endpoint, s3_ca_bundle=str(tmp_path / "cert.pem"))
        store.put(store.config.key("x"), b"x")
        assert store.get(store.config.key("x"), max_size=1) == b"x"


@pytest.mark.usefixtures("no_waiting")
def test_untrusted_certificate(server: S3Server, make_store: MakeStore, tmp_path: Path) -> None:
    with tls_proxy(server.port, tmp_path) as (proxy, certificate):
        endpoint = f"https://127.0.0.1:{proxy.port}"
        error = failure(make_store(server, s3_endpoint=endpoint))
        assert error.code == "s3_tls"
        assert "s3_ca_bundle" in error.message
        for trust in ({"s3_ca_bundle": str(certificate)}, {"s3_validate_certs": False}):
            store = make_store(server, s3_endpoint=f"127.0.0.1:{proxy.port}", **trust)
            key = store.config.key("tls")
            data = os.urandom(6 * MIB)
            upload = store.multipart(key)
            upload.upload_part(1, bytearray(data), sha256=hashlib.sha256(data).digest())
            upload.complete()
            assert store.get(key, max_size=len(data)) == data
        unreadable = failure(make_store(server, s3_endpoint=endpoint, s3_ca_bundle=str(tmp_path / "missing.pem")))
        assert unreadable.code == "s3_tls"
        assert "missing.pem" in unreadable.message


@pytest.mark.parametrize("hours", [-3, 3])
def test_wrong_clock(server: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    class Shifted(datetime.datetime):
        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) + datetime.timedelta(hours=hours)

    # botocore's way of asking for the time changed over the years.
    if hasattr(botocore.auth, "get_current_datetime"):
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_more: Shifted.utcnow())
    else:
        monkeypatch.setattr(botocore.auth, "datetime", types.SimpleNamespace(datetime=Shifted))
    error = failure(make_store(server))
    assert error.code == "s3_clock"
    assert "clock" in error.message


@pytest.mark.usefixtures("no_waiting")
def test_a_proxy_that_is_not_there(simple: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    assert failure(make_store(simple)).code == "s3_unreachable"


def test_the_hosts_own_profiles_do_not_interfere(
    simple: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\nregion = mars\ns3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "there-is-none")
    store = make_store(simple)
    store.put(store.config.key("x"), b"x")


def test_profiles_and_environment_are_used_without_keys(
    seaweed: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str
) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[backup]\naws_access_key_id = {seaweed.access_key}\naws_secret_access_key = {seaweed.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    place = {"s3_endpoint": seaweed.endpoint, "s3_bucket": seaweed.bucket, "s3_prefix": prefix}
    with contextlib.closing(S3Store(S3Config.from_params({**place, "s3_profile": "backup"}))) as store:
        store.put(store.config.key("x"), b"x")
    with pytest.raises(S3Error, match="s3_profile") as caught:
        S3Store(S3Config.from_params({**place, "s3_profile": "other"}))
    assert caught.value.code == "s3_credentials"
    with contextlib.closing(S3Store(S3Config.from_params(place))) as store:
        assert failure(store).code == "s3_credentials"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    with contextlib.closing(S3Store(S3Config.from_params(place))) as store:
        store.put(store.config.key("x"), b"x")
