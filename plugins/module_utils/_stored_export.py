# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk as it lies in a backup, through all its layers, as one read-only NBD export.

What is under an image is told to QEMU from the manifests; the names in the headers of the images are never followed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._copies import DamagedError, LocalCopy, OffsiteCopy
from ansible_collections.vmforge.backup.plugins.module_utils._errors import NotFoundError, SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._nbd import Export
from ansible_collections.vmforge.backup.plugins.module_utils._nbdkit import S3Access, object_server
from ansible_collections.vmforge.backup.plugins.module_utils._programs import Background, need_program
from ansible_collections.vmforge.backup.plugins.module_utils._qemu import listens
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._signals import shielded
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
_SAID = 300
# How long QEMU waits for an nbdkit that is started again before it tells a read as failed.
_RECONNECT_SECONDS = 600


@dataclass(frozen=True)
class Helper:
    """A program that serves something on a socket until it is ended.

    Attributes:
        argv: Path and arguments; nothing secret.
        socket: Where it listens, once it is ready.
    """

    argv: tuple[str, ...]
    socket: Path


def plan_helpers(
    layers: Sequence[Layer], *, directory: Path, socket: Path, clients: int, s3: S3Config | None
) -> list[Helper]:
    """What has to run so that a disk is served, in the order in which it is started; the last one serves the disk.

    Args:
        layers: The topmost first.
        directory: Private; files with credentials and sockets of helpers are made in it.
        socket: Of the export.
        clients: Connections at a time; further ones hang.
        s3: How the bucket is reached; None as the backup itself is read.

    Raises:
        DamagedError: A layer is in no copy.
        StorageError, S3Error: A layer cannot be looked at.
        DependencyError: A program is missing.
    """
    helpers: list[Helper] = []
    nodes: list[dict[str, Any]] = []
    for number, layer in reversed(list(enumerate(layers))):
        copy = readable_copy(layer)
        if isinstance(copy, LocalCopy):
            file: dict[str, Any] = {"driver": "file", "filename": str(copy.directory / layer.record.name)}
        else:
            config = s3 or copy.place.store.config
            listens = directory / f"s3-{number}"
            argv = object_server(S3Access(config, directory), config, copy.place.key(layer.record.name), listens)
            helpers.append(Helper(tuple(argv), listens))
            address = {"type": "unix", "path": str(listens)}
            file = {"driver": "nbd", "server": address, "reconnect-delay": _RECONNECT_SECONDS}
        below = nodes[-1]["node-name"] if nodes else None
        node = {"node-name": f"layer-{number}", "driver": layer.disk.format, "file": file, "backing": below}
        nodes.append({**node, "read-only": True, "force-share": True})
    return [*helpers, Helper(_disk_server(nodes, socket, clients), socket)]


def _disk_server(nodes: Sequence[Mapping[str, Any]], socket: Path, clients: int) -> tuple[str, ...]:
    """Nodes name each other: of a nested one, and so in qemu-nbd, QEMU may take the name in the header after all."""
    program = need_program("qemu-storage-daemon", debian="qemu-system-common", redhat="qemu-kvm-common")
    server = {"addr": {"type": "unix", "path": str(socket)}, "max-connections": clients}
    export = {"type": "nbd", "id": "disk", "node-name": nodes[-1]["node-name"], "name": "", "writable": False}
    values = [("--blockdev", node) for node in nodes] + [("--nbd-server", server), ("--export", export)]
    return (program, *(word for option, value in values for word in (option, json.dumps(value))))


def readable_copy(layer: Layer) -> LocalCopy | OffsiteCopy:
    """The first copy that has the file in its size; a local one is never asked for what was dropped."""
    damages: list[DamagedError] = []
    for copy in layer.backup.copies:
        try:
            copy.open(layer.record).close()
        except DamagedError as error:
            damages.append(error)
            continue
        if isinstance(copy, (LocalCopy, OffsiteCopy)):
            return copy
    if damages:
        raise damages[0]
    manifest = layer.backup.manifest
    raise NotFoundError(
        f"{layer.record.name} of backup {manifest.id} of {manifest.vm.name!r} is nowhere that was looked at. "
        "Set offsite: s3 and the other options of S3."
    )


class StoredExport:
    """Serves one disk of a backup while a context lasts. It dies with this process.

    Args:
        layers: The topmost first, as ``StoredChain.layers`` gives them.
        directory: Private (0700), for sockets and credentials; one for each export.
        clients: Connections at a time; further ones hang.
        s3: How the bucket is reached; None as the backup itself is read.
        socket: Where it is served; in ``directory`` unless given.

    Attributes:
        export: What to connect to.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        directory: Path,
        clients: int,
        s3: S3Config | None = None,
        socket: Path | None = None,
    ) -> None:
        self._layers, self._directory, self._clients, self._s3 = tuple(layers), directory, clients, s3
        self.socket = socket or directory / "disk"
        self.export = Export(str(self.socket), "")
        self._stack = ExitStack()

    def __enter__(self) -> StoredExport:
        """Start it.

        Raises:
            DamagedError, StorageError, S3Error, DependencyError: As ``plan_helpers``.
            SourceError: It did not start; says why.
        """
        helpers = plan_helpers(
            self._layers, directory=self._directory, socket=self.socket, clients=self._clients, s3=self._s3
        )
        setpriv = need_program("setpriv", debian="util-linux", redhat="util-linux-core")
        logs: list[Path] = []
        try:
            for helper in helpers:
                logs.append(self._directory / f"{helper.socket.name}.log")
                with shielded():
                    server = Background([setpriv, "--pdeathsig", "TERM", "--", *helper.argv], log=logs[-1])
                    self._stack.callback(helper.socket.unlink, missing_ok=True)
                    self._stack.callback(server.stop, patience=_STOP_SECONDS)
                wait_until_served(helper, ended=server.ended, logs=logs)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        """End it, the disk before what it reads."""
        with shielded():
            self._stack.close()


def wait_until_served(helper: Helper, *, ended: Callable[[], bool], logs: Sequence[Path]) -> None:
    """Wait until a helper serves: its socket alone says nothing, for it listens before it has opened anything.

    Args:
        ended: Tells whether it has ended.
        logs: What it and those before it wrote; the last one is its own.

    Raises:
        SourceError: It cannot; says why.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not listens(helper.socket) and not ended() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    try:
        # Answered only when what is served was opened.
        Export(str(helper.socket), "").connect().shutdown()
    except SourceError as error:
        said = [text for text in (_last_line(log) for log in reversed(logs)) if text]
        raise SourceError(
            f"The backup cannot be served: {'; '.join(said) or error.message.rstrip('.')}.", code="unserved"
        ) from error


def _last_line(log: Path) -> str:
    """Errors of Python end with the line that matters; nbdkit says so much of each."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    telling = [line.strip().rstrip(".") for line in lines if not line.endswith("error running this script")]
    return telling[-1][-_SAID:] if telling else ""
