# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every shape of disk: checked, and identical to its source byte for byte. Domains that are off need no boot."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._manifest import decode_manifest
from tests.bed.guest import MIB, Disk, Guest

from .driver import Engine, check_image, compare, noise, run, virtual_size

CLUSTER = 65536
TIB = 1 << 40
Define = Callable[..., Guest]
_MORE = pytest.mark.exhaustive


@pytest.fixture
def define(place: Path, libvirt_daemon: None) -> Iterator[Define]:
    """Define a domain with these disks; it stays off."""
    with contextlib.ExitStack() as stack:

        def make(*disks: Disk) -> Guest:
            guest = Guest(f"shape-{uuid.uuid4().hex[:8]}", place, disks).define()
            stack.callback(guest.undefine)
            return guest

        yield make


def back_up(engine: Engine, guest: Guest, originals: Sequence[tuple[Path | str, str]], **more: Any) -> Path:
    """Back up, and prove each image against its original; the backup's directory."""
    entry = engine.backup(guest, **more)
    path = Path(entry["path"])
    manifest = decode_manifest((path / "manifest.json").read_bytes(), where="here")
    assert len(manifest.disks) == len(originals)
    for disk, (original, image_format) in zip(manifest.disks, originals):
        image = path / disk.file
        check_image(image)
        compare(image, original, image_format)
        assert disk.virtual_size == virtual_size(image, "qcow2")
    return path


def raw_disk(path: Path, size: int, *runs: tuple[int, int]) -> Disk:
    with path.open("wb") as file:
        file.truncate(size)
    noise(path, *runs)
    return Disk(path, format="raw")


@pytest.mark.parametrize(
    ("shape", "compression"),
    [
        pytest.param(shape, compression, marks=() if "zstd" in compression or shape == "mixed" else _MORE)
        for shape in ("empty", "full", "mixed", "one byte at the end")
        for compression in ("zstd", "zlib", "none")
    ],
)
def test_contents(engine: Engine, define: Define, place: Path, shape: str, compression: str) -> None:
    size = 20 * MIB
    runs = {
        "empty": [],
        "full": [(0, size)],
        "mixed": [(0, 300), (CLUSTER * 3, CLUSTER), (CLUSTER * 5 + 40000, CLUSTER * 2), (17 * MIB, MIB)],
        "one byte at the end": [(size - 1, 1)],
    }[shape]
    disk = raw_disk(place / "a.raw", size, *runs)
    if shape == "mixed":
        with (place / "a.raw").open("r+b") as file:
            file.seek(8 * MIB)
            file.write(b"compress me " * 200_000)
    back_up(engine, define(disk), [(place / "a.raw", "raw")], compression=compression)


@pytest.mark.parametrize(
    "size",
    [
        *(512, 1000, CLUSTER + 512, MIB + 1),
        *(pytest.param(size, marks=_MORE) for size in (65535, CLUSTER, 3 * MIB + 100 * 512)),
    ],
)
def test_odd_sizes(engine: Engine, define: Define, place: Path, size: int) -> None:
    """A size that is no multiple of 512 is rounded up, never down: the last bytes are there."""
    disk = raw_disk(place / "a.raw", size, (0, size))
    path = back_up(engine, define(disk), [(place / "a.raw", "raw")])
    assert virtual_size(path / "vda.qcow2", "qcow2") == -(-size // 512) * 512
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path / "vda.qcow2"), str(place / "back.raw")])
    assert (place / "back.raw").read_bytes()[:size] == (place / "a.raw").read_bytes()


def test_two_tebibytes_with_little_in_them(engine: Engine, define: Define, place: Path) -> None:
    image = place / "big.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), str(2 * TIB)])
    writes = [arg for at in (0, TIB - CLUSTER, 2 * TIB - 512) for arg in ("-c", f"write -P 7 {at} 512")]
    run(["qemu-io", "-f", "qcow2", *writes, str(image)])
    begun = time.monotonic()
    path = back_up(engine, define(Disk(image)), [(image, "qcow2")])
    assert time.monotonic() - begun < 300
    assert (path / "vda.qcow2").stat().st_size < 4 * MIB


def test_an_overlay_is_flattened(engine: Engine, define: Define, place: Path) -> None:
    raw_disk(place / "base.raw", 8 * MIB, (0, 3 * MIB))
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", str(place / "base.raw"), str(place / "base.qcow2")])
    middle = Disk(place / "middle.qcow2", backing=place / "base.qcow2")
    middle.create()
    top = Disk(place / "top.qcow2", backing=place / "middle.qcow2", size=12 * MIB)
    top.create()
    # Written, and zeroed over data of the base: both must win.
    run(["qemu-io", "-c", "write -P 9 1M 128k", "-c", "write -z 2M 256k", str(place / "top.qcow2")])
    path = back_up(engine, define(Disk(place / "top.qcow2")), [(place / "top.qcow2", "qcow2")])
    assert "backing" not in run(["qemu-img", "info", str(path / "vda.qcow2")])


def test_a_block_device(engine: Engine, define: Define, place: Path) -> None:
    raw_disk(place / "loop.raw", 5 * MIB + 512 * 3, (MIB, 2 * MIB))
    device = run(["losetup", "--find", "--show", str(place / "loop.raw")]).strip()
    try:
        guest = define(Disk(Path(device), format="raw"))
        assert "type='block'" in guest.virsh("dumpxml", guest.name)
        back_up(engine, guest, [(place / "loop.raw", "raw")])
    finally:
        run(["losetup", "--detach", device])


def test_a_storage_volume(engine: Engine, define: Define, place: Path) -> None:
    pool, folder = f"vmforge-bed-{uuid.uuid4().hex[:8]}", place / "pool"
    folder.mkdir()
    raw_disk(folder / "vol.raw", 4 * MIB, (MIB, MIB))
    guest = define(Disk(place / "vda.qcow2", size=MIB))
    guest.virsh("pool-create-as", pool, "dir", "--target", str(folder))
    try:
        xml = guest.virsh("dumpxml", "--inactive", guest.name)
        volume = f"<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='{pool}' "
        volume += "volume='vol.raw'/><target dev='vdb' bus='virtio'/></disk></devices>"
        (place / "volume.xml").write_text(xml.replace("</devices>", volume))
        guest.virsh("define", str(place / "volume.xml"))
        back_up(engine, guest, [(place / "vda.qcow2", "qcow2"), (folder / "vol.raw", "raw")])
    finally:
        guest.virsh("pool-destroy", pool)


def test_what_is_left_out_is_reported(engine: Engine, define: Define, place: Path) -> None:
    shared = raw_disk(place / "shared.raw", MIB, (0, MIB))
    shared.target, shared.extra = "vdb", "<shareable/>"
    fixed = raw_disk(place / "fixed.raw", MIB, (0, MIB))
    fixed.target, fixed.extra = "vdc", "<readonly/>"
    optional = raw_disk(place / "optional.raw", MIB, (0, MIB))
    optional.target = "vdd"
    cdrom = Disk(None, format="raw", target="sda", device="cdrom", bus="sata")
    guest = define(raw_disk(place / "a.raw", MIB, (0, MIB)), shared, fixed, optional, cdrom)
    back_up(engine, guest, [(place / "a.raw", "raw")], exclude=["vdd"])
    (entry,) = engine.ready(guest)
    reasons = {item["target"]: item["reason"] for item in entry["excluded"]}
    assert reasons == {"vdb": "shareable", "vdc": "readonly", "vdd": "option exclude", "sda": "cdrom"}


runs_of = st.lists(
    st.tuples(st.sampled_from("wzd"), st.integers(0, 80), st.integers(0, 127), st.integers(1, 9)), max_size=12
)


@settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(layout=runs_of, tail=st.integers(0, 127), grain=st.sampled_from([512, 4096, CLUSTER]))
def test_random_layouts(
    engine: Engine, define: Define, place: Path, layout: list[tuple[str, int, int, int]], tail: int, grain: int
) -> None:
    """Written, zeroed and discarded runs of clusters and of parts of them, in any order."""
    image = place / f"random-{uuid.uuid4().hex[:8]}.qcow2"
    size = 96 * CLUSTER - tail * 512
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), str(size)])
    orders = []
    for kind, cluster, sector, length in layout:
        at = min(cluster * CLUSTER + sector * grain % CLUSTER, size - 512)
        count = min(length * grain, size - at)
        word = {"w": f"write -P {cluster + 1}", "z": "write -z", "d": "discard"}[kind]
        orders += ["-c", f"{word} {at} {count}"]
    if orders:
        run(["qemu-io", "-f", "qcow2", *orders, str(image)])
    back_up(engine, define(Disk(image)), [(image, "qcow2")])
