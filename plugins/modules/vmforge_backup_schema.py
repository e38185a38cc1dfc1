#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_backup_schema
short_description: Bring the tables of the backup catalogue to their present form
version_added: 1.0.0
description:
  - Creates or alters C(backups) and C(backup_policies) in the panel's database, from each form that the panel has had.
  - Every row is kept, and every column that the panel still writes. Its own statements of any age work afterwards.
  - Older rows become readable. Where only C(location) tells of a place, C(path) or C(s3_key) and C(storage) are filled
    from it.
  - A table in no known form is refused before anything is changed. A migration that was interrupted is continued by
    the next run.
  - It enters itself in C(_migrations) as C(0024_backups_and_policies.sql).
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.database
options:
  lock_timeout:
    description:
      - Seconds to wait for others who migrate, or who use the tables. Everybody else waits behind.
    type: int
    default: 30
notes:
  - The user in O(db_user) needs the right to create and alter tables, that is C(ALTER), C(CREATE), C(INDEX),
    C(INSERT), C(REFERENCES), C(SELECT) and C(UPDATE) on the database.
seealso:
  - module: vmforge.backup.vmforge_backup_db_user
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Show what would be done, and do nothing
  vmforge.backup.vmforge_backup_schema:
    db_host: db.example.com
    db_user: administrator
    db_password: "{{ db_admin_password }}"
  check_mode: true
  diff: true
  register: planned

- name: Migrate
  vmforge.backup.vmforge_backup_schema:
    db_host: db.example.com
    db_user: administrator
    db_password: "{{ db_admin_password }}"
  when: planned is changed
"""

RETURN = r"""
shape:
  description:
    - The form that was found. V(none) has no tables. V(nodes) is the panel's oldest, with a C(node_id) in C(backups),
      V(agent) its later one, which its agent writes, V(pack) that of the backup pack. V(current) is as it should be.
      V(partial) is between two of them, as an interruption leaves it.
  returned: success
  type: str
  choices: [none, nodes, agent, pack, partial, current]
  sample: agent
statements:
  description: The exact SQL that was executed, or would be in check mode, in order.
  returned: success
  type: list
  elements: str
  sample:
    - ALTER TABLE `backups` ADD COLUMN `path` VARCHAR(1024) NULL
migration:
  description: The entry in C(_migrations).
  returned: success
  type: str
  sample: 0024_backups_and_policies.sql
policies_with_zero:
  description:
    - Policies in which a count is 0. It turns a rule off. A C(keep_daily) of 0 used to keep the newest backup of every
      day, which a warning says too.
  returned: success
  type: list
  elements: dict
  contains:
    vm_uuid:
      description: The VM.
      type: str
    keep_daily:
      description: As it stands there.
      type: int
    keep_weekly:
      description: As it stands there.
      type: int
    keep_monthly:
      description: As it stands there.
      type: int
server:
  description: What answered.
  returned: success
  type: dict
  contains:
    flavour:
      description: V(mariadb) or V(mysql).
      type: str
    version:
      description: Its version.
      type: str
  sample:
    flavour: mariadb
    version: 10.11.6-MariaDB-0+deb12u1
code:
  description: A stable word for the kind of failure, such as V(db_schema_unknown) or V(db_login).
  returned: failure
  type: str
  sample: db_unreachable
"""

from ansible_collections.vmforge.backup.plugins.module_utils._migrate import SCHEMA_ARGUMENTS, migrate
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(SCHEMA_ARGUMENTS, migrate)


if __name__ == "__main__":
    main()
