# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold after every round: of the guest, of the host, and of every backup that is called ready."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._listing import INFO_ARGUMENTS, list_backups
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._s3_checksum import PROBE_NAME
from tests.bed import records
from tests.bed.guest import Guest, run
from tests.bed.s3 import S3Server

LIBVIRT = Path("/var/lib/libvirt/qemu")
RUN = Path("/run/vmforge-backup")
_THAW_SECONDS = 180.0
# Of ours, in a disk.
MOST_BITMAPS = 2


class BrokenError(AssertionError):
    """An invariant does not hold."""


def require(condition: object, text: str) -> None:
    """Raise unless a condition holds; assert statements can be switched off."""
    if not condition:
        raise BrokenError(text)


@dataclass
class Filler:
    """Bytes around the records of a disk that never change, and so must be in every copy."""

    ranges: Sequence[tuple[int, int]]
    digest: str

    @classmethod
    def of(cls, raw: Path, ranges: Sequence[tuple[int, int]]) -> Filler:
        """Take it from the disk as it was made."""
        return cls(ranges, _digest(raw, ranges))

    def check(self, raw: Path, name: str) -> None:
        """Compare a copy's."""
        require(_digest(raw, self.ranges) == self.digest, f"{name}: bytes that never changed differ")


def _digest(path: Path, ranges: Sequence[tuple[int, int]]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start, end in ranges:
            file.seek(start)
            digest.update(file.read(end - start))
    return digest.hexdigest()


@dataclass
class Checker:
    """Looks behind the back of what is tested.

    Attributes:
        fillers: By target of the disks that hold records.
    """

    guest: Guest
    backup_dir: Path
    scratch_dir: Path
    work: Path
    s3: S3Server
    s3_prefix: str
    fillers: dict[str, Filler]
    fs: str
    seen: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = self.s3.client()

    # The guest and the host

    def guest_unharmed(self) -> None:
        """It runs, is thawed and writes."""
        state = self.guest.state()
        require(state == "running", f"the guest is {state}")
        deadline = time.monotonic() + _THAW_SECONDS
        while (status := self.frozen()) != "thawed":
            require(time.monotonic() < deadline, f"the guest's agent says {status!r} after {_THAW_SECONDS} s")
            time.sleep(0.1)
        self.guest.wait_more(10)

    def frozen(self) -> str:
        """What the agent says of the file systems."""
        order = '{"execute":"guest-fsfreeze-status"}'
        try:
            answer = self.guest.virsh("qemu-agent-command", self.guest.name, order, "--timeout", "5")
        except RuntimeError as error:
            return str(error)
        return str(json.loads(answer)["return"])

    def host_clean(self) -> None:
        """No job, scratch file, socket or process of ours."""
        require(not self.job(), f"a backup job is left: {self.job()}")
        require(not list(self.scratch_dir.iterdir()), f"scratch files: {list(self.scratch_dir.iterdir())}")
        sockets = [*LIBVIRT.glob("domain-*/vmforge-*"), *RUN.glob("*/nbd/*")]
        require(not sockets, f"sockets are left: {sockets}")
        require(not list(_servers(self.guest.uuid)), f"qemu-nbd is left: {list(_servers(self.guest.uuid))}")
        checkpoints = self.guest.virsh("checkpoint-list", self.guest.name, "--name").split()
        require(not checkpoints, f"libvirt still knows checkpoints: {checkpoints}")
        # Also what libvirt has forgotten.
        for question in ("query-jobs", "query-block-exports"):
            require(not self.ask_qemu(question), f"QEMU still has {self.ask_qemu(question)}")
        for node in self.ask_qemu("query-named-block-nodes"):
            names = [bitmap.get("name") for bitmap in node.get("dirty-bitmaps", ())]
            require(len(names) <= MOST_BITMAPS, f"QEMU has the bitmaps {names} of {node['file']}")

    def ask_qemu(self, question: str) -> list[dict[str, Any]]:
        """What the guest's QEMU itself says."""
        said = self.guest.virsh("qemu-monitor-command", self.guest.name, json.dumps({"execute": question}))
        answer: list[dict[str, Any]] = json.loads(said)["return"]
        return answer

    def job(self) -> str:
        """The XML of a backup job, empty if there is none."""
        argv = ["virsh", "-q", "-c", "qemu:///system", "backup-dumpxml", self.guest.name]
        return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False).stdout

    # Backups

    def entries(self) -> list[dict[str, Any]]:
        """What ``vmforge_backup_info`` lists of directory and bucket."""
        defaults = {name: spec.get("default") for name, spec in INFO_ARGUMENTS.items()}
        place = {"backup_dir": str(self.backup_dir), "offsite": "s3", "s3_prefix": self.s3_prefix}
        outcome = list_backups(Request(params={**defaults, **place, **self.s3.params()}))
        return [entry for entry in outcome.values["backups"] if entry["vm"]["uuid"] == self.guest.uuid]

    def storage_clean(self) -> None:
        """Nothing unfinished, here and in the bucket."""
        for entry in self.entries():
            require(entry["status"] in ("ready", "failed"), f"{entry['id']} is {entry['status']}: {entry['path']}")
            require(entry["status"] == "ready" or entry["error"], f"{entry['id']} failed without a reason")
        names = sorted(path.name for path in (self.backup_dir / self.guest.uuid).glob("*"))
        odd = [name for name in names if name != ".lock" and not name.endswith(("Z", ".failed.json"))]
        require(not odd, f"left in the backup directory: {odd}")
        # Of a run that was killed while it asked what the server can do; removed when it is old.
        uploads = [upload["Key"] for upload in self.uploads() if not upload["Key"].endswith(PROBE_NAME)]
        require(not uploads, f"unfinished uploads: {uploads}")
        ready = {entry["id"] for entry in self.entries() if "s3" in entry["copies"]}
        pending = {entry["id"] for entry in self.entries() if entry["offsite_pending"]}
        strays = [key for key in self.keys("") if key.split("/")[-2] not in ready | pending]
        require(not strays, f"objects without a backup: {strays}")

    def wait_for_s3(self) -> None:
        """A server that was killed answers before it finds its objects again, and calls that an internal error."""
        deadline = time.monotonic() + 180
        while True:
            try:
                for key in self.keys(""):
                    self.client.get_object(Bucket=self.s3.bucket, Key=key, Range="bytes=0-0")["Body"].read()
                return
            except self.client.exceptions.NoSuchKey:
                # Deleted by the run that goes on.
                continue
            except self.client.exceptions.ClientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def uploads(self) -> list[dict[str, Any]]:
        """Multipart uploads that nobody finished."""
        found: list[dict[str, Any]] = self.client.list_multipart_uploads(Bucket=self.s3.bucket).get("Uploads", [])
        return found

    def abort(self, upload: dict[str, Any]) -> None:
        """Remove one of them."""
        target = {"Bucket": self.s3.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        self.client.abort_multipart_upload(**target)

    def keys(self, backup_id: str) -> dict[str, int]:
        """Objects below a backup's prefix, or of all of them: key -> size."""
        prefix = f"{self.s3_prefix}/{self.guest.uuid}/{backup_id}"
        found: dict[str, int] = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.s3.bucket, Prefix=prefix):
            found.update({item["Key"]: item["Size"] for item in page.get("Contents", [])})
        return found

    def prove(self, entry: dict[str, Any], entries: dict[str, dict[str, Any]], bounds: tuple[int, int]) -> int:
        """Prove every copy of a ready backup byte by byte, over what it builds on.

        Args:
            entries: All, by id.
            bounds: The newest record must lie between these.

        Returns:
            The newest record in it.
        """
        newest = -1
        for copy in entry["copies"]:
            directory = self._assemble(entry, entries, copy)
            newest = self._prove_copy(entry, directory, copy)
            low, high = bounds
            require(low <= newest <= high, f"{entry['id']} ({copy}) holds {newest}, not {low} to {high}")
        require(entry["copies"], f"{entry['id']} is ready and has no copy")
        return newest

    def _assemble(self, entry: dict[str, Any], entries: dict[str, dict[str, Any]], copy: str) -> Path:
        """Lay a copy of a backup beside its ancestors, wherever those lie; the backup's directory there."""
        chain = self.work / "chain"
        shutil.rmtree(chain, ignore_errors=True)
        chain.mkdir()
        member: dict[str, Any] | None = entry
        while member is not None:
            place = chain / member["id"]
            if (copy if member is entry else member["copies"][0]) == "local":
                # No link to the directory: names below it would lead to where it really lies.
                shutil.copytree(member["path"], place, copy_function=os.link)
            else:
                place.mkdir()
                for key in self.keys(member["id"] + "/"):
                    self.client.download_file(self.s3.bucket, key, str(place / key.rsplit("/", 1)[1]))
            parent = member["parent"]
            require(parent is None or parent["id"] in entries, f"{member['id']} has lost its parent: {parent}")
            member = entries[parent["id"]] if parent is not None else None
        return chain / entry["id"]

    def _prove_copy(self, entry: dict[str, Any], directory: Path, copy: str) -> int:
        name = f"{entry['id']} ({copy})"
        data = (directory / "manifest.json").read_bytes()
        require(hashlib.sha256(data).hexdigest() == entry["checksum_sha256"], f"{name}: not the manifest listed")
        manifest = json.loads(data)
        for record in manifest["files"]:
            _prove_file(directory / record["name"], record, name)
        raws: dict[str, Path] = {}
        for disk in manifest["disks"]:
            image, raw = directory / disk["file"], self.work / f"{disk['target']}.raw"
            run(["qemu-img", "check", "-q", str(image)])
            # With the names in the images, as anyone would.
            run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(raw)])
            require(raw.stat().st_size == disk["virtual_size"], f"{name}: {disk['target']} has another size")
            raws[disk["target"]] = raw
        for target, filler in self.fillers.items():
            filler.check(raws[target], f"{name}: {target}")
        if manifest["consistency"] == "quiesced":
            run(["/sbin/e2fsck", "-fn", str(raws[self.fs])])
        images = [raws[target] for target in self.guest.records_on or ()]
        newest = records.verify(images, records.Geometry.of(self.guest), formats=["raw"] * len(images))
        for raw in raws.values():
            raw.unlink()
        return newest


def _prove_file(path: Path, record: dict[str, Any], name: str) -> None:
    data = path.read_bytes()
    require(len(data) == record["size"], f"{name}: {path.name} has {len(data)} bytes, not {record['size']}")
    step = record["part_size"]
    parts = [hashlib.sha256(data[at : at + step]).hexdigest() for at in range(0, len(data), step)]
    require(parts == list(record["parts"]), f"{name}: a part of {path.name} differs from the manifest")
    if record["sha256"] is not None:
        require(hashlib.sha256(data).hexdigest() == record["sha256"], f"{name}: {path.name} differs as a whole")


def _servers(uuid: str) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if line.split(b"\0")[0].endswith(b"qemu-nbd") and uuid.encode() in line:
            yield line.replace(b"\0", b" ").decode(errors="replace")
