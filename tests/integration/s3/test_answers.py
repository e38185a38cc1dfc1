# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strange answers: each becomes a known code or is refused, and none passes for an empty store."""

from __future__ import annotations

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error
from tests.bed.s3 import S3Server
from tests.bed.s3_canned import canned, xml_error

from .conftest import MakeStore, failure


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
