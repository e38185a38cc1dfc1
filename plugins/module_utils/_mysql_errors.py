# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an error of MariaDB or MySQL means to a person, by its number. Pure.

The numbers: https://mariadb.com/kb/en/mariadb-error-codes/ and, from 2000, those of the client.
"""

from __future__ import annotations

from ansible_collections.vmforge.backup.plugins.module_utils._errors import BusyError, DatabaseError, VMForgeError

_LOGIN = "Check db_user, db_password, and the host from which that user may log in."
_EXPIRED = "Its password has expired. An administrator has to set it anew."
_LOCKED = "An administrator has to unlock the account."
_AWAY = "Check db_host, db_port and db_socket, that the server runs, and that nothing stands in between."
_LOST = "The server may have been restarted. Run it again: what was not finished is done then."
_SCHEMA = (
    "The tables are not as they should be: run the module vmforge_backup_schema, or the role vmforge.backup.catalog."
)
_RIGHTS = "The user lacks rights. The role vmforge.backup.catalog gives the day-to-day user all that it needs."

AUTH_PLUGIN = 2061

# Number -> (code, what to do)
_MEANINGS: dict[int, tuple[str, str]] = {
    1040: ("db_busy", "The server has no connection left. Try again later."),
    1044: ("db_rights", f"The database may not exist. {_RIGHTS}"),
    1045: ("db_login", _LOGIN),
    1049: ("db_missing", "Check db_name."),
    1054: ("db_schema", _SCHEMA),
    1053: ("db_lost", _LOST),
    1129: ("db_login", "The server takes no more from this host: flush its hosts, and see what failed before."),
    1130: ("db_login", "The server accepts no login from this host. Check the host part of the user."),
    1142: ("db_rights", _RIGHTS),
    1143: ("db_rights", _RIGHTS),
    1146: ("db_schema", _SCHEMA),
    1205: ("db_busy", "Something else holds a lock there. Try again later."),
    1213: ("db_busy", "Something else changed the same rows. Try again."),
    1227: (
        "db_rights",
        "This needs the login of an administrator, see db_admin_user of the role vmforge.backup.catalog.",
    ),
    1290: ("db_read_only", "The server takes no changes now. Is it a replica?"),
    1410: ("db_rights", "This needs the login of an administrator who may create users and grant rights."),
    1698: ("db_login", _LOGIN),
    1820: ("db_login", _EXPIRED),
    1836: ("db_read_only", "The server takes no changes now. Is it a replica?"),
    1862: ("db_login", _EXPIRED),
    2002: ("db_unreachable", _AWAY),
    2003: ("db_unreachable", _AWAY),
    2005: ("db_unreachable", "The name of the host is not known. Check db_host."),
    2006: ("db_lost", _LOST),
    2013: ("db_lost", _LOST),
    2026: ("db_tls", "Check db_ca and db_tls, and that the certificate bears the name in db_host."),
    AUTH_PLUGIN: (
        "db_login",
        "Without TLS, MySQL takes a password only over its socket, or from a host with python3-cryptography.",
    ),
    3118: ("db_login", _LOCKED),
    3159: ("db_tls", "The server wants TLS: set db_tls to required, better with db_ca."),
    3955: ("db_login", _LOCKED),
    4151: ("db_login", _LOCKED),
}
_BUSY = ("db_busy",)


def database_error(number: int | None, text: str, *, where: str, what: str) -> VMForgeError:
    """Say what failed, where, why and what to do.

    Args:
        number: The error's number, None where it has none.
        text: What the server or the library said; never holds a password.
        where: The database and the user.
        what: What was being done, such as ``Logging in``.
    """
    code, advice = _MEANINGS.get(number or 0, ("database", ""))
    said = f"error {number}: {text}" if number else text
    message = f"{what} failed on {where}: {said.rstrip('.')}."
    kind = BusyError if code in _BUSY else DatabaseError
    return kind(f"{message} {advice}".rstrip(), code=code)
