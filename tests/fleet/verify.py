# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares a fleet's database, disks and bucket with each other, without any of the collection's own code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bed.guest import Guest
from tests.bed.records import Geometry, verify
from tests.fleet.fleet import MASTER, NODES, Fleet

BACKUPS = "/var/lib/vmforge/backups"
PREFIX = "fleet/"
# Where a key could be left.
_PLACES = ("/etc", "/home", "/opt", "/root", "/tmp", "/var/lib/vmforge", "/var/www")
# May lie beside a manifest without being named in it.
_SIDECARS = {"manifest.json", "offsite.json", "hold.json", "verified.json"}


@dataclass
class Copy:
    """A backup in one place: sizes of its files, and its manifest's bytes."""

    manifest: bytes
    sizes: dict[str, int]

    @property
    def contents(self) -> dict[str, Any]:
        """What the manifest says."""
        contents: dict[str, Any] = json.loads(self.manifest)
        return contents

    @property
    def sha256(self) -> str:
        """The root of trust."""
        return hashlib.sha256(self.manifest).hexdigest()


# By the UUID of the machine and the id of the backup.
Place = dict[tuple[str, str], Copy]


@dataclass
class Comparison:
    """What was found.

    Attributes:
        problems: Sentences; none if all is well.
        backups: How many there are, wherever.
    """

    problems: list[str] = field(default_factory=list)
    backups: int = 0

    def check(self, fine: bool, problem: str) -> None:
        """Note a problem unless all is fine."""
        if not fine:
            self.problems.append(problem)


def compare(fleet: Fleet) -> Comparison:
    """Compare all three places, and prove the guests' newest images."""
    found = Comparison()
    disks = {node: _disk(fleet, node, found) for node in NODES}
    _look_for_keys(fleet, found)
    with contextlib.closing(fleet.s3.client()) as client:
        bucket = _bucket(client, fleet.s3.bucket, found)
        _compare_copies(disks, bucket, found)
        _compare_rows(fleet, disks, bucket, found)
        _compare_bytes(fleet, client, disks, bucket, found)
        _prove_newest(fleet, client, bucket, found)
    found.backups = len({key for place in (*disks.values(), bucket) for key in place})
    return found


def _disk(fleet: Fleet, node: str, found: Comparison) -> Place:
    host = fleet.hosts[node]
    listing = host.run(["find", BACKUPS, "-mindepth", "2", "-printf", "%y %s %P\n"]).stdout
    files = [line.split(" ", 2) for line in listing.splitlines()]
    for kind, _size, name in files:
        left = kind == "d" and name.endswith((".partial", ".deleting"))
        found.check(not left, f"{node}: {name} was left behind")
    place: Place = {}
    for kind, _size, name in files:
        if kind == "f" and name.endswith("/manifest.json"):
            vm, backup, _file = name.split("/")
            sizes = {n.split("/")[2]: int(s) for k, s, n in files if k == "f" and n.startswith(f"{vm}/{backup}/")}
            place[vm, backup] = Copy(host.run(["cat", f"{BACKUPS}/{name}"]).stdout.encode(), sizes)
    return place


def _look_for_keys(fleet: Fleet, found: Comparison) -> None:
    """Nodes hold keys that may write; those that may delete are on the master alone."""
    secrets = {name: fleet.state["s3"][name]["secret_key"] for name in ("no_delete", "delete_only")}
    for host in fleet.hosts.values():
        for name, secret in secrets.items():
            search = ["grep", "-rlF", "-f", "-", *_PLACES]
            files = host.run(search, stdin=secret, check=False).stdout.split()
            allowed = name == "no_delete" or host.host == MASTER
            found.check(bool(files) == allowed, f"{host.host}: the key {name} stands in {files}")


def _bucket(client: Any, bucket: str, found: Comparison) -> Place:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    objects = {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    found.check(not uploads, f"bucket: unfinished uploads of {[upload['Key'] for upload in uploads]}")
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for key, size in objects.items():
        parts = key.removeprefix(PREFIX).split("/")
        found.check(key.startswith(PREFIX) and len(parts) == 3, f"bucket: {key} belongs to nothing")
        if len(parts) == 3:
            groups.setdefault((parts[0], parts[1]), {})[parts[2]] = size
    place: Place = {}
    for (vm, backup), sizes in groups.items():
        found.check("manifest.json" in sizes, f"bucket: {vm}/{backup} has no manifest")
        if "manifest.json" in sizes:
            key = f"{PREFIX}{vm}/{backup}/manifest.json"
            place[vm, backup] = Copy(client.get_object(Bucket=bucket, Key=key)["Body"].read(), sizes)
    return place


def _compare_copies(disks: dict[str, Place], bucket: Place, found: Comparison) -> None:
    for node, place in disks.items():
        for key, copy in place.items():
            where = f"{node}: {'/'.join(key)}"
            found.check(copy.contents["vm"]["node"] == node, f"{where} is of node {copy.contents['vm']['node']}")
            uploaded = "offsite.json" in copy.sizes
            found.check((key in bucket) == uploaded, f"{where} is {'not ' * uploaded}in the bucket")
            if key in bucket:
                found.check(bucket[key].manifest == copy.manifest, f"{where} has another manifest than the bucket")
                _check_files(copy, where, found, local="offsite.json" in copy.sizes)
    for key, copy in bucket.items():
        _check_files(copy, f"bucket: {'/'.join(key)}", found, local=True)


def _check_files(copy: Copy, where: str, found: Comparison, *, local: bool) -> None:
    named = {file["name"]: file["size"] for file in copy.contents["files"]}
    here = {name: size for name, size in copy.sizes.items() if name not in _SIDECARS}
    found.check(not local or here == named or set(here) <= set(named), f"{where}: {sorted(set(here) - set(named))}")
    for name, size in here.items():
        found.check(named.get(name) == size, f"{where}: {name} has {size} bytes, not {named.get(name)}")
    if where.startswith("bucket"):
        found.check(set(here) == set(named), f"{where}: {sorted(set(named) - set(here))} are missing")


def _compare_rows(fleet: Fleet, disks: dict[str, Place], bucket: Place, found: Comparison) -> None:
    columns = ("vm_uuid", "status", "storage", "path", "s3_key", "checksum_sha256", "size_bytes", "meta")
    rows = [row for row in fleet.panel.rows("backups", *columns) if "node" in _meta(row)]
    ready = {(row["vm_uuid"], _meta(row)["id"]): row for row in rows if row["status"] == "ready"}
    number = sum(row["status"] == "ready" for row in rows)
    found.check(len(ready) == number, f"database: {number} ready rows for {len(ready)} backups")
    wanted = {key: (node, copy) for node, place in disks.items() for key, copy in place.items()}
    wanted.update({key: (copy.contents["vm"]["node"], copy) for key, copy in bucket.items() if key not in wanted})
    for key in wanted.keys() | ready.keys():
        where = f"database: {'/'.join(key)}"
        if key not in ready:
            found.check(False, f"{where} has no ready row")
        elif key not in wanted:
            found.check(False, f"{where} is ready and nowhere")
        else:
            _compare_row(ready[key], wanted[key], key, bucket, where, found)


def _meta(row: dict[str, Any]) -> dict[str, Any]:
    meta = row["meta"]
    return dict(json.loads(meta) if isinstance(meta, str) else meta or {})


def _compare_row(
    row: dict[str, Any],
    wanted: tuple[str, Copy],
    key: tuple[str, str],
    bucket: Place,
    where: str,
    found: Comparison,
) -> None:
    node, copy = wanted
    size = sum(file["size"] for file in copy.contents["files"])
    local = any(file["name"] in copy.sizes and "manifest.json" in copy.sizes for file in copy.contents["files"])
    storage = {(True, True): "hybrid", (True, False): "local", (False, True): "s3"}[local, key in bucket]
    found.check(_meta(row)["node"] == node, f"{where} is of node {_meta(row)['node']}, not {node}")
    found.check(row["path"].rstrip("/") == f"{BACKUPS}/{'/'.join(key)}", f"{where} has the path {row['path']}")
    found.check(row["checksum_sha256"] == copy.sha256, f"{where} has another checksum than its manifest")
    found.check(row["size_bytes"] == size, f"{where} has {row['size_bytes']} bytes, not {size}")
    found.check(row["storage"] == storage, f"{where} is {row['storage']}, not {storage}")
    if key in bucket:
        prefix = f"{PREFIX}{'/'.join(key)}"
        found.check(row["s3_key"].strip("/") == prefix, f"{where} has the key {row['s3_key']}")


def _compare_bytes(fleet: Fleet, client: Any, disks: dict[str, Place], bucket: Place, found: Comparison) -> None:
    for node, place in disks.items():
        for key in place.keys() & bucket.keys():
            names = [name for name in place[key].sizes if name not in _SIDECARS]
            paths = [f"{BACKUPS}/{'/'.join(key)}/{name}" for name in names]
            sums = fleet.hosts[node].run(["sha256sum", *paths]).stdout if names else ""
            local = {line.split()[1].rpartition("/")[2]: line.split()[0] for line in sums.splitlines()}
            for name, expected in local.items():
                digest = hashlib.sha256()
                for block in _read(client, fleet.s3.bucket, f"{PREFIX}{'/'.join(key)}/{name}"):
                    digest.update(block)
                where = f"{'/'.join(key)}/{name}"
                found.check(digest.hexdigest() == expected, f"{where} differs between {node} and the bucket")


def _read(client: Any, bucket: str, key: str) -> Iterator[bytes]:
    body = client.get_object(Bucket=bucket, Key=key)["Body"]
    while block := body.read(1 << 20):
        yield block


def _prove_newest(fleet: Fleet, client: Any, bucket: Place, found: Comparison) -> None:
    """Fetch the newest backup of each guest from the bucket, and look for the records that it wrote."""
    for name, guest in fleet.guests.items():
        backups = sorted(backup for vm, backup in bucket if vm == guest.uuid)
        found.check(bool(backups), f"bucket: no backup of {name}")
        if not backups:
            continue
        with tempfile.TemporaryDirectory(prefix="vmforge-fleet-", dir="/var/tmp") as place:
            wanted: str | None = backups[-1]
            while wanted is not None:
                wanted = _fetch(fleet, client, guest, wanted, Path(place))
            images = [Path(place) / backups[-1] / f"{disk.target}.qcow2" for disk in guest.disks]
            newest = verify(images, Geometry.of(guest))
        running = not name.endswith("db1")
        found.check(newest > 0 or not running, f"{name}/{backups[-1]} holds no record")


def _fetch(fleet: Fleet, client: Any, guest: Guest, backup_id: str, place: Path) -> str | None:
    """Fetch the disks of a backup; the id of the one that it builds on."""
    prefix = f"{PREFIX}{guest.uuid}/{backup_id}/"
    (place / backup_id).mkdir()
    for disk in guest.disks:
        image = place / backup_id / f"{disk.target}.qcow2"
        with image.open("wb") as file:
            file.writelines(_read(client, fleet.s3.bucket, prefix + image.name))
    parent = json.loads(b"".join(_read(client, fleet.s3.bucket, prefix + "manifest.json")))["parent"]
    return str(parent["id"]) if parent is not None else None
