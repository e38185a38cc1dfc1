# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image that another program writes to is known, and is no disk of a machine that is off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _stopped
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceChangedError, SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._image_lock import is_written
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import Export
from ansible_collections.vmforge.backup.plugins.module_utils._programs import Background, need_program
from ansible_collections.vmforge.backup.plugins.module_utils._qemu import listens
from ansible_collections.vmforge.backup.plugins.module_utils._stopped import StoppedSource

pytestmark = pytest.mark.system


@contextmanager
def opened(image: Path, *options: str) -> Iterator[None]:
    """By a program of QEMU's."""
    socket = image.with_suffix(".socket")
    program = need_program("qemu-nbd", debian="qemu-utils", redhat="qemu-img")
    argv = [program, "-t", "-f", "raw", "-k", str(socket), *options, str(image)]
    server = Background(argv, log=image.with_suffix(".log"))
    try:
        deadline = time.monotonic() + 60
        while not listens(socket):
            assert not server.ended(), server.said()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # It listens before it has opened anything, and answers when it has.
        Export(str(socket), "").connect().shutdown()
        yield
    finally:
        server.stop(patience=10)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vda"
    path.write_bytes(bytes(1 << 20))
    return path


def source(image: Path, monkeypatch: pytest.MonkeyPatch) -> StoppedSource:
    """Of a machine that is off."""
    monkeypatch.setattr(_stopped, "RUN_DIRECTORY", image.parent)
    monkeypatch.setattr(_stopped, "_CLOSE_SECONDS", 0.0)
    domain: Any = SimpleNamespace(
        name="web1", uuid="u", state=lambda: SimpleNamespace(active=False), has_saved_state=lambda: False
    )
    return StoppedSource(domain, [Disk("vda", "file", "raw", str(image))], {"vda": str(image)}, clients=2)


def test_only_a_writer_counts(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_written(str(image))
    with opened(image, "--read-only"):
        assert not is_written(str(image))
        with source(image, monkeypatch) as disks:
            assert disks.exports["vda"].allocated()[0] == 1 << 20
            # Nor do we.
            disks.confirm()
    with opened(image):
        assert is_written(str(image))
        with pytest.raises(SourceError, match="another program has its disk vda") as caught, source(image, monkeypatch):
            pytest.fail("it was read")
        assert caught.value.code == "disk_in_use"
    assert not is_written(str(image))


def test_one_that_comes_meanwhile(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with source(image, monkeypatch) as disks, opened(image):
        with pytest.raises(SourceChangedError, match="opened for writing while it was read"):
            disks.confirm()
        (watch,) = disks.watches()
        with pytest.raises(SourceChangedError):
            watch()
