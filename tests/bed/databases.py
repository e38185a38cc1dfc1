# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private databases for tests, beside the one that :mod:`tests.bed.mariadb` has: of other kinds and ages.

No release of Debian has a MySQL but its unstable one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from tests.bed.debian import Unpacked
from tests.bed.mariadb import MariaDB, as_user, mariadb, run


class MySQL(MariaDB):
    """A server that runs, or did."""

    flavour: ClassVar[str] = "mysql"
    package: ClassVar[Unpacked] = Unpacked("unstable", "mysql-server-core")

    def command(self) -> list[str]:
        """The program, and what only this kind of server is told."""
        more = ["--mysqlx=OFF", "--innodb-redo-log-capacity=32M", "--secure-file-priv=NULL"]
        # Without a certificate of the test's it has one of its own, and offers TLS.
        return [*self._mysqld(), *more, *([] if self.ca else ["--tls-version="])]

    def install(self) -> None:
        """Make its first files, with a ``root`` who needs no password."""
        initialize = ["--initialize-insecure", f"--datadir={self.directory / 'data'}", *as_user()]
        run(*self._mysqld(), *initialize, cwd=self.directory)

    def _mysqld(self) -> list[str]:
        usr = self.package.tree / "usr"
        own = [f"--basedir={usr}", f"--lc-messages-dir={usr / 'share/mysql'}"]
        return [*self.package.command("sbin/mysqld"), "--no-defaults", *own]


class OldMariaDB(MariaDB):
    """The oldest that the collection takes."""

    package: ClassVar[Unpacked] = Unpacked("bullseye", "mariadb-server-core-10.5")

    def command(self) -> list[str]:
        """The program, and what only this kind of server is told."""
        return [*self._mariadbd(), "--innodb-log-file-size=16M"]

    def install(self) -> None:
        """Make its first files as ``mariadb-install-db`` does, which cannot be told of another loader."""
        parts = ("system_tables", "performance_tables", "system_tables_data")
        # Called mysql_… or mariadb_….
        scripts = [path for part in parts for path in self._share().glob(f"m*_{part}.sql")]
        tables = "\n".join(path.read_text() for path in scripts)
        statements = f"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n{tables}"
        data = self.directory / "data"
        data.mkdir()
        # What it makes is given away afterwards.
        bootstrap = ["--bootstrap", f"--datadir={data}", *(["--user=root"] if as_user() else [])]
        run(*self._mariadbd(), *bootstrap, cwd=self.directory, stdin=statements)

    def _share(self) -> Path:
        (found,) = self.package.tree.glob("usr/share/m*/fill_help_tables.sql")
        return found.parent

    def _mariadbd(self) -> list[str]:
        own = [f"--basedir={self.package.tree / 'usr'}", f"--lc-messages-dir={self._share()}"]
        return [*self.package.command("sbin/mariadbd"), "--no-defaults", *own]


class NewMariaDB(OldMariaDB):
    """A newer one than that of this system."""

    package: ClassVar[Unpacked] = Unpacked("trixie", "mariadb-server-core")

    def command(self) -> list[str]:
        """The program, and what only this kind of server is told."""
        # Without a certificate of the test's it would make one of its own.
        return [*super().command(), *([] if self.ca else ["--skip-ssl"])]


def mysql(*options: str, tls: bool = False) -> AbstractContextManager[MariaDB]:
    """Run a server with an empty database ``vmforge``, as :func:`tests.bed.mariadb.mariadb` does."""
    return mariadb(*options, tls=tls, kind=MySQL)


def old_mariadb(*options: str, tls: bool = False) -> AbstractContextManager[MariaDB]:
    """The same with the oldest MariaDB that the collection takes."""
    return mariadb(*options, tls=tls, kind=OldMariaDB)


def new_mariadb(*options: str, tls: bool = False) -> AbstractContextManager[MariaDB]:
    """The same with a newer one than this system's."""
    return mariadb(*options, tls=tls, kind=NewMariaDB)
