# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of other releases of Debian, beside those of this one.

A package is downloaded once, with all that it is linked with, and unpacked under ``.cache/``. Its programs run with
their own dynamic loader, and this system is left as it is.
"""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Wanted by maintainers' scripts, not by servers.
_NEEDLESS = ("perl", "libperl", "gcc-", "gawk", "gzip", "grep", "sed_", "adduser", "passwd", "debconf")


@dataclass(frozen=True)
class Unpacked:
    """A package of another release.

    Attributes:
        suite: Such as ``bullseye``.
        package: Its name.
    """

    suite: str
    package: str

    @property
    def tree(self) -> Path:
        """Where it lies, downloaded if it is not there yet."""
        cache = ROOT / ".cache" / "debian" / f"{self.suite}-{self.package}"
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (cache / "unpacked").exists():
                for deb in self._downloaded(cache / "apt"):
                    if not deb.name.startswith(_NEEDLESS):
                        subprocess.run(["dpkg", "-x", str(deb), str(cache / "tree")], check=True)
                    deb.unlink()
                (cache / "unpacked").touch()
        return cache / "tree"

    def command(self, program: str) -> list[str]:
        """A program below ``usr``, with the libraries that it was built for."""
        tree = self.tree
        # Older releases have the loader and some libraries outside of usr.
        loader, *_others = sorted(tree.glob("**/ld-linux-x86-64.so.2"))
        libraries = sorted(tree.glob("lib/*-linux-gnu")) + sorted(tree.glob("usr/lib/*-linux-gnu"))
        return [str(loader), "--library-path", ":".join(map(str, libraries)), str(tree / "usr" / program)]

    def _downloaded(self, place: Path) -> list[Path]:
        """The package and all that it depends on, as on a system that has nothing; apt checks the signatures."""
        for name in ("state/lists/partial", "cache/archives/partial"):
            (place / name).mkdir(parents=True, exist_ok=True)
        (place / "state/status").touch()
        (place / "list").write_text(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
            f" http://deb.debian.org/debian {self.suite} main\n"
        )
        options = {
            "Dir::State": place / "state",
            "Dir::State::status": place / "state/status",
            "Dir::Cache": place / "cache",
            "Dir::Etc::sourcelist": place / "list",
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
        }
        apt = ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
        steps: Sequence[Sequence[str]] = (["update"], ["install", "-y", "--download-only", self.package])
        for what in steps:
            subprocess.run([*apt, *what], check=True, stdout=subprocess.DEVNULL)
        return sorted((place / "cache/archives").glob("*.deb"))
