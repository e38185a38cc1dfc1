# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the database options, which all modules that know the panel's database share."""

from __future__ import annotations


class ModuleDocFragment:
    """``extends_documentation_fragment: vmforge.backup.database``; the options are ``_mysql.DATABASE_ARGUMENTS``."""

    DOCUMENTATION = r"""
options:
  db_host:
    description: The host of the panel's database. Either this or O(db_socket); an empty one is none.
    type: str
  db_port:
    description: Its TCP port.
    type: int
    default: 3306
  db_socket:
    description: The socket of a database on the host where the module runs, in place of O(db_host).
    type: path
  db_name:
    description: The name of the panel's database.
    type: str
    default: vmforge
  db_user:
    description: The user to log in as. Needed wherever a database is given.
    type: str
  db_password:
    description: Its password.
    type: str
  db_ca:
    description:
      - File with the certificates to trust, on the host where the module runs.
      - With it TLS is required, and the server's certificate must be of O(db_host).
    type: path
  db_tls:
    description:
      - Whether to speak TLS over TCP. V(preferred) does when the server offers it, and checks no certificate.
        V(required) never logs in without it. To be sure who answers, set O(db_ca).
      - Of no effect with O(db_socket).
    type: str
    choices: [preferred, required, disabled]
    default: preferred
requirements:
  - PyMySQL on the host where the module runs (package C(python3-pymysql))
notes:
  - MariaDB 10.5 or newer, or MySQL 8.
"""
