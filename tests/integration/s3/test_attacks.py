# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input, bad networks and bad servers: every one ends with a message that names the thing and holds no secret."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.server
import os
import signal
import socket
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import botocore.auth
import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError, S3Error, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from tests.bed.s3 import Keys, S3Server, rclone
from tests.bed.s3_proxy import cutting_proxy, tls_proxy

from .conftest import MakeStore

MIB = 1024 * 1024


def failure(store: S3Store, config_secret: str | None = None) -> S3Error:
    """What each operation fails with: always the same code, never with the secret."""
    seen = []
    key = store.config.key("x")
    for act in (
        lambda: store.put(key, b"x"),
        lambda: store.get(key, max_size=1),
        lambda: store.head(key),
        lambda: store.list(""),
        lambda: store.multipart(key),
    ):
        with pytest.raises(VMForgeError) as caught:
            act()
        seen.append(caught.value)
    for error in seen:
        assert (store.config.secret_key or "?") not in error.message
        assert config_secret is None or config_secret not in error.message
    assert len({error.code for error in seen}) == 1, [error.message for error in seen]
    assert isinstance(seen[0], S3Error)
    return seen[0]


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


def test_a_connection_cut_in_the_middle_of_a_part_is_retried(server: S3Server, make_store: MakeStore) -> None:
    data = os.urandom(16 * MIB)
    with cutting_proxy(server.port) as proxy:
        store = make_store(server, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
        upload = store.multipart(store.config.key("cut"))
        proxy.cut(after=5 * MIB, times=2)
        upload.upload_part(1, memoryview(data), sha256=hashlib.sha256(data).digest())
        assert proxy.was_cut == 2
        upload.complete()
        assert store.get(upload.key, max_size=len(data)) == data


@pytest.mark.usefixtures("no_waiting")
def test_a_dead_network_ends_an_upload_and_leaves_no_part(
    server: S3Server, make_store: MakeStore, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(23 * MIB))
    with cutting_proxy(server.port) as proxy:
        store = make_store(server, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
        assert store.checksum
        proxy.cut(after=8 * MIB, times=11)
        with pytest.raises(S3Error) as caught:
            store.upload_file(store.config.key("dead"), str(source), part_size=5 * MIB, parallel=1)
        assert caught.value.code == "s3_unreachable"
        proxy.heal()
        assert store.list_multiparts(store.config.prefix) == []
        assert store.list(store.config.prefix) == []


def test_a_lost_answer_to_the_completion_is_found_out(
    seaweed: S3Server, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(seaweed)
    upload = store.multipart(store.config.key("lost"))
    upload.upload_part(1, b"x", sha256=hashlib.sha256(b"x").digest())
    complete = upload._client.complete_multipart_upload

    def twice(**request: Any) -> Any:
        complete(**request)
        return complete(**dict(request, UploadId=request["UploadId"] + "-unknown"))

    monkeypatch.setattr(upload._client, "complete_multipart_upload", twice)
    assert upload.complete().size == 1


def test_a_download_that_is_cut_goes_on(seaweed: S3Server, make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(seaweed)
    key = store.config.key("down")
    data = os.urandom(12 * MIB)
    (tmp_path / "source").write_bytes(data)
    store.upload_file(key, str(tmp_path / "source"), part_size=5 * MIB)
    with cutting_proxy(seaweed.port) as proxy:
        slow = make_store(seaweed, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
        slow.head(key)
        proxy.cut(after=1, times=3)
        slow.download_file(key, str(tmp_path / "copy"), part_size=5 * MIB)
    assert (tmp_path / "copy").read_bytes() == data


def test_a_server_killed_and_started_again_in_the_middle(seaweed: S3Server, make_store: MakeStore) -> None:
    store = make_store(seaweed)
    upload = store.multipart(store.config.key("restart"))
    data = os.urandom(6 * MIB)
    upload.upload_part(2, b"end", sha256=hashlib.sha256(b"end").digest())
    seaweed.stop(9)
    starter = threading.Thread(target=seaweed.start)
    starter.start()
    upload.upload_part(1, data, sha256=hashlib.sha256(data).digest())
    starter.join()
    assert upload.complete().size == len(data) + 3
    assert store.get(upload.key, max_size=7 * MIB) == data + b"end"


def test_a_signal_in_the_middle_of_a_request_is_not_taken_for_the_network(
    simple: S3Server, make_store: MakeStore
) -> None:
    def cancel(*_arguments: Any) -> None:
        raise CancelledError("asked to stop")

    previous = signal.signal(signal.SIGALRM, cancel)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = make_store(simple, s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            with pytest.raises(CancelledError, match="asked to stop"):
                store.head("x")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


Answer = Callable[[http.server.BaseHTTPRequestHandler], tuple[int, dict[str, str], str]]


@contextlib.contextmanager
def canned(answer: Answer) -> Iterator[str]:
    """A server with one answer to everything: what no server here can be made to say."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = answer(self)
            data = b"" if self.command == "HEAD" else body.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data)), "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: Any) -> None:
            pass

    for verb in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{verb}", Handler.serve)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def xml_error(code: str, message: str = "", more: str = "") -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (400, xml_error("AuthorizationHeaderMalformed", "x", "<Region>eu-west-1</Region>"), "s3_region", "eu-west-1"),
        (301, xml_error("PermanentRedirect", "x"), "s3_region", "s3_region"),
        (403, xml_error("RequestTimeTooSkewed", "x"), "s3_clock", "clock"),
        (400, xml_error("ExpiredToken", "x"), "s3_credentials", "expired"),
        (501, xml_error("NotImplemented", "x"), "s3_unsupported", "not offer"),
    ],
)
@pytest.mark.usefixtures("no_waiting")
def test_what_servers_say(
    make_store: MakeStore, simple: S3Server, status: int, body: str, code: str, words: str
) -> None:
    with canned(lambda _request: (status, {"Content-Type": "application/xml"}, body)) as endpoint:
        store = make_store(simple, s3_endpoint=endpoint)
        with pytest.raises(S3Error) as caught:
            store.list("")
    assert caught.value.code == code
    assert words in caught.value.message


@pytest.mark.usefixtures("no_waiting")
def test_no_s3_server_at_all(make_store: MakeStore, simple: S3Server) -> None:
    page = "<html><body>It works!<p></body></html>"
    with canned(lambda _request: (200, {"Content-Type": "text/html"}, page)) as endpoint:
        store = make_store(simple, s3_endpoint=endpoint)
        with pytest.raises(S3Error) as caught:
            store.list("")
    assert caught.value.code == "s3_protocol"


def test_a_web_server_that_takes_anything(make_store: MakeStore, simple: S3Server) -> None:
    with canned(lambda _request: (200, {"Content-Type": "text/html"}, "<html/>")) as endpoint:
        store = make_store(simple, s3_endpoint=endpoint)
        for look in (lambda: store.head("x"), lambda: store.get("x", max_size=100), lambda: store.list("")):
            with pytest.raises(S3Error) as caught:
                look()
            assert caught.value.code == "s3_protocol"


@pytest.mark.usefixtures("no_waiting")
def test_a_web_server_that_redirects(make_store: MakeStore, simple: S3Server) -> None:
    with canned(lambda _request: (301, {"Location": "https://127.0.0.1/"}, "moved")) as endpoint:
        error = failure(make_store(simple, s3_endpoint=endpoint))
    assert error.code in ("s3_region", "s3_protocol")


@pytest.mark.usefixtures("no_waiting")
def test_an_empty_answer_is_no_empty_listing(make_store: MakeStore, simple: S3Server) -> None:
    with canned(lambda _request: (200, {}, "")) as endpoint:
        store = make_store(simple, s3_endpoint=endpoint)
        for listing in (store.list, store.list_directories, store.list_multiparts):
            with pytest.raises(S3Error):
                listing("")


def test_a_listing_that_ends_in_the_middle_is_an_error(make_store: MakeStore, simple: S3Server) -> None:
    body = "<ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated></ListBucketResult>"
    with canned(lambda _request: (200, {}, body)) as endpoint:
        store = make_store(simple, s3_endpoint=endpoint)
        with pytest.raises(S3Error, match="ends in the middle"):
            store.list("")


def test_a_secret_that_a_server_sends_back_is_struck(make_store: MakeStore, simple: S3Server) -> None:
    body = xml_error("SomethingElse", f"your secret is {simple.secret_key}!")
    with canned(lambda _request: (400, {}, body)) as endpoint:
        store = make_store(simple, s3_endpoint=endpoint)
        with pytest.raises(S3Error) as caught:
            store.list("")
    assert simple.secret_key not in caught.value.message
    assert "your secret is" in caught.value.message
