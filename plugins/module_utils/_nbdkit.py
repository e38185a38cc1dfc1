# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An object in S3 as an NBD export: how nbdkit's S3 plugin is called. Nothing secret is in argv or in the environment.

The plugin has an object that is gone read as zeros: who relies on what was read must look afterwards whether the object
is still the one that it was.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._errors import DependencyError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._programs import SYSTEM_PATH, need_program
from ansible_collections.vmforge.backup.plugins.module_utils._s3_client import frozen_keys, trusted_certificates
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config

_PLUGINS = "/usr/lib*/nbdkit/plugins", "/usr/lib/*/nbdkit/plugins"
_THREADS = 8
# QEMU asks for one compressed cluster at a time, and each request of S3 costs a round trip. What is read is kept in an
# unlinked file, up to so many bytes.
_BLOCK, _CACHE = "1M", "1G"
# Seconds double from the first delay on: so an S3 that is away for about eight minutes is waited for.
_RETRIES, _FIRST_DELAY = 8, 2
# Whatever of it lies on the host must not interfere with the keys that were given.
_FOREIGN = (
    "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN", "PYTHONPATH", "PYTHONHOME",
)  # fmt: skip


class S3Access:
    """The files and variables with which another program reaches a bucket.

    Args:
        config: Of the bucket.
        directory: Private; takes two small files of mode 0600.

    Raises:
        S3Error: There are no credentials.
        StorageError: The files cannot be written.
    """

    def __init__(self, config: S3Config, directory: Path) -> None:
        self._config = config
        self._keys = frozen_keys(config)
        self._credentials, self._settings = directory / "credentials", directory / "config"
        if self._keys is not None:
            names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
            pairs = [f"{name} = {value}" for name, value in zip(names, self._keys) if value]
            _write_private(self._credentials, ["[default]", *pairs])
            style = "path" if config.path_style else "virtual" if config.endpoint else "auto"
            _write_private(self._settings, ["[default]", "s3 =", f"  addressing_style = {style}"])

    def wrapper(self) -> list[str]:
        """What stands before the program in argv: ``env`` with variables, none of them secret."""
        config = self._config
        # Another Python that comes first there would lend nbdkit its libraries.
        values = {"PATH": SYSTEM_PATH}
        values["AWS_DEFAULT_REGION"] = config.region or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        trusted = trusted_certificates(config)
        if trusted is not None:
            values["AWS_CA_BUNDLE"] = trusted
        if self._keys is not None:
            values["AWS_SHARED_CREDENTIALS_FILE"] = str(self._credentials)
            values["AWS_CONFIG_FILE"] = str(self._settings)
            values["AWS_EC2_METADATA_DISABLED"] = "true"
            drop = [word for name in _FOREIGN for word in ("-u", name)]
        else:
            # Temporary keys of a role: only the SDK's own chain can renew them.
            values.update({"AWS_PROFILE": config.profile} if config.profile else {})
            drop = ["-u", "PYTHONPATH", "-u", "PYTHONHOME"]
        env = need_program("env", debian="coreutils", redhat="coreutils")
        return [env, *drop, *(f"{name}={value}" for name, value in sorted(values.items()))]


def object_server(access: S3Access, config: S3Config, key: str, socket: Path) -> Sequence[str]:
    """The command that serves one object, read-only, until it is ended.

    Raises:
        DependencyError: nbdkit or its S3 plugin is missing.
    """
    nbdkit = need_program("nbdkit", debian="nbdkit", redhat="nbdkit")
    _need_plugin()
    place = [f"endpoint-url={config.endpoint}"] if config.endpoint else []
    return [
        *access.wrapper(), nbdkit, "-f", "-r", "-t", str(_THREADS), "-U", str(socket),
        "--filter=cache", "--filter=retry", "S3", *place, f"bucket={config.bucket}", f"key={key}",
        "cache-on-read=true", f"cache-min-block-size={_BLOCK}", f"cache-max-size={_CACHE}",
        f"retries={_RETRIES}", f"retry-delay={_FIRST_DELAY}",
    ]  # fmt: skip


def _need_plugin() -> None:
    for pattern in _PLUGINS:
        for directory in Path("/").glob(pattern.lstrip("/")):
            if (directory / "nbdkit-S3-plugin").exists():
                return
    raise DependencyError(
        "nbdkit's S3 plugin is missing on this host: package nbdkit-plugin-python on Debian and Ubuntu, "
        "nbdkit-S3-plugin on Enterprise Linux."
    )


def _write_private(path: Path, lines: Sequence[str]) -> None:
    with storage_errors(f"writing {path}"):
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
