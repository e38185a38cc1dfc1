# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""botocore's exceptions, one by one, as errors that an operator can act on. No secret is ever part of a message."""

from __future__ import annotations

import socket
import ssl
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Callable
from urllib.parse import urlsplit

from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config

DENIED = "s3_denied"
LOCKED = "s3_locked"
EXISTS = "s3_exists"
CORRUPT = "s3_corrupt"
UNSUPPORTED = "s3_unsupported"
PROTOCOL = "s3_protocol"
NO_S3 = "What answers there is no S3 server. Check s3_endpoint and its port."

# The server's error code -> ours and what to do. The first sentence of the message is always the server's words.
_SERVER: dict[str, tuple[str, str]] = {
    "InvalidAccessKeyId": ("s3_credentials", "The server does not know the access key {key_id}. Check s3_access_key."),
    "SignatureDoesNotMatch": (
        "s3_credentials",
        "The secret key does not belong to the access key {key_id}. Check s3_secret_key, and s3_region.",
    ),
    "ExpiredToken": ("s3_credentials", "The session token has expired. Get new temporary credentials."),
    "InvalidToken": ("s3_credentials", "The session token does not fit the keys. Check s3_session_token."),
    "NoSuchBucket": ("s3_no_bucket", "The bucket does not exist there. Create it, or check s3_bucket and s3_endpoint."),
    "AuthorizationHeaderMalformed": ("s3_region", "The bucket lies in another region{region}. Check s3_region."),
    "PermanentRedirect": ("s3_region", "The bucket lies in another region{region}. Check s3_region and s3_endpoint."),
    "TemporaryRedirect": ("s3_region", "The bucket answers elsewhere{region}. Check s3_region and s3_endpoint."),
    "IllegalLocationConstraintException": ("s3_region", "The bucket lies in another region{region}. Check s3_region."),
    "RequestTimeTooSkewed": ("s3_clock", "This host's clock is wrong{skew}. Set it (NTP) and try again."),
    "AccessDenied": (DENIED, "The access key {key_id} has no right to do this. See the policies in docs/s3.md."),
    "AllAccessDisabled": (DENIED, "All access to the bucket is disabled."),
    "InvalidStorageClass": ("s3_option", "The server does not know that storage class. Check s3_storage_class."),
    "InvalidBucketName": ("s3_no_bucket", "The server does not take that bucket's name. Check s3_bucket."),
    "NotImplemented": (UNSUPPORTED, "The server does not offer this function."),
    "MethodNotAllowed": (UNSUPPORTED, "The server does not offer this function."),
    "PreconditionFailed": (EXISTS, "Something is there already, or it changed meanwhile."),
    "BadDigest": (CORRUPT, "The data changed on its way to the server. If it happens again, suspect the network."),
    "InvalidDigest": (CORRUPT, "The data changed on its way to the server. If it happens again, suspect the network."),
    "QuotaExceeded": ("s3_full", "The bucket's quota is used up."),
    "XMinioStorageFull": ("s3_full", "The server's disks are full."),
    "SlowDown": ("s3_busy", "The server asks to slow down and still did after several attempts. Try again later."),
}
_BY_STATUS = {301: "PermanentRedirect", 403: "AccessDenied", 405: "MethodNotAllowed", 412: "PreconditionFailed"}
_BY_STATUS.update({501: "NotImplemented"})
CREDENTIAL_CODES = frozenset(code for code, (ours, _hint) in _SERVER.items() if ours in ("s3_credentials", "s3_clock"))

# Exceptions before any answer, by class name: botocore's classes cannot be imported where boto3 is missing.
_LOCAL: dict[str, tuple[str, str]] = {
    "NoCredentialsError": (
        "s3_credentials",
        "No credentials were found. Set s3_access_key and s3_secret_key, or s3_profile, or give this host a role.",
    ),
    "PartialCredentialsError": ("s3_credentials", "The credentials that were found on this host are incomplete."),
    "CredentialRetrievalError": ("s3_credentials", "The credentials could not be fetched. Check s3_profile."),
    "ProfileNotFound": ("s3_credentials", "The profile does not exist on this host. Check s3_profile."),
    "ConnectTimeoutError": ("s3_unreachable", "Nothing answers there in time. Check s3_endpoint and the firewall."),
    "ReadTimeoutError": ("s3_timeout", "The server went silent in the middle. Check the network and the server."),
    "ProxyConnectionError": ("s3_unreachable", "The proxy could not be reached. Check HTTPS_PROXY and NO_PROXY."),
    "ConnectionClosedError": ("s3_unreachable", "The connection was cut, again after several attempts."),
    "IncompleteReadError": ("s3_unreachable", "The connection was cut in the middle of an answer."),
    "ResponseStreamingError": ("s3_unreachable", "The connection was cut in the middle of an answer."),
    "ProtocolError": ("s3_unreachable", "The connection was cut in the middle of an answer."),
    "ResponseParserError": (PROTOCOL, NO_S3),
    "PaginationError": (PROTOCOL, "The server's listing goes in circles and cannot be trusted."),
}
_NAME_FAILURES = ("NameResolutionError", "Name or service not known", "name resolution", "nodename nor servname")
_PLAIN_ON_TLS = "That port speaks TLS, but s3_ssl is off. Set s3_ssl to true, or write https:// in s3_endpoint."
_TLS_ON_PLAIN = "That port does not speak TLS. Set s3_ssl to false, or write http:// in s3_endpoint."


def error_code(error: BaseException) -> str:
    """The server's error code, or a word for its bare HTTP status (HEAD has no body to carry a code); '' for others."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    said = response.get("Error", {})
    code = str(said.get("Code", ""))
    if code == "AccessDenied" and "request time" in str(said.get("Message", "")):
        # rclone gives a wrong clock one code when it is ahead and the other when it is behind.
        return "RequestTimeTooSkewed"
    return _BY_STATUS.get(http_status(error), code) if not code or code.isdigit() else code


def http_status(error: BaseException) -> int:
    """The HTTP status that came with the error, or 0."""
    response = getattr(error, "response", None)
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(response, dict) else 0


def is_missing(error: BaseException) -> bool:
    """Whether the server says that the object, version or upload is not there (and not the bucket)."""
    return error_code(error) in ("NoSuchKey", "NoSuchVersion", "NoSuchUpload") or (
        http_status(error) == 404 and error_code(error) in ("", "404", "NotFound")
    )


def is_denied(error: BaseException) -> bool:
    """Whether the server refuses for want of rights."""
    return error_code(error) in ("AccessDenied", "AllAccessDisabled")


def is_unsupported(error: BaseException) -> bool:
    """Whether the server does not have the function at all."""
    return error_code(error) in ("NotImplemented", "MethodNotAllowed")


def translate(error: BaseException, action: str, config: S3Config) -> VMForgeError:
    """Turn what botocore raised into an error of ours.

    Args:
        error: An exception of botocore, urllib3 or the socket layer; one of ours is returned as it is.
        action: What was tried, on which key: ``upload part 3 of 'a/vda.qcow2'``.
        config: Names the place; its secrets are struck from the message.
    """
    if isinstance(error, VMForgeError):
        return error
    code, hint = _explain(error, config)
    said = _said(error)
    message = f"Cannot {action} in {config.where}: {said}{' ' if said else ''}{hint}".strip()
    return S3Error(scrub(message, config), code=code)


def scrub(text: str, config: S3Config) -> str:
    """The text without any secret of the configuration."""
    for secret in (config.secret_key, config.session_token):
        if secret:
            text = text.replace(secret, "********")
    return text


def speaks_tls(host: str, port: int) -> bool:
    """Whether a TLS handshake succeeds there; no certificate is checked and nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=5) as raw, context.wrap_socket(raw, server_hostname=host):
            return True
    except (OSError, ValueError):
        return False


def _explain(error: BaseException, config: S3Config) -> tuple[str, str]:
    code = error_code(error)
    if code in _SERVER:
        ours, hint = _SERVER[code]
        return ours, hint.format(key_id=_key_id(config), region=_region(error), skew=_skew(error))
    for name in (kind.__name__ for kind in type(error).__mro__):
        special = _SPECIAL.get(name)
        if special is not None:
            return special(error, config)
        if name in _LOCAL and _LOCAL[name][0] == "s3_credentials":
            return _LOCAL[name]
        if name in _LOCAL:
            return _suspect_tls(config) or _LOCAL[name]
    # botocore passes a page of a web server off as an answer with the status 500. Gateways' own errors are above that.
    if code.isdigit() and http_status(error) <= 500 and header(error, "content-type").startswith("text/html"):
        return _suspect_tls(config) or (PROTOCOL, NO_S3)
    if http_status(error) in (0, 400) and code in ("", "400"):
        return _suspect_tls(config) or ("s3", "")
    return "s3", "Try again; if it stays, look into the server's log." if http_status(error) >= 500 else ""


def _explain_tls(error: BaseException, config: S3Config) -> tuple[str, str]:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
        return "s3_tls", (
            "The server's certificate is not trusted here. Give its CA in s3_ca_bundle, or check s3_endpoint's name."
        )
    if any(word in text for word in ("WRONG_VERSION_NUMBER", "wrong version number", "RECORD_LAYER", "record layer")):
        return PROTOCOL, _TLS_ON_PLAIN
    if config.ca_bundle and "No such file" in text:
        return "s3_tls", f"The CA bundle {config.ca_bundle} cannot be read on this host."
    return "s3_tls", "No TLS connection came about. Check s3_endpoint, s3_ssl and s3_ca_bundle."


def _explain_connect(error: BaseException, _config: S3Config) -> tuple[str, str]:
    text = str(error) + str(getattr(error, "kwargs", {}).get("error", ""))
    if any(word in text for word in _NAME_FAILURES):
        return "s3_dns", "The name cannot be resolved on this host. Check s3_endpoint (and s3_use_path_style) and DNS."
    if "refused" in text:
        return "s3_unreachable", "The connection was refused: no server listens there. Check s3_endpoint and its port."
    return "s3_unreachable", "The server cannot be reached. Check s3_endpoint, the route and the firewall."


def _explain_http(error: BaseException, config: S3Config) -> tuple[str, str]:
    if "BadStatusLine" in str(error) or "RemoteDisconnected" in str(error):
        return _suspect_tls(config) or (PROTOCOL, "What answers there does not speak HTTP. Check s3_endpoint.")
    return _suspect_tls(config) or ("s3_unreachable", "The connection broke. Check the network and the server.")


_SPECIAL: dict[str, Callable[[BaseException, S3Config], tuple[str, str]]] = {
    "SSLError": _explain_tls,
    "EndpointConnectionError": _explain_connect,
    "HTTPClientError": _explain_http,
}


def _suspect_tls(config: S3Config) -> tuple[str, str] | None:
    """TLS servers answer plain HTTP in many ways or not at all: a handshake is the only sure sign."""
    if config.ssl or config.endpoint is None:
        return None
    url = urlsplit(config.endpoint)
    if speaks_tls(url.hostname or "", url.port or 80):
        return PROTOCOL, _PLAIN_ON_TLS
    return None


def _said(error: BaseException) -> str:
    """The server's or library's own words, as one short sentence."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        text = str(response.get("Error", {}).get("Message") or "") or f"HTTP status {http_status(error)}"
        code = error_code(error)
        text = f"{text} ({code})" if code and code not in text else text
    else:
        text = str(error) or type(error).__name__
    text = " ".join(text.split())[:400]
    return text if text.endswith(".") else text + "."


def _key_id(config: S3Config) -> str:
    """Enough of the access key to recognise it, and little enough if somebody swapped it with the secret."""
    return f"'{config.access_key[:4]}…'" if config.access_key else "found on this host"


def header(error: BaseException, name: str) -> str:
    """A header of the answer that came with the error, or ''."""
    response: Any = getattr(error, "response", None) or {}
    return str(response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(name, ""))


def _region(error: BaseException) -> str:
    response: Any = getattr(error, "response", None) or {}
    region = response.get("Error", {}).get("Region") or header(error, "x-amz-bucket-region")
    return f", '{region}'" if region else ""


def _skew(error: BaseException) -> str:
    try:
        seconds = (datetime.now(timezone.utc) - parsedate_to_datetime(header(error, "date"))).total_seconds()
    except (TypeError, ValueError):
        return ""
    return f" by {abs(seconds) / 60:.0f} minutes ({'ahead' if seconds > 0 else 'behind'})"
