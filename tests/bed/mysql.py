# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private MySQL for tests, beside what :mod:`tests.bed.mariadb` has.

Debian's stable releases have no MySQL. So that of its unstable one is downloaded once, with all that it is linked with,
and unpacked under ``.cache/``. It runs with its own dynamic loader, and this system is left as it is.
"""

from __future__ import annotations

import fcntl
import subprocess
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from tests.bed.mariadb import MariaDB, as_user, mariadb, run

ROOT = Path(__file__).resolve().parents[2]
_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian unstable main\n"
_PACKAGE = "mysql-server-core"
# Wanted by its packages, not by the server.
_NEEDLESS = ("perl", "libperl")


class MySQL(MariaDB):
    """A server that runs, or did."""

    flavour: ClassVar[str] = "mysql"

    def command(self) -> list[str]:
        """The program, and what only this kind of server is told."""
        more = ["--mysqlx=OFF", "--innodb-redo-log-capacity=32M", "--secure-file-priv=NULL"]
        # Without a certificate of the test's it has one of its own, and offers TLS.
        return [*_mysqld(), *more, *([] if self.ca else ["--tls-version="])]

    def install(self) -> None:
        """Make its first files, with a ``root`` who needs no password."""
        initialize = ["--initialize-insecure", f"--datadir={self.directory / 'data'}", *as_user()]
        run(*_mysqld(), *initialize, cwd=self.directory)


def mysql(*options: str, tls: bool = False) -> AbstractContextManager[MariaDB]:
    """Run a server with an empty database ``vmforge``, as :func:`tests.bed.mariadb.mariadb` does."""
    return mariadb(*options, tls=tls, kind=MySQL)


@lru_cache(maxsize=1)
def _mysqld() -> list[str]:
    """The server through its own loader, with its own libraries."""
    tree = _tree()
    (loader,) = tree.glob("usr/lib*/ld-linux-*.so.*")
    (libraries,) = tree.glob("usr/lib/*-linux-gnu")
    command = [str(loader), "--library-path", str(libraries), str(tree / "usr/sbin/mysqld"), "--no-defaults"]
    return [*command, f"--basedir={tree / 'usr'}", f"--lc-messages-dir={tree / 'usr/share/mysql'}"]


def _tree(cache: Path = ROOT / ".cache" / "mysql") -> Path:
    """Where it lies, downloaded if it is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = cache / "tree"
        if not (cache / "unpacked").exists():
            for deb in _downloaded(cache / "apt"):
                if not deb.name.startswith(_NEEDLESS):
                    run("dpkg", "-x", str(deb), str(tree), cwd=cache)
                deb.unlink()
            (cache / "unpacked").touch()
    return tree


def _downloaded(place: Path) -> list[Path]:
    """The package and all that it depends on, as on a system that has nothing; apt checks the signatures."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "state/status").touch()
    (place / "list").write_text(_SOURCE)
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
    for what in (["update"], ["install", "-y", "--download-only", _PACKAGE]):
        subprocess.run([*apt, *what], check=True, stdout=subprocess.DEVNULL)
    return sorted((place / "cache/archives").glob("*.deb"))
