# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How boto3 is set up for us: one place for timeouts, retries, checksums, trust and signing."""

from __future__ import annotations

import functools
import os
import threading
import warnings
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._deps import botocore, need
from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._s3_errors import translate

_SIGNER = "vmforge-s3v4"
# Misconfiguration should show in seconds, but an upload that has run for hours must outlive a restart of the server.
_QUICK_ATTEMPTS = 4
_PATIENT_ATTEMPTS = 10
# The timeout of connecting is also that of sending one block of a body: generous for parts on slow uplinks.
_QUICK_CONNECT = 10
_PATIENT_CONNECT = 30
_READ_TIMEOUT = 120
_SYSTEM_CA = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_BLOCK = 128 * 1024
_client_lock = threading.Lock()


class UploadStopped(BaseException):
    """Leaves botocore at once when an upload is aborted: it would retry after any Exception."""


class PartBody:
    """Bytes in memory as a seekable file, without a copy, for botocore to send and to rewind for a retry.

    ``read`` may return more than asked for: http.client asks for 8 KiB blocks, each of which would cost a system call.

    Args:
        data: Any contiguous buffer; must not change while it is sent.
        sha256: The raw digest of ``data`` where it is known, so that signing needs no second pass.
        stopped: Once set, the next read raises :class:`UploadStopped`.
    """

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        *,
        sha256: bytes | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        self._view = memoryview(data).cast("B")
        self._at = 0
        self._stopped = stopped
        self.sha256_hex = sha256.hex() if sha256 is not None else None

    def __len__(self) -> int:
        return len(self._view)

    def __bool__(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> memoryview:
        if self._stopped is not None and self._stopped.is_set():
            raise UploadStopped
        wanted = len(self._view) if size is None or size < 0 else max(size, _BLOCK)
        block = self._view[self._at : self._at + wanted]
        self._at += len(block)
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        start = {0: 0, 1: self._at, 2: len(self._view)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at


class ClientMaker:
    """Makes S3 clients of one configuration, which share what costs time to load.

    Args:
        config: Where, and with which credentials.
        connections: How many requests may be under way at once in each client.

    Raises:
        DependencyError: boto3 is missing.
        S3Error: The profile does not exist.
    """

    def __init__(self, config: S3Config, connections: int) -> None:
        need("boto3")
        self._config = config
        self._connections = connections
        try:
            self._session = _session(config)
        except botocore().exceptions.BotoCoreError as error:
            raise translate(error, "open a session", config) from None

    def make(self, *, patient: bool) -> Any:
        """Make a thread-safe client that repeats what fails, with botocore's adaptive backoff in between.

        Args:
            patient: Whether to try for minutes, for transfers, or to tell within seconds what is wrong.

        Raises:
            S3Error: The credentials cannot be used.
        """
        config = self._config
        with _client_lock:  # Making clients is not thread-safe in botocore, using them is.
            try:
                client = self._session.create_client(
                    "s3",
                    endpoint_url=config.endpoint,
                    region_name=config.region or self._session.get_config_variable("region") or "us-east-1",
                    use_ssl=config.ssl,
                    verify=_trust(config),
                    config=_settings(config, patient, self._connections),
                )
            except (botocore().exceptions.BotoCoreError, ValueError) as error:
                raise translate(error, "open a session", config) from None
        _sign_known_payloads(client)
        _allow_only_new(client)
        client.meta.events.register_first("needs-retry.s3", _raise_own_errors)
        if config.endpoint:
            client.meta.events.register("before-call.s3", _follow_no_region)
        return client


def botocore_errors() -> tuple[type[Any], ...]:
    """What a client raises; evaluated late, for the library may be missing when this file is imported."""
    return (
        botocore().exceptions.BotoCoreError,
        botocore().exceptions.ClientError,
        botocore().parsers.ResponseParserError,
        *broken_answers(),
    )


def broken_answers() -> tuple[type[Any], ...]:
    """What botocore lets through unchanged, and untried again, when a connection is cut in the middle of an answer."""
    return (botocore().httpsession.ProtocolError, botocore().httpsession.URLLib3ReadTimeoutError)


def accepts(client: Any, operation: str, parameter: str) -> bool:
    """Whether this version of boto3 knows a parameter of an operation, such as PutObject's IfNoneMatch."""
    return parameter in client.meta.service_model.operation_model(operation).input_shape.members


def _session(config: S3Config) -> Any:
    session = botocore().session.Session(profile=config.profile)
    session.register_component("data_loader", _loader())
    if not config.access_key:
        return session
    # With keys given, nothing that lies on the host may interfere: no profile from the environment, no config files.
    for name, value in (("profile", None), ("config_file", os.devnull), ("credentials_file", os.devnull)):
        provider = botocore().configprovider.ConstantProvider(value)
        session.get_component("config_store").set_config_provider(name, provider)
    session.set_credentials(config.access_key, config.secret_key, config.session_token)
    return session


def frozen_keys(config: S3Config) -> tuple[str, str, str | None] | None:
    """Access key, secret key and session token, for another program; None where a role's keys must be renewed.

    Raises:
        S3Error: There are none.
    """
    if config.access_key and config.secret_key:
        return config.access_key, config.secret_key, config.session_token
    need("boto3")
    try:
        found = _session(config).get_credentials()
        keys = found.get_frozen_credentials() if found is not None else None
    except botocore().exceptions.BotoCoreError as error:
        raise translate(error, "look for credentials", config) from None
    if keys is None:
        raise translate(botocore().exceptions.NoCredentialsError(), "look for credentials", config)
    return (keys.access_key, keys.secret_key, None) if not keys.token else None


def trusted_certificates(config: S3Config) -> str | None:
    """What another program is told in ``AWS_CA_BUNDLE``: empty trusts anybody, None leaves it as it is."""
    trust = _trust(config)
    return "" if trust is False else str(trust) if trust else None


@functools.cache
def _loader() -> Any:
    """Reads S3's description, which takes longer than all else, once per process."""
    return botocore().loaders.create_loader()


def _settings(config: S3Config, patient: bool, connections: int) -> Any:
    wanted: dict[str, Any] = {
        "signature_version": "s3v4",
        "s3": {"addressing_style": "path" if config.path_style else ("virtual" if config.endpoint else "auto")},
        "retries": {"mode": "adaptive", "total_max_attempts": _PATIENT_ATTEMPTS if patient else _QUICK_ATTEMPTS},
        "connect_timeout": _PATIENT_CONNECT if patient else _QUICK_CONNECT,
        "read_timeout": _READ_TIMEOUT,
        "max_pool_connections": connections,
    }
    options = botocore().config.Config.OPTION_DEFAULTS
    # Since 1.36 boto3 adds CRC trailers to every upload, which many servers refuse. We send checksums of our own.
    for name in ("request_checksum_calculation", "response_checksum_validation"):
        if name in options:
            wanted[name] = "when_required"
    return botocore().config.Config(**wanted)


def _trust(config: S3Config) -> bool | str | None:
    """What to check certificates against: the system's store rather than the library's own, where there is one."""
    if not config.validate_certs:
        # It was asked for; a warning with every request would help nobody.
        warnings.filterwarnings("ignore", message="Unverified HTTPS request")
        return False
    if config.ca_bundle:
        return config.ca_bundle
    if os.environ.get("AWS_CA_BUNDLE"):
        return None
    return next((path for path in _SYSTEM_CA if os.path.isfile(path)), None)


def _sign_known_payloads(client: Any) -> None:
    """Sign uploads with the digest that is known already, also over TLS, where botocore would sign none.

    The signature covers x-amz-content-sha256, so a server that checks signatures also checks the part.
    """
    if _SIGNER not in botocore().auth.AUTH_TYPE_MAPS:
        base = botocore().auth.S3SigV4Auth

        def payload(self: Any, request: Any) -> Any:
            return getattr(request.data, "sha256_hex", None) or base.payload(self, request)

        botocore().auth.AUTH_TYPE_MAPS[_SIGNER] = type("KnownPayloadAuth", (base,), {"payload": payload})
    for operation in ("UploadPart", "PutObject"):
        client.meta.events.register(f"choose-signer.s3.{operation}", _choose_known_payload)


def _choose_known_payload(**_event: Any) -> str:
    return _SIGNER


def _follow_no_region(params: Any, **_event: Any) -> None:
    """Keep botocore from looking for the bucket's region after a redirect.

    Away from AWS a 301 comes from a web server, for instance to https, tells no region, and botocore asks without end.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _allow_only_new(client: Any) -> None:
    """Teach PutObject of every boto3 the parameter IfNoneMatch, which it knows only since 1.35."""
    if not accepts(client, "PutObject", "IfNoneMatch"):
        client.meta.events.register("before-parameter-build.s3.PutObject", _take_if_none_match)
        client.meta.events.register("before-call.s3.PutObject", _send_if_none_match)


def _take_if_none_match(params: Any, context: Any, **_event: Any) -> None:
    context["vmforge_if_none_match"] = params.pop("IfNoneMatch", None)


def _send_if_none_match(params: Any, context: Any, **_event: Any) -> None:
    if context.get("vmforge_if_none_match"):
        params["headers"]["If-None-Match"] = context["vmforge_if_none_match"]


def _raise_own_errors(caught_exception: Any = None, **_event: Any) -> None:
    """Let an error that a signal's handler raised within a request out; botocore would take it for one of the network.

    Raises:
        VMForgeError: What the handler raised.
    """
    inner = getattr(caught_exception, "kwargs", {}).get("error")
    if isinstance(inner, VMForgeError):
        raise inner
