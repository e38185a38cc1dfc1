# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest: it comes back as it was written, and nothing that contradicts itself is taken for a backup."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import (
    CONSISTENCIES,
    DiskRecord,
    FileRecord,
    Manifest,
    check_place,
    decode_manifest,
    describe_bytes,
    manifest_sha256,
)
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef

UUID = "0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b"
HASH = hashlib.sha256(b"x").hexdigest()
text = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    targets = draw(st.lists(st.sampled_from(["vda", "vdb", "sda", "hdc"]), unique=True, max_size=4))
    files = []
    for name in [*(f"{target}.qcow2" for target in targets), "domain.xml"]:
        parts = tuple(draw(st.lists(hashes, min_size=1, max_size=3)))
        size = draw(st.integers((len(parts) - 1) * 100 + 1, len(parts) * 100))
        files.append(FileRecord(name, size, sha256=draw(st.none() | hashes), part_size=100, parts=parts))
    full = draw(st.booleans())
    disks = tuple(
        DiskRecord(
            target,
            "full" if full else "incremental",
            f"{target}.qcow2",
            "qcow2",
            draw(text),
            virtual_size=draw(st.integers(0, 1 << 41)) * 512,
            data_bytes=draw(st.integers(0, 1 << 50)),
            backing=None if full else f"../20261122T151200Z/{target}.qcow2",
        )
        for target in targets
    )
    return Manifest(
        id="20261122T151201Z",
        vm=VmRef(UUID, draw(text), draw(text)),
        instant="2026-11-22T15:12:01.250000Z",
        finished_at="2026-11-22T15:13:00Z",
        type="full" if full else "incremental",
        full_reason=draw(st.none() | text) if full else None,
        consistency=draw(st.sampled_from(CONSISTENCIES)),
        compression="zstd",
        disks=disks,
        excluded=tuple(draw(st.lists(st.tuples(text, text), max_size=2))),
        files=tuple(files),
        tool={"collection": "1.0.0", "qemu": draw(text)},
        parent=None if full else {"id": "20261122T151200Z", "manifest_sha256": HASH},
    )


@given(manifests())
def test_it_comes_back(manifest: Manifest) -> None:
    data = manifest.encode()
    again = decode_manifest(data, where="here")
    assert again == manifest
    assert again.encode() == data
    assert manifest_sha256(data) == hashlib.sha256(data).hexdigest()
    assert manifest.size == sum(record.size for record in manifest.files)


def test_the_keys_are_the_format() -> None:
    value = sound()
    assert list(value) == [
        "schema",
        "id",
        "vm",
        "instant",
        "finished_at",
        "type",
        "full_reason",
        "parent",
        "checkpoint",
        "consistency",
        "compression",
        "disks",
        "excluded",
        "files",
        "tool",
    ]
    assert list(value["vm"]) == ["uuid", "name", "node"]
    assert list(value["disks"][0]) == (
        ["target", "type", "file", "format", "source", "virtual_size", "data_bytes", "backing", "bitmap_granularity"]
    )
    assert list(value["files"][0]) == ["name", "size", "sha256", "part_size", "parts"]
    assert list(value["excluded"][0]) == ["target", "reason"]


def sound() -> dict[str, Any]:
    """A manifest that is accepted, as JSON gives it."""
    manifest = Manifest(
        id="20261122T151200Z",
        vm=VmRef(UUID, "web1", "node1"),
        instant="2026-11-22T15:12:00Z",
        finished_at="2026-11-22T15:13:00Z",
        type="full",
        full_reason="every backup is a full one",
        consistency="crash",
        compression="zstd",
        disks=(DiskRecord("vda", "full", "vda.qcow2", "qcow2", "/a", virtual_size=512, data_bytes=512),),
        excluded=(("sda", "cdrom"),),
        files=(
            FileRecord("vda.qcow2", 150, sha256=None, part_size=100, parts=(HASH, HASH)),
            FileRecord("domain.xml", 0, sha256=HASH, part_size=100, parts=(HASH,)),
        ),
        tool={},
    )
    value: dict[str, Any] = json.loads(manifest.encode())
    return value


def test_the_sound_one_is_accepted() -> None:
    decode_manifest(json.dumps(sound()).encode(), where="here")


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change: set what a path such as ``files.0.size`` names."""

    def change(manifest: dict[str, Any]) -> None:
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        place: Any = manifest
        for step in steps:
            place = place[step]
        place[last] = value

    return change


def without(path: str) -> Callable[[dict[str, Any]], None]:
    """A change: remove a key."""

    def change(manifest: dict[str, Any]) -> None:
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        place: Any = manifest
        for step in steps:
            place = place[step]
        del place[last]

    return change


CONTRADICTIONS = [
    at("schema", 2),
    at("schema", None),
    at("id", "today"),
    at("id", "../../x"),
    at("instant", "2026-11-22"),
    at("instant", 5),
    at("finished_at", "soon"),
    at("type", "differential"),
    at("consistency", "perfect"),
    at("type", "incremental"),
    at("parent", {"id": "20261122T151100Z", "manifest_sha256": HASH}),
    at("parent", {"id": "20261122T151100Z"}),
    at("vm", None),
    at("vm.uuid", "../../etc"),
    at("vm.uuid", UUID.upper()),
    at("files", []),
    at("files.0.name", "domain.xml"),
    at("files.0.name", "../vda.qcow2"),
    at("files.1.name", ".domain.xml"),
    at("files.1.name", ""),
    at("files.1.name", "a/b"),
    at("files.1.name", "domain.xml\0"),
    at("files.1.name", "manifest.json"),
    at("files.0.size", 250),
    at("files.0.size", 100),
    at("files.0.size", -1),
    at("files.0.size", "150"),
    at("files.0.size", 150.5),
    at("files.0.size", True),
    at("files.0.part_size", 0),
    at("files.0.part_size", -100),
    at("files.0.parts", [HASH]),
    at("files.0.parts", [HASH, HASH, HASH]),
    at("files.0.parts", [HASH, HASH[:-1]]),
    at("files.0.parts", [HASH, "g" * 64]),
    at("files.0.parts", [HASH, 5]),
    at("files.0.sha256", "abc"),
    at("disks.0.file", "vdb.qcow2"),
    at("disks.0.target", "../x"),
    at("disks.0.virtual_size", -1),
    at("disks.0.virtual_size", 511),
    at("disks.0.virtual_size", "512"),
    at("disks.0.data_bytes", None),
    at("disks.0.type", "incremental"),
    at("disks.0.type", "delta"),
    at("disks.0.backing", "../20261122T151200Z/vda.qcow2"),
    at("excluded", [{"target": "sda"}]),
    at("tool", None),
    *(without(key) for key in sound()),
    without("vm.node"),
    without("files.0.parts"),
    without("disks.0.source"),
]


@pytest.mark.parametrize(
    ("backing", "is_sound"),
    [
        ("../20261122T151100Z/vda.qcow2", True),
        (None, False),
        ("", False),
        ("vda.qcow2", False),
        ("/vda.qcow2", False),
        ("../20261122T151000Z/vda.qcow2", False),
        ("../20261122T151100Z/../x", False),
        ("../20261122T151100Z/", False),
    ],
)
def test_an_incremental_disk_builds_on_a_file_of_its_parent(backing: str | None, is_sound: bool) -> None:
    value = sound()
    value.update(type="incremental", parent={"id": "20261122T151100Z", "manifest_sha256": HASH})
    value["disks"][0].update(type="incremental", backing=backing)
    if is_sound:
        assert decode_manifest(json.dumps(value).encode(), where="here").disks[0].backing == backing
    else:
        with pytest.raises(FormatError, match="here"):
            decode_manifest(json.dumps(value).encode(), where="here")


@pytest.mark.parametrize("change", CONTRADICTIONS)
def test_what_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    value = copy.deepcopy(sound())
    change(value)
    with pytest.raises(FormatError, match="here"):
        decode_manifest(json.dumps(value).encode(), where="here")


def test_two_disks_of_one_file_or_one_name() -> None:
    for key in ("file", "target"):
        value = sound()
        value["files"].append(dict(value["files"][0], name="vdb.qcow2"))
        value["disks"].append(dict(value["disks"][0], target="vdb", file="vdb.qcow2"))
        decode_manifest(json.dumps(value).encode(), where="here")
        value["disks"][1][key] = value["disks"][0][key]
        with pytest.raises(FormatError, match="here"):
            decode_manifest(json.dumps(value).encode(), where="here")


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"null", b"{", b"\xff\xfe", b'"x"', b"{}", b"[" * 100_000])
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(FormatError, match="here"):
        decode_manifest(data, where="here")


@given(st.integers(0, 10_000), st.binary(max_size=3))
def test_a_torn_file_is_never_taken_for_a_manifest(keep: int, junk: bytes) -> None:
    data = json.dumps(sound(), indent=1).encode()
    torn = data[: keep % len(data)] + junk
    try:
        decode_manifest(torn, where="here")
    except FormatError:
        return
    assert json.loads(torn) == sound()


def test_a_newer_schema_says_what_to_do() -> None:
    with pytest.raises(FormatError, match=r"schema 2; this version reads 1. Upgrade"):
        decode_manifest(json.dumps(dict(sound(), schema=2)).encode(), where="here")


def test_a_manifest_in_the_wrong_place() -> None:
    manifest = decode_manifest(json.dumps(sound()).encode(), where="here")
    check_place(manifest, UUID, "20261122T151200Z", where="here")
    for uuid, backup_id in ((UUID, "20261122T151201Z"), (UUID.replace("0", "1"), "20261122T151200Z")):
        with pytest.raises(FormatError, match="was moved"):
            check_place(manifest, uuid, backup_id, where="here")


@given(st.binary(max_size=300), st.integers(1, 100))
def test_the_record_of_a_small_file(data: bytes, part_size: int) -> None:
    record = describe_bytes("domain.xml", data, part_size=part_size)
    assert (record.size, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert len(record.parts) == max(1, -(-len(data) // part_size))
    assert record.parts[0] == hashlib.sha256(data[:part_size]).hexdigest()
