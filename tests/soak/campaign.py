# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One random round after the other: a backup that something happens to, then everything that must hold."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bed.guest import MIB
from tests.bed.hypervisor import PrivateLibvirt
from tests.bed.s3 import S3Server
from tests.soak.bed import make_guest
from tests.soak.child import Child, Step, module_params, run_child
from tests.soak.invariants import BrokenError, Checker, require
from tests.soak.operator import Operator, kill_qemu

_END_SECONDS = 150.0
_KEEP = 2
# Seconds. Where the newest backup is further ahead of the clock, no other is made.
_MOST_AHEAD = 300
# The newest records of all may have zeroed or discarded their places, which an image does not show.
_UNSEEN = 2
_PREFIX = "soak"
_SAME_PLACE = 0.7
# Rounds, until all backups are proved again that were.
_PROVE_AGAIN = 10

# What happens to a run -> how often, in so many of all.
FAULTS = {
    "nothing": 32,
    "kill": 14,
    "kill-worker": 6,
    "kill-main": 4,
    "term": 10,
    "term-twice": 3,
    "guest-destroyed": 4,
    "guest-shut-down": 3,
    "qemu-killed": 3,
    "s3-killed": 6,
    "libvirtd-killed": 5,
    "scratch-full": 3,
    "guest-off": 3,
    "guest-off-kill": 2,
    "guest-started": 3,
    "clock-back": 5,
}

# What an operator does before a round -> how often, likewise.
DEEDS = {
    "": 60,
    "reboot": 6,
    "grow": 6,
    "plug": 6,
    "snapshot": 8,
    "snapshot-kept": 3,
    "bitmap-destroyed": 5,
    "qemu-killed-before": 4,
    "checkpoint-defined": 3,
    "redefined": 3,
    "copied": 3,
}

# What libvirt refuses while the job of a run that died is there: an operator waits for the next backup.
_NEED_NO_JOB = ("grow", "plug", "snapshot", "snapshot-kept")


class Campaign:
    """The guest, the servers, and what is known of them.

    Args:
        directory: For everything; QEMU's user must be able to enter it.
        seed: Of all that is random here. When things happen also depends on the machine.
    """

    def __init__(self, directory: Path, s3: S3Server, libvirt: PrivateLibvirt, seed: int) -> None:
        self.random = random.Random(seed)
        self.directory, self.s3, self.libvirt = directory, s3, libvirt
        self.backup_dir, self.scratch_dir = directory / "backups", directory / "scratch"
        work = directory / "work"
        for path, mode in ((self.backup_dir, 0o700), (self.scratch_dir, 0o711), (work, 0o700)):
            path.mkdir(mode=mode)
        self.report = work / "report.json"
        self.guest, fillers = make_guest(directory, self.random)
        self.checker = Checker(self.guest, self.backup_dir, self.scratch_dir, work, s3, _PREFIX, fillers, "vdc")
        self.operator = Operator(
            self.guest, self.backup_dir / self.guest.uuid, self.random, start=self._start_guest, wrote=self._wrote
        )
        self.newest = 0
        self.bounds: dict[str, tuple[int, int]] = {}
        self.proved: set[str] = set()
        self.doomed: set[str] = set()
        self.unclean = False
        self.s3_owed = False
        self.place = "both"
        self.low = 0
        self.ready: set[str] = set()
        self.typical, self.rounds = 1.5, 0
        self.outcomes: Counter[str] = Counter()
        self.refusal = ""
        self.words = ""

    def begin(self) -> None:
        """Start the guest."""
        self.guest.define()
        self._start_guest()
        self.guest.wait_more(20)

    def end(self) -> None:
        """Remove the guest."""
        self.guest.undefine()

    # One round

    def round(self) -> str:
        """Do one. Returns what it was, in words; raises ``BrokenError``."""
        fault = self.random.choices(list(FAULTS), list(FAULTS.values()))[0]
        deed = self.random.choices(list(DEEDS), list(DEEDS.values()))[0]
        if not self._merge_snapshot() and deed in _NEED_NO_JOB:
            deed = ""
        self.words = f"{fault} after {deed}"
        self.operator.do(deed)
        params, words = self._options(fault)
        words = f"{deed:18} {words}"
        moment = self.random.uniform(0, 1.25) * self.typical
        self.words = words = f"{fault:16} at {moment:4.2f} s  {words}"
        if fault.startswith("guest-off") or fault == "guest-started":
            self._stop_guest()
        partial = {path.name[:-8] for path in (self.backup_dir / self.guest.uuid).glob("*.partial")}
        self.low = self._wrote() - _UNSEEN
        step = self._step(moment) if fault == "clock-back" else None
        if step is not None:
            self.words = words = words + f" clock {step.by:+.0f} s after {step.after:.2f} s"
        self.refusal = "clock" if step is not None and step.by < -_MOST_AHEAD else ""
        child = run_child(params, self.report, clock=step)
        try:
            self._happen(fault, child, moment)
        finally:
            child.kill()
            child.wait(180)
        high = self._recover()
        self._merge_snapshot()
        self._note_bounds((self.low, high))
        result = child.result()
        self.words = words = words + f"  -> {self._judge(fault, result)} ({child.seconds():.1f} s)"
        # Where the module is killed, its worker finishes the backup and has nobody to tell.
        orphan = fault == "kill-main" and "BrokenPipeError" in child.errors()
        require("Traceback" not in child.errors() or orphan, child.errors())
        finished = result is not None and not _died(result) and not (self.unclean and _hardly_began(result))
        if finished:
            self.typical += 0.3 * (min(child.seconds(), 10) - self.typical)
        self.unclean = not finished
        self.s3_owed = (self.s3_owed or params["offsite"] == "s3") if self.unclean else False
        self._check(partial, finished)
        if self.random.random() < 0.9 or not finished:
            words += self._delete_old()
        self.rounds += 1
        if self.rounds % _PROVE_AGAIN == 0:
            problems = self.prove_again()
            require(not problems, "; ".join(problems))
        return words

    def _merge_snapshot(self) -> bool:
        """Merge one that was taken, unless the job of a run that died is there; whether there is none."""
        if self.checker.job():
            return False
        self.operator.undo()
        return True

    def prove_again(self) -> list[str]:
        """Prove every backup, also those that were; what is wrong."""
        self.proved.clear()
        return self._prove({entry["id"]: entry for entry in self.checker.entries()})

    def _options(self, fault: str) -> tuple[dict[str, Any], str]:
        pick = self.random.choice
        places = ["both", "s3-only"] if self.s3_owed or fault == "s3-killed" else ["local", "both", "s3-only"]
        # Mostly where the last one went: a chain lies in one place.
        self.place = self.place if self.place in places and self.random.random() < _SAME_PLACE else pick(places)
        place = self.place
        chosen: dict[str, Any] = {
            "compression": self.random.choices(["zstd", "zlib", "none"], [6, 2, 2])[0],
            "quiesce": pick(["auto", "auto", "required", "never"]),
            "readers": pick([1, 2, 4]),
            "type": self.random.choices(["auto", "full"], [9, 1])[0],
            "max_incrementals": pick([3, 6, 30]),
            "full_every": "300d",
            "rate_limit": pick([None, 20 * MIB, 40 * MIB]),
        }
        if fault.startswith("guest-") or fault == "qemu-killed":
            chosen["quiesce"] = pick(["auto", "never"])
        if fault == "scratch-full":
            chosen.update(scratch_max=4096, rate_limit=10 * MIB)
        offsite: dict[str, Any] = {"offsite": "none"}
        if place != "local":
            offsite = {"offsite": "s3", "s3_prefix": _PREFIX, **self.s3.params()}
            offsite["delete_local_after_upload"] = place == "s3-only"
        words = " ".join([f"{place:8}", *(f"{key}={value}" for key, value in chosen.items() if value is not None)])
        return self._params(**chosen, **offsite), words

    def _params(self, **more: Any) -> dict[str, Any]:
        return module_params(
            vm=[self.guest.uuid],
            backup_dir=str(self.backup_dir),
            scratch_dir=str(self.scratch_dir),
            node="soak",
            freeze_timeout=30,
            nice=0,
            **more,
        )

    def _step(self, moment: float) -> Step:
        """Of the clock, back: before the run or in its middle, by little or by more than anybody waits for."""
        by = self.random.choice([-2, -8, -15, -3600])
        return Step(self.random.choice([0, moment]), by)

    # What happens

    def _happen(self, fault: str, child: Child, moment: float) -> None:
        if fault in ("nothing", "scratch-full", "guest-off", "clock-back"):
            self._await(child)
            return
        ended = child.wait(moment)
        deeds: dict[str, Callable[[Child], None]] = {
            "kill": Child.kill,
            "guest-off-kill": Child.kill,
            "kill-worker": lambda child: _signal(child.worker(), signal.SIGKILL),
            "kill-main": lambda child: _signal(child.pid, signal.SIGKILL),
            "term": lambda child: _signal(child.pid, signal.SIGTERM),
            "term-twice": self._terminate_twice,
            "guest-destroyed": lambda _child: self.guest.destroy(),
            "guest-shut-down": lambda _child: self._power_button(),
            "qemu-killed": lambda _child: self._kill_qemu(),
            "s3-killed": self._kill_s3,
            "libvirtd-killed": self._kill_libvirtd,
            "guest-started": lambda _child: self._start_guest(),
        }
        if not ended or not fault.startswith(("kill", "term", "guest-off")):
            deeds[fault](child)
        self._await(child)

    def _await(self, child: Child) -> None:
        if not child.wait(_END_SECONDS):
            stuck = subprocess.run(
                ["ps", "-eLo", "pid,pgid,stat,wchan:20,args"], capture_output=True, text=True, check=False
            )
            lines = [line for line in stuck.stdout.splitlines() if f" {child.pid} " in line]
            raise BrokenError("the run did not end:\n" + "\n".join(lines))

    def _terminate_twice(self, child: Child) -> None:
        _signal(child.pid, signal.SIGTERM)
        child.wait(self.random.uniform(0, 0.3))
        _signal(child.pid, signal.SIGTERM)

    def _power_button(self) -> None:
        if self.guest.state() == "running":
            self.guest.virsh("shutdown", self.guest.name, "--mode", "acpi")
            # A slow guest takes its time to notice.
            deadline = time.monotonic() + 60
            while self.guest.state() == "running" and time.monotonic() < deadline:
                time.sleep(0.1)

    def _kill_qemu(self) -> None:
        if self.guest.state() == "running":
            kill_qemu(self.guest)

    def _kill_s3(self, child: Child) -> None:
        self.s3.stop(signal.SIGKILL)
        child.wait(self.random.uniform(0, 1.5))
        self.s3.start()
        self.checker.wait_for_s3()

    def _kill_libvirtd(self, child: Child) -> None:
        ran = self.guest.state() == "running"
        self.libvirt.kill()
        child.wait(self.random.uniform(0, 0.5))
        self.libvirt.start()
        deadline = time.monotonic() + 180
        # It answers before it has found its running domains again.
        while ran and self.guest.state() != "running" and time.monotonic() < deadline:
            time.sleep(0.02)

    # The guest

    def _start_guest(self) -> None:
        self._wrote()
        try:
            self.guest.start()
        except RuntimeError as error:
            # A libvirtd that was killed may come back with a lock on the domain that it never gives free
            # (seen, libvirt 9.0: "held by monitor=init-..."); what helps is what an operator does.
            if "cannot acquire state change lock" not in str(error):
                raise
            self.libvirt.kill()
            self.libvirt.start()
            self.guest.start()

    def _stop_guest(self) -> None:
        self._wrote()
        self.guest.destroy()

    def _wrote(self) -> int:
        """The newest record that the guest has ever reported. It says after each start what it found."""
        found = re.findall(r"^bed: found 1\.\.(\d+) intact$", self.guest.console(), re.MULTILINE)
        if found:
            require(int(found[-1]) >= self.newest or self.guest.wrote(), f"the guest lost records: {found[-1]}")
        self.newest = max(self.newest, self.guest.wrote(), *map(int, found))
        return self.newest

    def _recover(self) -> int:
        """Let the guest run again if it was stopped; the newest record that any backup may hold."""
        if self.guest.state() == "in shutdown":
            self.guest.wait_off()
        high = self._wrote()
        if self.guest.state() == "shut off":
            self._start_guest()
            found = self.guest.wait(r"^bed: found 1\.\.(\d+) intact$")
            high = max(high, int(found.group(1)))
        # Reported after it was written, and the console lags a little.
        return high + 40

    # What must hold

    def _judge(self, fault: str, result: dict[str, Any] | None) -> str:
        if result is None:
            # A SIGTERM before anything was touched ends a process as it ends any other.
            require(fault.startswith(("kill", "guest-off-kill", "term")), "the run ended without a word")
            self.outcomes[f"{fault}: died"] += 1
            return "died"
        if "backups" not in result:
            self._allow(fault, str(result.get("code")), str(result["failed"]))
            return f"refused: {result['failed']}"
        (entry,) = result["backups"]
        word = str(entry["result"])
        self.outcomes[f"{fault}: {word}"] += 1
        if entry["error"] is None:
            require(word in ("created", "uploaded"), f"result {word} without an error")
            alarms = [text for text in entry["warnings"] if "ALARM" in text]
            require(not alarms, f"an alarm: {alarms}")
            self.outcomes[f"type {entry['type']}"] += 1
            return f"{word} {entry['id']} {entry['consistency']} {entry['type']}: {entry['full_reason'] or '-'}"
        message = entry["error"]["message"]
        require(len(message) > 20 and "Traceback" not in message, f"a poor message: {message!r}")
        self._allow(fault, entry["error"]["code"], message)
        return f"{entry['error']['code']} in {entry['error']['phase']}: {message[:110]}"

    def _allow(self, fault: str, code: str, message: str) -> None:
        undisturbed = fault in ("nothing", "guest-off", "clock-back") and code != self.refusal
        if undisturbed or (code == "died" and not fault.startswith(("kill", "term"))):
            raise BrokenError(f"an undisturbed run failed with {code}: {message}")

    def _check(self, partial: set[str], finished: bool) -> None:
        self.checker.guest_unharmed()
        entries = {entry["id"]: entry for entry in self.checker.entries()}
        problems = self._prove(entries)
        require(not problems, "; ".join(problems))
        if finished:
            self.checker.host_clean()
            self.checker.storage_clean()
            for backup_id in partial:
                require(backup_id in entries, f"{backup_id} was partial, and nothing tells what became of it")

    def _prove(self, entries: dict[str, dict[str, Any]]) -> list[str]:
        """Prove what is ready and was not proved as it lies now; what is wrong with it."""
        ready = {key for key, entry in entries.items() if entry["status"] == "ready"}
        lost = sorted(self.ready - ready - self.doomed)
        self.ready = ready
        problems = [f"ready before, and not any more: {lost}"] if lost else []
        for backup_id in sorted(ready):
            entry = entries[backup_id]
            state = f"{backup_id} {entry['copies']}"
            if state in self.proved:
                continue
            # Told once: the following rounds fail for their own reasons only.
            self.proved.add(state)
            try:
                self.checker.prove(entry, entries, self.bounds[backup_id])
            except (AssertionError, RuntimeError, OSError, ValueError, KeyError) as error:
                problems.append(f"{backup_id}: {type(error).__name__}: {error}")
        return problems

    def _note_bounds(self, bounds: tuple[int, int]) -> None:
        """A backup that is finished by a later run holds what there was when it was begun."""
        # There is none when the first run is killed early.
        for path in (self.backup_dir / self.guest.uuid).glob("*"):
            if path.is_dir():
                self.bounds.setdefault(path.name.split(".")[0], bounds)

    def forgive(self) -> list[str]:
        """After a failure: look at every backup there is, and remove what the round left.

        Returns:
            What else is wrong.
        """
        self.guest.virsh("list")
        subprocess.run(
            ["virsh", "-q", "-c", "qemu:///system", "domjobabort", self.guest.name], capture_output=True, check=False
        )
        for path in self.scratch_dir.iterdir():
            path.unlink()
        for upload in self.checker.uploads():
            self.checker.abort(upload)
        high = self._recover()
        self.operator.undo()
        self._note_bounds((self.low, high))
        self.unclean = self.s3_owed = True
        return self._prove({entry["id"]: entry for entry in self.checker.entries()})

    def _delete_old(self) -> str:
        """Delete all but the newest; sometimes the deletion is killed, and the next run finishes it."""
        entries = [entry for entry in self.checker.entries() if entry["status"] == "ready"]
        words = ""
        left = {entry["id"]: (entry["parent"] or {}).get("id") for entry in entries}
        for entry in entries[_KEEP:]:
            if entry["id"] in left.values():
                # Newer ones build on it.
                continue
            offsite = {"offsite": "s3", "s3_prefix": _PREFIX, **self.s3.params()}
            child = run_child(self._params(state="absent", id=entry["id"], **offsite), self.report)
            if self.random.random() < 0.15:
                child.wait(self.random.uniform(0, 0.4))
                child.kill()
                child.wait(180)
                self.unclean = self.s3_owed = True
                self.doomed.add(entry["id"])
                words += f", deletion of {entry['id']} killed"
                continue
            require(child.wait(600), "the deletion did not end")
            outcome = child.result() or {"failed": child.errors()}
            require(not outcome["failed"], f"deletion: {outcome}")
            require(not self.checker.keys(entry["id"] + "/"), f"{entry['id']} was deleted, and lies in S3")
            del left[entry["id"]]
            self.ready.discard(entry["id"])
        for path in (self.backup_dir / self.guest.uuid).glob("*.failed.json"):
            path.unlink()
        return words


def _died(result: dict[str, Any]) -> bool:
    """Whether the process that made the backup was killed: the next run cleans up after it."""
    errors = [entry["error"] for entry in result.get("backups", [])]
    return any(error is not None and error["code"] == "died" for error in errors)


def _hardly_began(result: dict[str, Any]) -> bool:
    """Whether it was stopped before it had, for sure, cleared what the run before left."""
    errors = [entry["error"] for entry in result.get("backups", [])]
    return not errors or any(
        error is not None and (error["code"], error["phase"]) == ("cancelled", "starting") for error in errors
    )


def _signal(pid: int | None, number: int) -> None:
    if pid is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
