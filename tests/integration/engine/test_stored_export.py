# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk served out of a chain of backups: from files here, from objects in S3, and from some of each."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._copies import DamagedError, LocalCopy
from ansible_collections.vmforge.backup.plugins.module_utils._errors import SourceError
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import OffsiteVm
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_upload import upload_backup
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._stored_backup import StoredBackup, open_backup
from ansible_collections.vmforge.backup.plugins.module_utils._stored_chain import Layer
from ansible_collections.vmforge.backup.plugins.module_utils._stored_export import StoredExport
from tests.bed.backups import UUID, make_backup
from tests.bed.s3 import Keys, S3Server

IDS = ("20261122T100000Z", "20261122T110000Z")
MIB = 1 << 20
PRIVATE = 0o700


def qemu_img(*argv: object) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


def helpers() -> list[str]:
    """Children of this process, less the S3 server."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [child for child in children if "weed" not in Path(f"/proc/{child}/comm").read_text()]


@dataclass
class Shelf:
    """Two backups, the second on the first, and what the guest saw at the time of the second."""

    path: Path
    store: S3Store
    wanted: Path

    def layers(self, *where: str) -> list[Layer]:
        """The chain, the topmost first; ``where`` names the copy of each that is there."""
        found = []
        for backup_id, copy in zip(reversed(IDS), where):
            one: StoredBackup = open_backup(
                UUID,
                backup_id,
                directory=self.path / UUID / backup_id if copy == "local" else None,
                place=OffsiteVm(self.store, UUID).backup(backup_id) if copy == "s3" else None,
            )
            found.append(Layer(one, one.manifest.disks[0], one.manifest.files[0]))
        return found


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, server: S3Server) -> Iterator[Shelf]:
    path = tmp_path_factory.mktemp("chain")
    work = path / "work"
    work.mkdir()
    raw = work / "raw"
    raw.write_bytes(os.urandom(3 * MIB) + bytes(5 * MIB))
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", raw, work / "base.qcow2")
    # Larger than what it builds on, as after a resize; and with a name in its header that leads astray.
    qemu_img("create", "-q", "-f", "qcow2", "-b", work / "base.qcow2", "-F", "qcow2", work / "top.qcow2", 12 * MIB)
    for command in ("write -P 7 1M 64k", "write -z 2M 128k", "write -P 9 10M 64k"):
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, work / "top.qcow2"], check=True, capture_output=True)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", work / "top.qcow2", work / "wanted")
    qemu_img("rebase", "-u", "-b", "/nowhere/at/all", "-F", "qcow2", work / "top.qcow2")
    for backup_id, name in zip(IDS, ("base", "top")):
        make_backup(path / UUID / backup_id, {"vda.qcow2": (work / f"{name}.qcow2").read_bytes()}, part_size=5 * MIB)
    config = S3Config.from_params(server.params(s3_prefix=f"x/{uuid.uuid4().hex[:8]}"))
    with contextlib.closing(S3Store(config)) as store:
        for backup_id in IDS:
            upload_backup(OffsiteVm(store, UUID).backup(backup_id), path / UUID / backup_id, drop_local=False)
        yield Shelf(path, store, work / "wanted")


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "p"
    path.mkdir(mode=PRIVATE)
    return path


@pytest.mark.parametrize("where", [("local", "local"), ("s3", "s3"), ("local", "s3")])
def test_what_the_guest_saw_is_served(shelf: Shelf, private: Path, where: tuple[str, str]) -> None:
    layers = shelf.layers(*where)
    secret = str(shelf.store.config.secret_key)
    with StoredExport(layers, directory=private, clients=3) as served:
        uri = f"nbd+unix:///?socket={served.export.socket}"
        qemu_img("compare", "-f", "raw", "-F", "raw", uri, shelf.wanted)
        # Several clients at a time, and none of them may write.
        sizes = [served.export.allocated()[0] for _number in range(2)]
        handle = served.export.connect()
        assert sizes == [12 * MIB, 12 * MIB]
        assert handle.is_read_only()
        # nbdkit and qemu-nbd are children of this process.
        children = helpers()
        words = [(Path("/proc") / child / "cmdline").read_bytes() for child in children]
        words += [(Path("/proc") / child / "environ").read_bytes() for child in children]
        assert sum(b"nbdkit\0" in word for word in words) == where.count("s3")
        assert not [word for word in words if secret.encode() in word]
        for path in private.glob("c*"):
            assert path.stat().st_mode & 0o777 == 0o600
    assert not list(private.glob("s3-?")) + list(private.glob("disk"))
    assert not helpers()


def test_what_is_missing_or_cut_is_told_before_anything_is_started(shelf: Shelf, private: Path, tmp_path: Path) -> None:
    (layer,) = shelf.layers("local")
    (tmp_path / "b").mkdir()
    elsewhere = replace(layer.backup, copies=(LocalCopy(tmp_path / "b"),))
    with pytest.raises(DamagedError, match="is missing"):
        StoredExport([replace(layer, backup=elsewhere)], directory=private, clients=1).__enter__()
    (tmp_path / "b" / "vda.qcow2").write_bytes(bytes(layer.record.size))
    with pytest.raises(SourceError, match="not in qcow2 format"):
        StoredExport([replace(layer, backup=elsewhere)], directory=private, clients=1).__enter__()
    assert not list(private.glob("disk"))


def test_wrong_keys_are_told_by_s3_itself(shelf: Shelf, private: Path, server: S3Server) -> None:
    wrong = S3Config.from_params(server.params(Keys("nobody", "x" * 32)))
    with pytest.raises(SourceError, match="403|Forbidden|InvalidAccessKeyId"):
        StoredExport(shelf.layers("s3"), directory=private, clients=1, s3=wrong).__enter__()
