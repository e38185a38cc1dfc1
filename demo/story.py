# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup of a running guest, made by the playbook that people use, and the proof of it.

Everything lies in ``/var/lib/vmforge-demo`` and in one libvirt domain, ``vmforge-demo``; other domains, databases and
settings are left alone. :func:`clean` removes all of it, and stops libvirt if the demo had started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

from environments import SYSTEM_PYTHON, Environment, link
from tests.bed import hypervisor
from tests.bed.guest import MIB, Disk, Guest, run
from tests.bed.parts import boot_files
from tests.bed.records import Geometry, verify

ROOT = Path(__file__).resolve().parents[1]
NAME = "vmforge-demo"
HOME = Path("/var/lib/vmforge-demo")
BACKUPS = HOME / "backups"
STATE = HOME / "state.json"
UUID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "demo.vmforge.backup"))


class DemoError(Exception):
    """Something that the demo cannot go on from; the text says what to do."""


def say(text: str) -> None:
    print(text, flush=True)


def step(title: str) -> None:
    say(f"\n\033[1m==> {title}\033[0m" if os.isatty(1) else f"\n==> {title}")


def tell() -> None:
    """Do it all, from a bare system to a proved backup."""
    begun = time.monotonic()
    if os.geteuid():
        raise DemoError("it needs root, for libvirt and for disks that belong to QEMU: run it with sudo.")
    step("Ansible, in a virtual environment of this checkout")
    ansible = Environment("demo", SYSTEM_PYTHON, ("ansible-core==2.19.*",)).make()
    link()
    boot_files()
    say(run([ansible.bin("ansible"), "--version"]).stdout.splitlines()[0])
    downloaded = time.monotonic()

    guest = _running_guest()
    before = guest.wait_more(20)
    say(f"{NAME} runs and writes to two disks all the time; it has reported records 1..{before}.")

    step(f"ansible-playbook playbooks/backup.yml -e vm={NAME}")
    known = set(_ready())
    _playbook(ansible, "backup.yml")
    after = guest.wrote()
    made = sorted(set(_ready()) - known)
    if len(made) != 1:
        raise DemoError(f"the playbook left {len(made)} new backups below {BACKUPS}, not one.")
    say(f"The guest was never stopped: it had written record {before} before, and {after} at the end.")

    step(f"ansible-playbook playbooks/list.yml -e vm={NAME}")
    _playbook(ansible, "list.yml")

    step("The proof")
    newest = _prove(made[0], guest)
    if not before <= newest <= after:
        raise DemoError(
            f"the copy ends at record {newest}, outside of {before}..{after}: not of the time of the backup."
        )
    still = guest.wait_more(5)
    say(f"{NAME} still writes: record {still}. The backup is whole, of one instant, and boots.")
    say(f"\nDone in {time.monotonic() - downloaded:.0f} s ({downloaded - begun:.0f} s more for downloads and set-up).")
    say(f"The backup: {made[0]}\nmake demo again adds another; make demo-clean removes everything.")


def _running_guest() -> Guest:
    """Return the demo's guest, started if it is not running."""
    step("libvirt")
    _keep_started(hypervisor.start_missing())
    step("A tiny guest of its own")
    guest = _guest()
    owner = _owner()
    if owner not in (None, UUID):
        raise DemoError(f"a domain called {NAME} exists already (UUID {owner}) and is not the demo's; rename it first.")
    if owner is None:
        guest.define()
    if guest.state() != "running":
        guest.destroy()
        guest.start()
        guest.wait(r"^bed: ready")
    return guest


def _guest() -> Guest:
    HOME.mkdir(mode=0o755, exist_ok=True)
    for name in ("scratch", "backups"):
        (HOME / name).mkdir(mode=0o711, exist_ok=True)
    disks = [
        Disk(HOME / "vda.qcow2", size=256 * MIB),
        Disk(HOME / "vdb.qcow2", target="vdb", size=128 * MIB),
    ]
    # 20 ms between records: busy enough to prove something, idle enough to be left running.
    return Guest(NAME, HOME, disks, pause=20_000, uuid=UUID)


def _owner() -> str | None:
    """Return the UUID of the domain that bears the demo's name, None if there is none."""
    with contextlib.suppress(RuntimeError):
        return run(["virsh", "-q", "-c", "qemu:///system", "domuuid", NAME]).stdout.strip()
    return None


def _playbook(ansible: Environment, name: str) -> None:
    """Run a playbook of the checkout: no inventory, no database, no S3, and a backup directory of the demo's own."""
    variables = {"vmforge_backup_dir": str(BACKUPS), "vmforge_backup_scratch_dir": str(HOME / "scratch")}
    argv = [ansible.bin("ansible-playbook"), f"playbooks/{name}", "-e", f"vm={NAME}", "-e", json.dumps(variables)]
    env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
    if subprocess.run(argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False).returncode:
        raise DemoError(f"playbooks/{name} failed; what it says above tells why.")


def _ready() -> list[Path]:
    """List the finished backups: the directories with a manifest."""
    return sorted(path.parent for path in (BACKUPS / UUID).glob("*Z/manifest.json"))


def _prove(backup: Path, guest: Guest) -> int:
    """Check the copy on the host, then boot a second guest from it; the newest record that both found."""
    manifest: dict[str, Any] = json.loads((backup / "manifest.json").read_text())
    images = {disk["target"]: backup / disk["file"] for disk in manifest["disks"]}
    copies = [images[disk.target] for disk in guest.disks]
    for copy in copies:
        checked = run(["qemu-img", "check", "-f", "qcow2", str(copy)]).stdout
        say(f"qemu-img check {copy.name}: {checked.splitlines()[0]}")
    newest = verify(copies, Geometry.of(guest))
    say(f"Read on this host: the copies of both disks hold exactly records 1..{newest}.")
    say("A second guest boots from an overlay on the copy, and reads all of it:")
    said = _boot(copies, guest)
    say(f"  {said}")
    if said != f"bed: found 1..{newest} intact":
        raise DemoError("the second guest and this host do not agree.")
    return newest


def _boot(copies: list[Path], guest: Guest) -> str:
    """Boot QEMU on overlays over the copies, which it opens read-only; what the guest found."""
    proof = HOME / "proof"
    shutil.rmtree(proof, ignore_errors=True)
    proof.mkdir(mode=0o700)
    boot = boot_files()
    checker = Guest(f"{NAME}-proof", proof, guest.disks, mode="check")
    argv = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "256", "-nodefaults", "-display", "none"]
    argv += ["-serial", "stdio", "-no-reboot", "-kernel", str(boot.kernel), "-initrd", str(boot.initrd)]
    argv += ["-append", checker.orders()]
    for index, copy in enumerate(copies):
        overlay = proof / f"{copy.stem}.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(copy), str(overlay)])
        argv += ["-drive", f"file={overlay},format=qcow2,if=none,id=disk{index}"]
        argv += ["-device", f"virtio-blk-pci,drive=disk{index}"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
    shutil.rmtree(proof)
    found = [line.strip() for line in done.stdout.splitlines() if "bed: found" in line or "bed: BROKEN" in line]
    if not found:
        raise DemoError(f"the second guest found nothing: {done.stdout[-1000:]}{done.stderr}")
    return found[0]


def _keep_started(pids: list[int]) -> None:
    """Remember what was started, for :func:`clean`."""
    HOME.mkdir(mode=0o755, exist_ok=True)
    state = _state()
    state["started"] = state.get("started", []) + pids
    STATE.write_text(json.dumps(state))
    said = f"started (processes {', '.join(map(str, pids))})" if pids else "runs already; it is left as it is"
    say(f"libvirt {said}.")


def _state() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        state: dict[str, Any] = json.loads(STATE.read_text())
        return state
    return {}


def clean() -> None:
    """Remove the domain, its disks, its backups, and the daemons that the demo had started. Safe to repeat."""
    if hypervisor.answers() and _owner() == UUID:
        _guest().undefine()
        say(f"Removed the domain {NAME}.")
    # Only what still is such a daemon: a number may be someone else's by now.
    pids = [pid for pid in _state().get("started", []) if hypervisor.is_daemon(pid)]
    if pids:
        hypervisor.stop(pids)
        say("Stopped the libvirt that the demo had started.")
    if HOME.exists():
        shutil.rmtree(HOME)
        say(f"Removed {HOME}.")
    shutil.rmtree(ROOT / ".venv-demo", ignore_errors=True)
    say("Nothing of the demo is left. Packages that were installed stay; make clean removes this checkout's caches.")
