# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives the engine without Ansible, here or in a process that can be killed, and looks at what it leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._backup import manage_backups
from ansible_collections.vmforge.backup.plugins.module_utils._listing import list_entries
from ansible_collections.vmforge.backup.plugins.module_utils._model import VmRef
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._offsite_listing import OffsiteListing
from ansible_collections.vmforge.backup.plugins.module_utils._options import BACKUP_ARGUMENTS, BackupOptions
from ansible_collections.vmforge.backup.plugins.module_utils._processes import run_each
from ansible_collections.vmforge.backup.plugins.module_utils._remove import remove_backup
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_config import S3Config
from ansible_collections.vmforge.backup.plugins.module_utils._source import RUN_DIRECTORY
from ansible_collections.vmforge.backup.plugins.module_utils._vm_run import VmRun
from tests.bed import records
from tests.bed.guest import Guest
from tests.bed.s3 import S3Server

NODE = "node1"
_CLONE_NEWNS = 0x00020000
Entry = dict[str, Any]


def wait_for(what: str, found: Callable[[], Any], timeout: float = 300) -> Any:
    """Wait until ``found()`` is true; its value."""
    deadline, pause = time.monotonic() + timeout, 0.02
    while not (value := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(pause)
        # To ask costs a program each time.
        pause = min(pause * 1.3, 0.25)
    return value


@dataclass
class Engine:
    """The engine with its directories. At the end of a ``with`` block nothing that it began runs any more.

    Attributes:
        place: A directory that QEMU's user may enter.
        s3: Options of S3, for every call.
        namespace: Process in whose mount namespace backups run: that of a private libvirtd. 0 is this one.
        under_way: Process ids of what was begun and not yet waited for.
    """

    place: Path
    s3: dict[str, Any] = field(default_factory=dict)
    namespace: int = 0
    under_way: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.backup_dir, self.scratch_dir = self.place / "backups", self.place / "scratch"
        self.backup_dir.mkdir(mode=0o700, exist_ok=True)
        self.scratch_dir.mkdir(mode=0o711, exist_ok=True)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_unused: object) -> None:
        # Of a test that failed: the guest is locked by it, and the next test has the same one.
        for pid in tuple(self.under_way):
            self.end(pid)

    def end(self, pid: int) -> None:
        """Kill what :meth:`start` began, with all its processes, and wait for that."""
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.under_way.discard(pid)

    def params(self, guest: Guest, **more: Any) -> dict[str, Any]:
        """Module options."""
        values = {name: spec.get("default") for name, spec in BACKUP_ARGUMENTS.items()}
        values.update(vm=[guest.name], node=NODE, backup_dir=str(self.backup_dir), scratch_dir=str(self.scratch_dir))
        values.update(self.s3, **more)
        return values

    def run(self, guest: Guest, **more: Any) -> Entry:
        """Back up in processes of its own, as the module does; the VM's entry of the result."""
        options = BackupOptions.from_params(self.params(guest, **more))
        ref = VmRef(guest.uuid, guest.name, NODE)
        works = [lambda: VmRun(options, ref).run()]
        entry: Entry = run_each(works, parallel=1, died=lambda _index, why: {"result": "died", "why": why})[0]
        return entry

    def backup(self, guest: Guest, **more: Any) -> Entry:
        """Make a backup; it must succeed."""
        entry = self.run(guest, **more)
        assert entry["result"] != "died", entry["why"]
        assert entry["error"] is None, entry["error"]
        return entry

    def fail(self, guest: Guest, code: str, **more: Any) -> Entry:
        """Try to make a backup; it must fail with this code."""
        entry = self.run(guest, **more)
        assert entry["result"] == "failed", entry
        assert entry["error"]["code"] == code, entry["error"]
        return entry

    def start(self, guest: Guest, **more: Any) -> Running:
        """Begin a backup in a process of its own, which may be killed."""
        answer = self.place / f"answer-{time.monotonic_ns()}.json"
        pid = os.fork()
        if pid:
            self.under_way.add(pid)
            return Running(self, guest, pid, answer)
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            self._enter()
            answer.write_text(json.dumps(self.run(guest, **more)))
        finally:
            os._exit(0)

    def _enter(self) -> None:
        if not self.namespace:
            return
        descriptor = os.open(f"/proc/{self.namespace}/ns/mnt", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "setns")

    def remove(self, guest: Guest, backup_id: str, *, check_mode: bool = False, **more: Any) -> Any:
        """``state: absent``; the outcome."""
        params = self.params(guest, state="absent", id=backup_id, **more)
        return remove_backup(Request(params, check_mode=check_mode))

    def ask(self, guest: Guest, *, check_mode: bool, **more: Any) -> Any:
        """Call the module's use case itself; the outcome."""
        return manage_backups(Request(self.params(guest, **more), check_mode=check_mode))

    def store(self) -> S3Store:
        """The bucket, as the engine sees it."""
        return S3Store(S3Config.from_params(self.s3))

    def entries(self, guest: Guest, *, bucket: bool = False, path: Path | None = None) -> list[Entry]:
        """What ``vmforge_backup_info`` tells of this guest."""
        if not bucket:
            return list_entries(path or self.backup_dir, None, (guest.uuid,))
        with contextlib.closing(self.store()) as store:
            return list_entries(path or self.backup_dir, OffsiteListing(store), (guest.uuid,))

    def ready(self, guest: Guest, *, bucket: bool = False) -> list[Entry]:
        """The entries that are called backups."""
        return [entry for entry in self.entries(guest, bucket=bucket) if entry["status"] == "ready"]

    def directory(self, guest: Guest) -> Path:
        """Where this guest's backups lie."""
        return self.backup_dir / guest.uuid

    def partials(self, guest: Guest) -> list[Path]:
        """What was begun and not finished."""
        return list(self.directory(guest).glob("*.partial"))

    def failures(self, guest: Guest) -> list[Entry]:
        """What ``*.failed.json`` says, oldest first."""
        return [json.loads(path.read_bytes()) for path in sorted(self.directory(guest).glob("*.failed.json"))]


@dataclass
class Running:
    """A backup under way in another process."""

    engine: Engine
    guest: Guest
    pid: int
    answer: Path

    def progress(self) -> Entry:
        """What ``progress.json`` says now; empty before there is one."""
        for path in self.engine.partials(self.guest):
            with contextlib.suppress(OSError):
                found: Entry = json.loads((path / "progress.json").read_bytes())
                return found
        return {}

    def middle(self, least: int = 1 << 20, timeout: float = 300) -> int:
        """Wait until it is in the middle of reading; the process id of the VM's own process."""

        def reading() -> Any:
            assert Path(f"/proc/{self.pid}").exists() and not self.answer.exists(), self.answer.read_text()
            now = self.progress()
            # Not the total: a rate limit makes sure that there is more.
            return now if now.get("phase") == "reading" and now["bytes_done"] >= least else None

        return int(wait_for("reading", reading, timeout)["pid"])

    def kill(self, number: int = signal.SIGKILL, *, pid: int = 0) -> None:
        """Send a signal to the run, or to a process of it."""
        os.kill(pid or self.pid, number)

    def kill_all(self) -> None:
        """What an out-of-memory killer or an impatient operator does: every process of it at once."""
        os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 600) -> Entry:
        """Wait for its end; the VM's entry, empty when it was killed."""
        deadline = time.monotonic() + timeout
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                self.engine.end(self.pid)
                raise TimeoutError(f"the backup did not end within {timeout} s")
            time.sleep(0.02)
        self.engine.under_way.discard(self.pid)
        if not self.answer.exists():
            return {}
        entry: Entry = json.loads(self.answer.read_bytes())
        return entry


def qemu_nbds(guest: Guest) -> list[str]:
    """Command lines of every ``qemu-nbd`` that serves a disk of this guest for a backup."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"qemu-nbd" in words and str(RUN_DIRECTORY / guest.uuid).encode() in words:
                found.append(words.replace(b"\0", b" ").decode())
    return found


def job(guest: Guest) -> str:
    """The job that libvirt says runs on a domain: ``None``, ``Unbounded``…"""
    match = re.search(r"Job type:\s+(\w+)", guest.virsh("domjobinfo", guest.name))
    assert match
    return match.group(1)


def is_connected(guest: Guest) -> bool:
    """Whether libvirt knows that the agent holds its channel open."""
    return "name='org.qemu.guest_agent.0' state='connected'" in guest.virsh("dumpxml", guest.name)


def is_frozen(guest: Guest) -> bool:
    """Whether the guest's file systems are frozen now, by the agent's own word."""
    answer = guest.virsh("qemu-agent-command", guest.name, '{"execute": "guest-fsfreeze-status"}')
    return str(json.loads(answer)["return"]) == "frozen"


def assert_unhurt(engine: Engine, guest: Guest, *, state: str = "running", agent: bool = True) -> None:
    """The guest is as it was, and nothing of ours is left in libvirt, on the host or in the process table."""
    root = Path(f"/proc/{engine.namespace}/root") if engine.namespace else Path("/")
    assert guest.state() == state
    if state == "running":
        assert job(guest) == "None"
        # Every third goes to the file system as well.
        guest.wait_more(4)
        if guest.agent and agent:
            wait_for("the agent", lambda: is_connected(guest))
            assert not is_frozen(guest)
    assert os.listdir(engine.scratch_dir) == []
    assert list(root.glob(f"var/lib/libvirt/qemu/domain-*-{guest.name[:20]}/vmforge-*")) == []
    assert not (root / f".{RUN_DIRECTORY}" / guest.uuid / "nbd").exists()
    assert qemu_nbds(guest) == []


def assert_nothing_unfinished(engine: Engine, guest: Guest, server: S3Server | None = None) -> None:
    """No partial directory, no unfinished upload, no object without a manifest; all that is called ready is good."""
    assert engine.partials(guest) == []
    assert list(engine.directory(guest).glob("*.deleting")) == []
    if server is not None:
        prefix = f"{engine.s3['s3_prefix']}/{guest.uuid}/"
        assert multiparts(server, prefix) == []
        ids = {key[len(prefix) :].split("/")[0] for key in keys(server, prefix)}
        assert all(f"{prefix}{backup_id}/manifest.json" in keys(server, prefix) for backup_id in ids)
    verify_all(engine, guest, server)


def keys(server: S3Server, prefix: str, bucket: str | None = None) -> list[str]:
    """The keys under a prefix."""
    with contextlib.closing(server.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket or server.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]


def multiparts(server: S3Server, prefix: str) -> list[str]:
    """The keys of unfinished uploads under a prefix."""
    with contextlib.closing(server.client()) as client:
        found = client.list_multipart_uploads(Bucket=server.bucket, Prefix=prefix)
        return [item["Key"] for item in found.get("Uploads", ())]


def check_image(path: Path) -> None:
    """``qemu-img check`` finds nothing at all. It never decompresses: compare as well."""
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No errors were found" in done.stdout, done.stdout


def compare(path: Path, original: Path | str, original_format: str) -> None:
    """``qemu-img compare`` reads both images whole and finds them identical; it does not mind their sizes."""
    argv = ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", original_format, str(path), str(original)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    assert virtual_size(path, "qcow2") == virtual_size(original, original_format)


def virtual_size(path: Path | str, image_format: str) -> int:
    """The size that a guest sees."""
    found = json.loads(run(["qemu-img", "info", "-U", "--output=json", "-f", image_format, str(path)]))
    return int(found["virtual-size"])


def verify(path: Path, guest: Guest) -> int:
    """A backup of a guest that writes: files as the manifest says, sound images, one instant; its newest record."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    for record in manifest["files"]:
        data = (path / record["name"]).read_bytes()
        assert len(data) == record["size"]
        assert record["sha256"] in (None, hashlib.sha256(data).hexdigest())
        size = record["part_size"]
        parts = [hashlib.sha256(data[at : at + size]).hexdigest() for at in range(0, max(len(data), 1), size)]
        assert record["parts"] == parts
    images = [path / f"{target}.qcow2" for target in guest.records_on or ()]
    for image in images:
        check_image(image)
    return records.verify(images, records.Geometry.of(guest))


def verify_all(engine: Engine, guest: Guest, server: S3Server | None = None) -> list[int]:
    """Prove every copy of every backup that is called ready; the newest record in each."""
    found = []
    for entry in engine.ready(guest, bucket=server is not None):
        assert entry["copies"], entry
        if "local" in entry["copies"]:
            found.append(verify(Path(entry["path"]), guest))
        if "s3" in entry["copies"]:
            assert server is not None
            with downloaded(engine, server, entry["s3_key"]) as path:
                found.append(verify(path, guest))
    return found


@contextlib.contextmanager
def downloaded(engine: Engine, server: S3Server, prefix: str) -> Iterator[Path]:
    """A backup fetched from S3 with plain boto3, beside all that it builds on, wherever that lies."""
    place = engine.place / f"download-{time.monotonic_ns()}"
    above, _slash, backup_id = prefix.rpartition("/")
    path = place / backup_id
    try:
        with contextlib.closing(server.client()) as client:
            wanted: str | None = backup_id
            while wanted is not None:
                (place / wanted).mkdir(parents=True)
                for key in keys(server, f"{above}/{wanted}/"):
                    client.download_file(server.bucket, key, str(place / wanted / key.rsplit("/", 1)[-1]))
                if not (place / wanted / "manifest.json").exists():
                    # No link: names below it would lead to where it really lies.
                    here = engine.backup_dir / above.rpartition("/")[2] / wanted
                    shutil.copytree(here, place / wanted, dirs_exist_ok=True)
                parent = json.loads((place / wanted / "manifest.json").read_bytes())["parent"]
                wanted = parent["id"] if parent is not None else None
        yield path
    finally:
        shutil.rmtree(place)


def noise(path: Path, *runs: tuple[int, int]) -> None:
    """Write random bytes into a raw image: runs of offset and length."""
    with path.open("r+b") as file:
        for offset, length in runs:
            file.seek(offset)
            file.write(os.urandom(length))


def run(argv: Sequence[str]) -> str:
    """Run a program; what it printed."""
    return subprocess.run(list(argv), check=True, capture_output=True, text=True).stdout
