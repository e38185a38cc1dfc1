# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MariaDB and MySQL through PyMySQL: one connection, typed options, errors that say what to do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from types import TracebackType
from typing import Any, Union

from ansible_collections.vmforge.backup.plugins.module_utils._deps import need, pymysql
from ansible_collections.vmforge.backup.plugins.module_utils._errors import BusyError, DatabaseError, InputError
from ansible_collections.vmforge.backup.plugins.module_utils._mysql_errors import AUTH_PLUGIN, database_error

DATABASE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "db_host": {"type": "str"},
    "db_port": {"type": "int", "default": 3306},
    "db_socket": {"type": "path"},
    "db_name": {"type": "str", "default": "vmforge"},
    "db_user": {"type": "str"},
    "db_password": {"type": "str", "no_log": True},
    "db_ca": {"type": "path"},
    "db_tls": {"type": "str", "choices": ["preferred", "required", "disabled"], "default": "preferred"},
}

# Times are UTC, and a value that does not fit is an error and not another value.
_SESSION = "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 300
_MAX_LOCK_NAME = 64

Arguments = Union[Sequence[Any], Mapping[str, Any], None]


@dataclass(frozen=True)
class DatabaseConfig:
    """Where the database is and who logs in.

    Attributes:
        host: None where ``socket`` is used.
        ca: Certificates to trust; given, TLS is required and the server's certificate is checked.
        tls: ``preferred``, ``required`` or ``disabled``; of no effect with a socket.
    """

    user: str
    password: str = field(default="", repr=False)
    name: str = "vmforge"
    host: str | None = None
    port: int = 3306
    socket: str | None = None
    ca: str | None = None
    tls: str = "preferred"

    @staticmethod
    def is_configured(params: Mapping[str, Any]) -> bool:
        """Whether there is a database at all: a host or a socket is set."""
        return bool(params.get("db_host") or params.get("db_socket"))

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> DatabaseConfig:
        """Build from a module's options.

        Raises:
            InputError: Options are missing or contradict each other; names them.
        """
        host, socket, ca = (params.get(name) or None for name in ("db_host", "db_socket", "db_ca"))
        tls = params.get("db_tls") or "preferred"
        if not host and not socket:
            raise InputError(
                "No database is given: set db_host, or db_socket for one on this host "
                "(with the playbooks: vmforge_backup_db_host or vmforge_backup_db_socket)."
            )
        if host and socket:
            raise InputError("Set either db_host or db_socket, not both.")
        if not params.get("db_user"):
            raise InputError("db_user is missing: the name to log in to the database with.")
        if not params.get("db_name"):
            raise InputError("db_name is empty: the name of the panel's database, often vmforge.")
        if ca and tls == "disabled":
            raise InputError("db_ca demands TLS, and db_tls forbids it. Leave one of them out.")
        port = params.get("db_port") or 3306
        if not 0 < port < 65536:
            raise InputError(f"db_port is {port}; it must be from 1 to 65535.")
        return cls(
            user=params["db_user"],
            password=params.get("db_password") or "",
            name=params["db_name"],
            host=host,
            port=port,
            socket=socket,
            ca=ca,
            tls="required" if ca else tls,
        )

    @property
    def where(self) -> str:
        """The database and the user, for messages."""
        place = self.socket or f"{self.host}:{self.port}"
        return f"database '{self.name}' at {place} as user '{self.user}'"


@dataclass(frozen=True)
class Server:
    """What answers.

    Attributes:
        flavour: ``mariadb`` or ``mysql``.
        version: Such as ``10.11.6-MariaDB``.
        number: Its first parts, for comparing.
    """

    flavour: str
    version: str
    number: tuple[int, int]


class Database:
    """A connection, opened by ``with``. Outside of :meth:`transaction` every statement is committed by itself.

    Args:
        config: Where, and who.
        answer_seconds: How long a statement may take; None for as long as it takes.
    """

    def __init__(self, config: DatabaseConfig, *, answer_seconds: int | None = _ANSWER_SECONDS) -> None:
        self.config = config
        self._answer_seconds = answer_seconds
        self._connection: Any = None
        self._server: Server | None = None

    def __enter__(self) -> Database:
        need("pymysql")
        with self._told("Connecting"):
            connection = _prepared(self.config)
            connection.connect()
            # Whoever takes the connection but never greets is given up sooner than a long statement.
            connection._read_timeout = connection._write_timeout = self._answer_seconds
            self._connection = connection
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None and self._connection.open:
            self._connection.close()

    @property
    def server(self) -> Server:
        """Which server this is; asked once."""
        if self._server is None:
            version = str(self.query("SELECT VERSION() AS version")[0]["version"])
            major, minor = (int(part) for part in version.split("-", 1)[0].split(".")[:2])
            self._server = Server("mariadb" if "maria" in version.lower() else "mysql", version, (major, minor))
        return self._server

    def query(self, sql: str, args: Arguments = None) -> list[dict[str, Any]]:
        """Rows of a SELECT, by the names of their columns. ``%s`` or ``%(name)s`` stand for arguments."""
        with self._told(f"'{_short(sql)}'"), self._connection.cursor(pymysql().cursors.DictCursor) as cursor:
            cursor.execute(sql, args)
            return list(cursor.fetchall())

    def execute(self, sql: str, args: Arguments = None) -> int:
        """Run a statement; the number of rows that it changed. Without ``args``, ``%`` stands for itself."""
        with self._told(f"'{_short(sql)}'"), self._connection.cursor() as cursor:
            return int(cursor.execute(sql, args))

    def executemany(self, sql: str, rows: Sequence[Sequence[Any] | Mapping[str, Any]]) -> int:
        """Run a statement for many rows; ``INSERT … VALUES (%s, …)`` is sent as few large statements."""
        if not rows:
            return 0
        with self._told(f"'{_short(sql)}'"), self._connection.cursor() as cursor:
            return int(cursor.executemany(sql, rows) or 0)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: committed at the end, rolled back on any error."""
        with self._told("Beginning a transaction"):
            self._connection.begin()
        try:
            yield
        except BaseException:
            if self._connection.open:
                with self._told("Rolling back"):
                    self._connection.rollback()
            raise
        with self._told("Committing"):
            self._connection.commit()

    @contextmanager
    def lock(self, name: str, timeout: int = 30) -> Iterator[None]:
        """Hold a lock of the whole server for this database and name (``GET_LOCK``).

        Raises:
            BusyError: Somebody else held it for ``timeout`` seconds.
        """
        full = f"vmforge_backup:{self.config.name}:{name}"
        if len(full) > _MAX_LOCK_NAME:
            full = "vmforge_backup:" + sha256(full.encode()).hexdigest()[:40]
        taken = self.query("SELECT GET_LOCK(%s, %s) AS taken", (full, timeout))[0]["taken"]
        if taken != 1:
            raise BusyError(
                f"Something else has been working on '{name}' of {self.config.where} for over {timeout} s. "
                "Try again when it is done.",
                code="db_busy",
            )
        try:
            yield
        finally:
            # The server frees it by itself when the connection ends.
            if self._connection.open:
                self.query("SELECT RELEASE_LOCK(%s) AS freed", (full,))

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what PyMySQL raises into errors of ours."""
        library = pymysql()
        try:
            yield
        except library.err.MySQLError as error:
            number = error.args[0] if error.args and isinstance(error.args[0], int) else None
            text = str(error.args[1]) if len(error.args) > 1 else str(error)
            cause = getattr(error, "original_exception", None)
            if isinstance(cause, ssl.SSLError):
                number = 2026
            raise database_error(number or None, text, where=self.config.where, what=what) from error
        except (OSError, ssl.SSLError) as error:
            number = 2026 if isinstance(error, ssl.SSLError) else 2003
            raise database_error(number, str(error), where=self.config.where, what=what) from error
        except RuntimeError as error:
            # What PyMySQL says of a library that it lacks.
            number = AUTH_PLUGIN if "cryptography" in str(error) else None
            raise database_error(number, str(error), where=self.config.where, what=what) from error


def _prepared(config: DatabaseConfig) -> Any:
    """A connection that is not open yet."""
    library = pymysql()
    encrypted = config.tls != "disabled" and config.socket is None
    connection = library.connections.Connection(
        host=config.host or "localhost",
        port=config.port,
        unix_socket=config.socket,
        user=config.user,
        # Bytes: PyMySQL would take a text for Latin-1.
        password=config.password.encode(),
        database=config.name,
        charset="utf8mb4",
        init_command=_SESSION,
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_CONNECT_SECONDS,
        write_timeout=_CONNECT_SECONDS,
        autocommit=True,
        ssl=_tls(config) if encrypted else None,
        ssl_disabled=not encrypted,
        defer_connect=True,
    )
    if hasattr(connection, "_ssl_required") and config.tls != "required":
        # PyMySQL 1.2 and newer take any context for a demand.
        connection._ssl_required = False
    if encrypted:
        _mind_plain(connection, config)
    return connection


def _tls(config: DatabaseConfig) -> ssl.SSLContext:
    if config.ca is None:
        # Nobody's certificate is checked: to read those that the system trusts would take 25 ms, and be for nothing.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=config.ca)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"db_ca: the certificates in {config.ca} cannot be read: {error}.") from error


def _mind_plain(connection: Any, config: DatabaseConfig) -> None:
    """Decide what becomes of a server that offers no TLS, before the password is used."""
    log_in, offer = connection._request_authentication, pymysql().constants.CLIENT.SSL

    def checked() -> None:
        if not connection.server_capabilities & offer:
            if config.tls == "required":
                raise DatabaseError(
                    f"The server of {config.where} offers no TLS, and TLS is required. Set it up there, or set db_tls "
                    "to preferred and leave db_ca out.",
                    code="db_tls",
                )
            # PyMySQL would announce it all the same, for which MySQL hangs up.
            connection.client_flag &= ~offer
        log_in()

    connection._request_authentication = checked


def _short(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= 80 else text[:77] + "..."
