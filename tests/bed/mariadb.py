# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private MariaDB for tests, in a directory of its own; the machine's own server is never touched.

Its clock is set to another zone than UTC, for a session that forgets to say UTC must be seen.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

DATABASE = "vmforge"
_READY_SECONDS = 180
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


@dataclass
class MariaDB:
    """A server that runs, or did.

    Attributes:
        directory: Holds all of it; removed at the end.
        port: On 127.0.0.1.
        admin: May do everything, from anywhere, over the socket and TCP.
        ca: The certificate to trust, where it speaks TLS.
        flavour: What the collection calls servers of this kind.
    """

    flavour: ClassVar[str] = "mariadb"

    directory: Path
    port: int
    admin: str = "administrator"
    admin_password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    ca: Path | None = None
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """Its UNIX socket."""
        return str(self.directory / "sock")

    def params(self, user: str | None = None, password: str | None = None, **more: Any) -> dict[str, Any]:
        """Module options to reach it, as the administrator or as somebody else."""
        return {
            "db_host": "127.0.0.1",
            "db_port": self.port,
            "db_name": DATABASE,
            "db_user": user or self.admin,
            "db_password": self.admin_password if password is None else password,
            **more,
        }

    def connect(self, database: str | None = DATABASE, **more: Any) -> Any:
        """A plain PyMySQL connection as the administrator, to look behind the back of what is tested."""
        import pymysql

        login: dict[str, Any] = {"user": self.admin, "password": self.admin_password, "unix_socket": self.socket}
        login.update(more)
        return pymysql.connect(
            database=database, autocommit=True, charset="utf8mb4", cursorclass=pymysql.cursors.DictCursor, **login
        )

    def sql(self, *statements: str, database: str | None = DATABASE) -> list[dict[str, Any]]:
        """Run statements as the administrator; the rows of the last one."""
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return [dict(row) for row in cursor.fetchall()]

    def reset(self, *statements: str) -> None:
        """Begin with an empty database again, and run statements in it."""
        self.sql(f"DROP DATABASE IF EXISTS {DATABASE}", f"CREATE DATABASE {DATABASE}", database=None)
        self.sql("SELECT 1", *statements)

    def command(self) -> list[str]:
        """The program, and what only this kind of server is told."""
        return [_program("mariadbd"), "--no-defaults", "--innodb-log-file-size=16M"]

    def install(self) -> None:
        """Make its first files, with a ``root`` who needs no password."""
        data = self.directory / "data"
        command = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        command += ["--auth-root-authentication-method=normal", *as_user()]
        try:
            run(*command, cwd=self.directory)
        except RuntimeError:
            # Beside many other servers it fails now and then, and says nothing of why.
            shutil.rmtree(data, ignore_errors=True)
            run(*command, cwd=self.directory)

    def start(self) -> None:
        """Start it, again if need be, and wait until it answers."""
        command = [*self.command(), f"--datadir={self.directory / 'data'}", f"--socket={self.socket}"]
        command += [f"--port={self.port}", "--bind-address=127.0.0.1", f"--pid-file={self.directory / 'pid'}"]
        # Small, for it shares the machine with guests.
        command += ["--innodb-buffer-pool-size=64M", "--performance-schema=OFF"]
        command += ["--skip-log-bin", "--default-time-zone=+03:00", *as_user(), *self.options]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise RuntimeError(f"{command[0]} did not start:\n{(self.directory / 'log').read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it, politely or with SIGKILL; its data stay."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(self.socket)
                return bool(client.recv(1))
            except OSError:
                return False


@contextlib.contextmanager
def mariadb(*options: str, tls: bool = False, kind: type[MariaDB] = MariaDB) -> Iterator[MariaDB]:
    """Run a server with an empty database ``vmforge``, by default with strict SQL mode as every server has it today.

    Args:
        options: More of ``mariadbd``, such as ``--sql-mode=…``.
        tls: It offers TLS, with a certificate for 127.0.0.1 and localhost.
        kind: Another kind of server.
    """
    with tempfile.TemporaryDirectory(prefix="vmforge-db-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        server = kind(directory, _free_port(), options=list(options))
        if tls:
            server.ca = certificates(directory / "tls")
            server.options = [
                *options,
                f"--ssl-cert={directory}/tls/server.pem",
                f"--ssl-key={directory}/tls/server.key",
            ]
        _give(directory)
        server.install()
        _give(directory)
        try:
            server.start()
            _make_admin(server)
            server.reset()
            yield server
        finally:
            server.stop()


def certificates(directory: Path) -> Path:
    """Make a CA, and ``server.pem`` with ``server.key`` of 127.0.0.1 and localhost; where the CA's certificate is."""
    directory.mkdir()
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    run(*new, "-x509", "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem", cwd=directory)
    run(*new[:-2], "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr", cwd=directory)
    sign = ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    run(*sign, "-days", "2", "-extfile", "names", "-out", "server.pem", cwd=directory)
    return directory / "ca.pem"


def _make_admin(server: MariaDB) -> None:
    import pymysql

    connection = pymysql.connect(unix_socket=server.socket, user="root")
    with contextlib.closing(connection), connection.cursor() as cursor:
        for host in ("localhost", "%"):
            account = (server.admin, host)
            cursor.execute("CREATE USER %s@%s IDENTIFIED BY %s", (*account, server.admin_password))
            cursor.execute("GRANT ALL PRIVILEGES ON *.* TO %s@%s WITH GRANT OPTION", account)


def as_user() -> list[str]:
    """Servers refuse to be root, and none of its data are secret here."""
    return ["--user=nobody"] if os.geteuid() == 0 else []


def _give(directory: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam("nobody")
        for path in (directory, *directory.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise RuntimeError(f"'{name}' is missing: apt-get install mariadb-server-core")
    return found


def run(*command: str, cwd: Path, stdin: str = "") -> None:
    """Run a program that must not fail; says what it said if it does."""
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
