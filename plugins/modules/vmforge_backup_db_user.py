#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_db_user
short_description: Keep the database user of the backup catalogue
version_added: 1.0.0
description:
  - Creates the user with which backups are recorded, and gives it the rights that this needs and no more. These are
    to select, insert and update in C(backups), to do the same and to delete in C(backup_policies), and to read names
    and states in C(vm_instances) and C(nodes), but none of the secrets there.
  - Nothing is taken from a user that exists. Rights that it has beyond are reported.
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.database
options:
  user:
    description:
      - The name of the user. Not that of O(db_user), which has to be an administrator here.
    type: str
    required: true
  password:
    description:
      - Its password. Needed for O(state=present).
    type: str
  hosts:
    description:
      - The hosts from which it may log in, as the server names them. For each there is one account.
      - Unset, the host where the module runs, as the server sees it. On the server's own host these are V(localhost),
        V(127.0.0.1) and V(::1).
      - For O(state=absent), the accounts to drop; unset, all of that name.
    type: list
    elements: str
    default: []
  tls:
    description:
      - Whether the server refuses it without TLS. A server wants V(required) over its own socket, too.
    type: str
    choices: [optional, required]
    default: optional
  rights:
    description:
      - What it is for. V(record), to keep the catalogue.
      - V(read), for pages that show it. It may only select then, and reads also what signing in needs of C(users).
    type: str
    choices: [record, read]
    default: record
  state:
    description:
      - V(present), the user exists with O(password) and the rights.
      - V(absent), it does not exist.
    type: str
    choices: [present, absent]
    default: present
attributes:
  idempotent:
    support: full
    details:
      - A password that the server does not keep by C(mysql_native_password) is compared by logging in with it.
seealso:
  - module: vmforge.backup.vmforge_backup_schema
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Let this host record its backups
  vmforge.backup.vmforge_backup_db_user:
    db_host: db.example.com
    db_user: administrator
    db_password: "{{ db_admin_password }}"
    user: vmforge_backup
    password: "{{ catalogue_password }}"

- name: Let two hosts do so, over TLS only
  vmforge.backup.vmforge_backup_db_user:
    db_host: db.example.com
    db_user: administrator
    db_password: "{{ db_admin_password }}"
    user: vmforge_backup
    password: "{{ catalogue_password }}"
    hosts:
      - 192.0.2.10
      - 192.0.2.11
    tls: required

- name: Drop the user
  vmforge.backup.vmforge_backup_db_user:
    db_host: db.example.com
    db_user: administrator
    db_password: "{{ db_admin_password }}"
    user: vmforge_backup
    state: absent
"""

RETURN = r"""
user:
  description: The name of the user.
  returned: success
  type: str
  sample: vmforge_backup
hosts:
  description: The hosts from which it may log in.
  returned: success
  type: list
  elements: str
  sample: [localhost, 127.0.0.1, "::1"]
other_hosts:
  description: Hosts from which it may log in as well, and that were not asked for.
  returned: success
  type: list
  elements: str
  sample: []
statements:
  description: The SQL that was executed, or would be in check mode, without the password.
  returned: success
  type: list
  elements: str
  sample:
    - GRANT SELECT, INSERT, UPDATE ON `vmforge`.`backups` TO 'vmforge_backup'@'localhost'
surplus:
  description: Rights that it has and does not need.
  returned: success
  type: list
  elements: str
  sample: []
code:
  description: A stable word for the kind of failure, such as V(db_rights) or V(db_login).
  returned: failure
  type: str
  sample: db_unreachable
"""

from ansible_collections.vmforge.backup.plugins.module_utils._db_user import USER_ARGUMENTS, keep_user
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(USER_ARGUMENTS, keep_user)


if __name__ == "__main__":
    main()
