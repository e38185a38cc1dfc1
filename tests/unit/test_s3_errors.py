# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way in which S3 fails becomes a code and a sentence that says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _s3_errors
from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, S3Error
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config

CONFIG = S3Config(bucket="backups", endpoint="https://minio:9000", access_key="AKIA1234", secret_key="hush-hush")


class FakeClientError(Exception):
    """As botocore's: the answer in ``response``."""

    def __init__(self, code: str, status: int = 400, message: str = "", **more: Any) -> None:
        super().__init__(f"An error occurred ({code}): {message}")
        headers = more.pop("headers", {})
        self.response = {
            "Error": {"Code": code, "Message": message, **more},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
        }


def translated(error: BaseException, config: S3Config = CONFIG) -> S3Error:
    result = _s3_errors.translate(error, "write 'x'", config)
    assert isinstance(result, S3Error)
    assert "'x'" in result.message
    assert "backups" in result.message
    assert "minio" in result.message
    return result


@pytest.mark.parametrize(
    ("code", "status", "expected", "words"),
    [
        ("InvalidAccessKeyId", 403, "s3_credentials", "AKIA…"),
        ("SignatureDoesNotMatch", 403, "s3_credentials", "s3_secret_key"),
        ("ExpiredToken", 400, "s3_credentials", "expired"),
        ("NoSuchBucket", 404, "s3_no_bucket", "s3_bucket"),
        ("AuthorizationHeaderMalformed", 400, "s3_region", "s3_region"),
        ("301", 301, "s3_region", "s3_region"),
        ("RequestTimeTooSkewed", 403, "s3_clock", "NTP"),
        ("AccessDenied", 403, "s3_denied", "docs/s3.md"),
        ("403", 403, "s3_denied", "no right"),
        ("BadDigest", 400, "s3_corrupt", "network"),
        ("NotImplemented", 501, "s3_unsupported", "not offer"),
        ("412", 412, "s3_exists", "already"),
        ("XMinioStorageFull", 507, "s3_full", "full"),
        ("SlowDown", 503, "s3_busy", "later"),
        ("InternalError", 500, "s3", "log"),
        ("Whatever", 418, "s3", "Whatever"),
    ],
)
def test_servers_words(code: str, status: int, expected: str, words: str) -> None:
    error = translated(FakeClientError(code, status))
    assert error.code == expected
    assert words in error.message


def test_the_region_is_named_where_it_is_known() -> None:
    assert "'eu-west-1'" in translated(FakeClientError("AuthorizationHeaderMalformed", Region="eu-west-1")).message
    headers = {"x-amz-bucket-region": "eu-north-1"}
    assert "'eu-north-1'" in translated(FakeClientError("301", 301, headers=headers)).message


def test_the_clocks_error_is_told() -> None:
    headers = {"date": "Sun, 22 Nov 2020 12:00:00 GMT"}
    assert "ahead" in translated(FakeClientError("RequestTimeTooSkewed", 403, headers=headers)).message
    headers = {"date": "not a date"}
    assert "clock is wrong." in translated(FakeClientError("RequestTimeTooSkewed", 403, headers=headers)).message


def test_a_clock_that_rclone_calls_denied() -> None:
    error = FakeClientError("AccessDenied", 400, "The difference between the request time and ours is too large.")
    assert translated(error).code == "s3_clock"


def test_no_secret_and_no_whole_key_in_a_message() -> None:
    message = translated(FakeClientError("Odd", 400, "the secret hush-hush of AKIA1234")).message
    assert "hush-hush" not in message
    assert "********" in message
    assert "AKIA1234" not in translated(FakeClientError("InvalidAccessKeyId", 403)).message


def test_a_web_servers_page() -> None:
    page = {"headers": {"content-type": "text/html; charset=utf-8"}}
    assert translated(FakeClientError("500", 500, **page)).code == "s3_protocol"
    assert translated(FakeClientError("404", 404, **page)).code == "s3_protocol"
    assert translated(FakeClientError("502", 502, **page)).code == "s3"


def test_errors_of_ours_pass() -> None:
    error = NotFoundError("gone")
    assert _s3_errors.translate(error, "read", CONFIG) is error


def named(name: str, text: str, base: type[Exception] = Exception, **attributes: Any) -> Exception:
    error = type(name, (base,), {})(text)
    error.__dict__.update(attributes)
    return error


@pytest.mark.parametrize(
    ("name", "text", "expected", "words"),
    [
        ("NoCredentialsError", "Unable to locate credentials", "s3_credentials", "s3_profile"),
        ("ProfileNotFound", "The profile x", "s3_credentials", "s3_profile"),
        ("ConnectTimeoutError", "Connect timeout", "s3_unreachable", "firewall"),
        ("ReadTimeoutError", "Read timeout", "s3_timeout", "silent"),
        ("EndpointConnectionError", "Connection refused", "s3_unreachable", "refused"),
        ("EndpointConnectionError", "Name or service not known", "s3_dns", "DNS"),
        ("EndpointConnectionError", "No route to host", "s3_unreachable", "route"),
        ("SSLError", "CERTIFICATE_VERIFY_FAILED", "s3_tls", "s3_ca_bundle"),
        ("SSLError", "WRONG_VERSION_NUMBER", "s3_protocol", "s3_ssl"),
        ("SSLError", "handshake failure", "s3_tls", "s3_ca_bundle"),
        ("ResponseParserError", "no XML", "s3_protocol", "no S3 server"),
        ("HTTPClientError", "BadStatusLine", "s3_protocol", "HTTP"),
        ("PaginationError", "again", "s3_protocol", "circles"),
        ("ProtocolError", "Connection broken", "s3_unreachable", "cut"),
    ],
)
def test_local_failures(name: str, text: str, expected: str, words: str) -> None:
    error = translated(named(name, text))
    assert error.code == expected
    assert words in error.message


def test_a_subclass_is_known_by_its_parent() -> None:
    parent = type("EndpointConnectionError", (Exception,), {})
    assert translated(type("Special", (parent,), {})("Connection refused")).code == "s3_unreachable"


def test_what_missing_means() -> None:
    assert _s3_errors.is_missing(FakeClientError("NoSuchKey", 404))
    assert _s3_errors.is_missing(FakeClientError("404", 404))
    assert not _s3_errors.is_missing(FakeClientError("NoSuchBucket", 404))
    assert not _s3_errors.is_missing(FakeClientError("403", 403))
    assert not _s3_errors.is_missing(OSError("x"))
