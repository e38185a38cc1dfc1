# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers for the S3 tests, one of each kind for the whole run, and stores to talk to them."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import S3Error, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from tests.bed.s3 import Keys, S3Server, rclone, weed

MakeStore = Callable[..., S3Store]
HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "s3: talks to real S3 servers; runs with several versions of boto3")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.s3)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS: versions, locks, identities with few rights."""
    with weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(scope="session")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """rclone's server: a compatible endpoint with little more than the basics."""
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(params=["seaweed", "simple"])
def server(request: pytest.FixtureRequest) -> S3Server:
    """Both servers, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let botocore repeat requests without a pause."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


@pytest.fixture
def prefix() -> str:
    """A prefix of this test's own."""
    return f"tests/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_store(prefix: str) -> Iterator[MakeStore]:
    """Make a store: ``make_store(server, keys=server.no_delete, s3_ssl=False)``."""

    with contextlib.ExitStack() as stack:

        def make(server: S3Server, keys: Keys | None = None, **more: Any) -> S3Store:
            options = {"s3_prefix": prefix, **more}
            store = S3Store(S3Config.from_params(server.params(keys, **options)))
            stack.callback(store.close)
            return store

        yield make


@pytest.fixture
def store(server: S3Server, make_store: MakeStore) -> S3Store:
    """A store with all rights, on each server."""
    return make_store(server)


@pytest.fixture
def bucket(seaweed: S3Server) -> Iterator[Callable[..., str]]:
    """Make buckets: ``bucket(versioning=True)``, ``bucket(lock=True)``."""
    client = seaweed.client()

    def make(*, versioning: bool = False, lock: bool = False) -> str:
        name = f"b-{uuid.uuid4().hex[:8]}"
        client.create_bucket(Bucket=name, **({"ObjectLockEnabledForBucket": True} if lock else {}))
        if versioning:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    yield make
    client.close()


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
