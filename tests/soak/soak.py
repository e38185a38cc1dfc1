# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``make soak``: a running guest, backups that end at random moments in random ways, and all that must hold after each.

Environment: ``ROUNDS`` (20) or ``MINUTES``; ``SEED`` of what is random, printed at the start. Uses a libvirtd, a guest
and an S3 server of its own. The last line says how many rounds passed and failed; the status is 1 if any failed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bed.guest import scratch_directory
from tests.bed.hypervisor import PrivateLibvirt, private_libvirt
from tests.bed.s3 import weed

_ROOT = Path(__file__).resolve().parents[2]
_INSIDE = "VMFORGE_SOAK_LIBVIRT"


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def outside() -> int:
    """Make a private libvirtd, and run this program again beside it."""
    seed = int(os.environ.get("SEED") or secrets.randbelow(10**6))
    with scratch_directory("soak") as directory, _libvirt(directory / "libvirt") as libvirt:
        # The other mount namespace begins in its root directory: nothing relative there.
        paths = f"{_ROOT / '.collections'}{os.pathsep}{_ROOT}"
        inherited = {_INSIDE: f"{libvirt.holder}:{directory}", "PYTHONPATH": paths, "SEED": str(seed)}
        argv = libvirt.argv([sys.executable, "-m", "tests.soak.soak"])
        campaign = subprocess.Popen(argv, env={**os.environ, **inherited}, stdin=subprocess.DEVNULL)
        try:
            return campaign.wait()
        finally:
            # Interrupted: it removes its guest first.
            campaign.terminate()
            campaign.wait()


@contextlib.contextmanager
def _libvirt(directory: Path) -> Iterator[PrivateLibvirt]:
    directory.mkdir(mode=0o755)
    with private_libvirt(directory) as libvirt:
        yield libvirt


def inside(place: str) -> int:
    """Run the campaign."""
    # Only here: this pulls in libvirt, which is to see the private daemon alone.
    from tests.soak.campaign import Campaign

    holder, _colon, path = place.partition(":")
    libvirt = PrivateLibvirt(holder=int(holder), directory=Path(path) / "libvirt")
    seed = int(os.environ["SEED"])
    minutes = os.environ.get("MINUTES")
    rounds = int(os.environ.get("ROUNDS") or 20)
    say(f"soak: SEED={seed} " + (f"MINUTES={minutes}" if minutes else f"ROUNDS={rounds}"))
    began = time.monotonic()
    with weed(Path(path) / "s3") as s3:
        campaign = Campaign(Path(path), s3, libvirt, seed)
        try:
            campaign.begin()
            until = time.monotonic() + float(minutes) * 60 if minutes else None
            passed, failed = run_rounds(campaign, rounds=rounds, until=until)
            for problem in campaign.prove_again():
                failed += 1
                say(f"at the end: {problem}")
        finally:
            campaign.end()
    for outcome, count in sorted(campaign.outcomes.items()):
        say(f"  {count:4} {outcome}")
    say(f"soak: SEED={seed} {time.monotonic() - began:.0f} s")
    say(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def run_rounds(campaign: Any, *, rounds: int, until: float | None) -> tuple[int, int]:
    """Run rounds until there were so many, or until that time; how many passed and failed.

    A round that fails is told, and its remains are kept out of the following ones' way as far as that goes.
    """
    passed = failed = number = 0
    while number < rounds if until is None else time.monotonic() < until:
        number += 1
        began = time.monotonic()
        try:
            words = campaign.round()
            passed += 1
            say(f"{number:4} ok     {time.monotonic() - began:4.1f} s  {words}")
        except (AssertionError, RuntimeError, TimeoutError, OSError, ValueError, KeyError) as error:
            failed += 1
            say(f"{number:4} FAILED {time.monotonic() - began:4.1f} s  {campaign.words}")
            say(f"     {type(error).__name__}: {error}")
            try:
                for problem in campaign.forgive():
                    say(f"     and {problem}")
            except (AssertionError, RuntimeError, TimeoutError, OSError) as reason:
                say(f"soak: cannot go on after that: {type(reason).__name__}: {reason}")
                break
    return passed, failed


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    inherited = os.environ.get(_INSIDE)
    sys.exit(inside(inherited) if inherited else outside())
