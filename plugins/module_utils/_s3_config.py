# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where objects live and how to reach them: the S3 options as one checked, immutable value. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import parse_utc

S3_ARGUMENTS: dict[str, dict[str, Any]] = {
    "s3_endpoint": {"type": "str"},
    "s3_same_endpoints": {"type": "list", "elements": "str", "default": []},
    "s3_region": {"type": "str"},
    "s3_bucket": {"type": "str"},
    # Not a secret, and masking it would also mask every path that happens to contain it.
    "s3_access_key": {"type": "str", "no_log": False},
    "s3_secret_key": {"type": "str", "no_log": True},
    "s3_session_token": {"type": "str", "no_log": True},
    "s3_profile": {"type": "str"},
    "s3_use_path_style": {"type": "bool"},
    "s3_ssl": {"type": "bool", "default": True},
    "s3_prefix": {"type": "str", "default": ""},
    "s3_ca_bundle": {"type": "path"},
    "s3_validate_certs": {"type": "bool", "default": True},
    "s3_storage_class": {"type": "str"},
    "s3_server_side_encryption": {"type": "str", "choices": ["AES256", "aws:kms"]},
    "s3_sse_kms_key_id": {"type": "str", "no_log": False},
    "s3_object_lock_mode": {"type": "str", "choices": ["GOVERNANCE", "COMPLIANCE"]},
    "s3_object_lock_retain_until": {"type": "str"},
}

# What somebody sets who means to use S3; the other options have defaults or only refine.
_TELLING = ("endpoint", "bucket", "access_key", "secret_key", "profile", "session_token")

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
# SeaweedFS, for one, takes a backslash for a slash: the object would get another name than it was given.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_MAX_KEY_BYTES = 1024


@dataclass(frozen=True)
class S3Config:
    """One place in one bucket, and the credentials for it.

    Attributes:
        endpoint: ``http(s)://host[:port]``, or None for AWS itself.
        same_endpoints: Other names of that very server; None is AWS.
        region: The region to sign for; None leaves it to the profile or environment, then ``us-east-1``.
        access_key: With ``secret_key``; both None means the SDK's chain: environment, profile, instance role.
        use_path_style: None decides by itself: path style for any endpoint but AWS.
        prefix: What all keys begin with, without slashes at its ends; may be empty.
        object_lock_retain_until: An aware time in UTC.
    """

    bucket: str
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    use_path_style: bool | None = None
    ssl: bool = True
    prefix: str = ""
    ca_bundle: str | None = None
    validate_certs: bool = True
    storage_class: str | None = None
    server_side_encryption: str | None = None
    sse_kms_key_id: str | None = None
    object_lock_mode: str | None = None
    object_lock_retain_until: datetime | None = None
    same_endpoints: tuple[str | None, ...] = ()

    @classmethod
    def from_params(cls, params: Mapping[str, Any], option_prefix: str = "s3_") -> S3Config:
        """Build from a module's options.

        Args:
            params: Options named as in :data:`S3_ARGUMENTS`; others are ignored, missing ones are unset.
            option_prefix: What the names begin with.

        Raises:
            InputError: Options are missing, contradict each other or are malformed; names them.
        """

        def get(name: str) -> Any:
            value = params.get(option_prefix + name)
            return None if value == "" else value

        _check_pairs(get, option_prefix)
        ssl = get("ssl") is not False
        endpoint, ssl = parse_endpoint(get("endpoint"), ssl, option_prefix + "endpoint")
        return cls(
            bucket=_checked_bucket(get("bucket"), option_prefix + "bucket"),
            endpoint=endpoint,
            region=get("region"),
            access_key=get("access_key"),
            secret_key=get("secret_key"),
            session_token=get("session_token"),
            profile=get("profile"),
            use_path_style=get("use_path_style"),
            ssl=ssl,
            prefix=checked_prefix(get("prefix") or "", option_prefix + "prefix"),
            ca_bundle=get("ca_bundle"),
            validate_certs=get("validate_certs") is not False,
            storage_class=get("storage_class"),
            server_side_encryption=get("server_side_encryption"),
            sse_kms_key_id=get("sse_kms_key_id"),
            object_lock_mode=get("object_lock_mode"),
            object_lock_retain_until=_parse_until(
                get("object_lock_retain_until"), option_prefix + "object_lock_retain_until"
            ),
            same_endpoints=tuple(
                parse_endpoint(name, ssl, option_prefix + "same_endpoints")[0] for name in get("same_endpoints") or ()
            ),
        )

    @staticmethod
    def is_configured(params: Mapping[str, Any], option_prefix: str = "s3_") -> bool:
        """Whether anybody meant to use S3: a bucket, an endpoint or credentials are set."""
        return any(params.get(option_prefix + name) for name in _TELLING)

    @property
    def where(self) -> str:
        """The bucket and endpoint, for messages."""
        return f"bucket '{self.bucket}' at {self.endpoint or 'AWS'}"

    @property
    def path_style(self) -> bool:
        """Whether the bucket stands in the path of the URL rather than in the host's name."""
        return self.use_path_style if self.use_path_style is not None else self.endpoint is not None

    @property
    def endpoints(self) -> tuple[str | None, ...]:
        """All names of the server; None is AWS."""
        return (self.endpoint, *self.same_endpoints)

    def is_place_of(self, noted: Mapping[str, Any], *parts: str) -> bool:
        """Whether a note of ``endpoint``, ``bucket`` and ``prefix`` speaks of these parts below this prefix here."""
        where = (noted.get("bucket"), noted.get("prefix"))
        return noted.get("endpoint") in self.endpoints and where == (self.bucket, self.key(*parts))

    def key(self, *parts: str) -> str:
        """Join the prefix and parts to an object's key.

        Args:
            parts: Each one or several path components, such as ``"<uuid>/<id>", "vda.qcow2"``.

        Raises:
            InputError: A component is empty, ``.`` or ``..``, holds a control character or a backslash, or all is
                too long.
        """
        pieces = ([self.prefix] if self.prefix else []) + list(parts)
        key = "/".join(pieces)
        check_key(key)
        return key


def check_key(key: str) -> None:
    """Refuse keys that no tool of ours writes and that clients read differently.

    Raises:
        InputError: A component is empty, ``.`` or ``..``, holds a control character or a backslash, or the key is too
            long.
    """
    if not key or any(part in ("", ".", "..") for part in key.split("/")):
        raise InputError(f"Not a usable S3 key: {key!r}. Empty components, '.' and '..' are not allowed.")
    if _FORBIDDEN.search(key):
        raise InputError(f"Not a usable S3 key: {key!r}. It holds a control character or a backslash.")
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        raise InputError(f"Not a usable S3 key: {key!r}. It is not valid Unicode.") from None
    if size > _MAX_KEY_BYTES:
        raise InputError(f"Not a usable S3 key: {key[:60]!r}… has {size} bytes, S3 allows {_MAX_KEY_BYTES}.")


def checked_prefix(prefix: str, option: str) -> str:
    """The prefix without slashes at its ends.

    Raises:
        InputError: It is no sound sequence of path components.
    """
    prefix = prefix.strip("/")
    if prefix:
        try:
            check_key(prefix)
        except InputError as error:
            raise InputError(f"Option {option}: {error.message}") from None
    return prefix


def parse_endpoint(endpoint: str | None, ssl: bool, option: str) -> tuple[str | None, bool]:
    """Turn ``host``, ``host:port`` or a URL into a URL.

    A URL's scheme wins over ``ssl``. ``s3.amazonaws.com`` means AWS, where the region decides about the host.

    Returns:
        The URL (None for AWS), and whether TLS is spoken.

    Raises:
        InputError: It cannot be an endpoint.
    """
    if endpoint is None:
        return None, ssl
    endpoint = endpoint.strip()
    malformed = f"Option {option}: {endpoint!r} is neither host, host:port nor an http(s) URL."
    # The parser drops line breaks silently.
    if not endpoint.isprintable():
        raise InputError(malformed)
    try:
        url = urlsplit(endpoint if "://" in endpoint else f"{'https' if ssl else 'http'}://{endpoint}")
        port = url.port
    except ValueError:
        raise InputError(f"{malformed} A port is a number from 0 to 65535.") from None
    host = url.netloc.rpartition("@")[2]
    name = host if port is None else host[: host.rindex(":")]
    if url.username is not None or url.password is not None:
        raise InputError(f"Option {option}: put credentials in the access and secret key options, not in the URL.")
    if url.scheme not in ("http", "https") or not _HOST.fullmatch(name.rstrip(":")):
        raise InputError(malformed)
    if url.path not in ("", "/") or url.query or url.fragment:
        raise InputError(f"Option {option}: {endpoint!r} has a path. Name the bucket and the prefix in their options.")
    ssl = url.scheme == "https"
    if name.lower() == "s3.amazonaws.com" and port in (None, 80, 443):
        return None, ssl
    return f"{url.scheme}://{name.rstrip(':').lower()}" + (f":{port}" if port is not None else ""), ssl


def _check_pairs(get: Any, prefix: str) -> None:
    """Raise for half-configured options."""
    if get("bucket") is None:
        raise InputError(f"S3 is only half configured: {prefix}bucket is missing.")
    for name, other in (
        ("access_key", "secret_key"),
        ("secret_key", "access_key"),
        ("session_token", "access_key"),
        ("object_lock_mode", "object_lock_retain_until"),
        ("object_lock_retain_until", "object_lock_mode"),
    ):
        if get(name) is not None and get(other) is None:
            raise InputError(f"S3 is only half configured: {prefix}{name} is set, but {prefix}{other} is missing.")
    if get("profile") is not None and get("access_key") is not None:
        raise InputError(f"Set either {prefix}profile or {prefix}access_key, not both: which one should be used?")
    if get("sse_kms_key_id") is not None and get("server_side_encryption") != "aws:kms":
        raise InputError(f"{prefix}sse_kms_key_id needs {prefix}server_side_encryption to be 'aws:kms'.")
    if get("ca_bundle") is not None and get("validate_certs") is False:
        raise InputError(f"{prefix}ca_bundle has no effect while {prefix}validate_certs is false: drop one of them.")


def _checked_bucket(bucket: str, option: str) -> str:
    if not _BUCKET.fullmatch(bucket):
        raise InputError(
            f"Option {option}: {bucket!r} is not a bucket's name: 3 to 63 letters, digits, dots, dashes, underscores."
        )
    return bucket


def _parse_until(text: str | None, option: str) -> datetime | None:
    """Parse a date or an RFC 3339 time; without an offset it is UTC."""
    if text is None:
        return None
    try:
        return parse_utc(str(text))
    except (ValueError, OverflowError):
        raise InputError(f"Option {option}: {text!r} is no time such as 2027-01-31T00:00:00Z.") from None
