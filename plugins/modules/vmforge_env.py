#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_env
short_description: Set values in a .env file, and leave all the rest of it alone
version_added: 1.0.0
description:
  - Sets values where they stand and adds new ones at the end. Every other line, comment and the order stay as they are,
    to the byte.
  - What it writes is read alike by VMForge's own loader, by a shell and by systemd's C(EnvironmentFile).
    A value that cannot be written so is an error, and nothing is changed.
  - Where a name stands several times the last one is set, for that is the one that counts, and a warning tells of it.
  - Its own lines end in a bare line feed, also in a file with carriage returns, for a shell would take those for a part
    of the value. A comment behind a value that changes, which VMForge takes for a part of the value, is kept on a line
    of its own.
extends_documentation_fragment:
  - vmforge.backup.attributes
options:
  path:
    description:
      - The file. It is created if it does not exist, its directory is not.
      - A symbolic link is followed. It must lead to a file that exists, and must have been made by root or by the
        owner of that file.
    type: path
    required: true
  values:
    description: Names and values. V(true) and V(false) are written as C(1) and C(0).
    type: dict
    default: {}
  secret_values:
    description: The same for secrets. Neither logs nor differences show them.
    type: dict
    default: {}
  owner:
    description: Name or number of the user that owns the file. Unset, it stays as it is.
    type: str
  group:
    description: Name or number of the group that owns the file. Unset, it stays as it is.
    type: str
  mode:
    description: The permissions, in octal and in quotes.
    type: raw
    default: '0640'
  backup:
    description: Keep a copy of the old file beside it, for its owner alone, whenever its text changes.
    type: bool
    default: true
seealso:
  - module: vmforge.backup.vmforge_env_info
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Tell the panel where backups lie
  vmforge.backup.vmforge_env:
    path: /var/www/vmforge/.env
    values:
      BACKUP_DIR: /var/lib/vmforge/backups
      BACKUP_OFFSITE: s3
      S3_SSL: true
    secret_values:
      S3_SECRET_KEY: "{{ s3_secret_key }}"
"""

RETURN = r"""
path:
  description: Where the file really lies.
  returned: success
  type: str
  sample: /var/www/vmforge/.env
created:
  description: Whether there was none.
  returned: success
  type: bool
names:
  description: What was set, or would be.
  returned: success
  type: list
  elements: str
  sample: [BACKUP_DIR, S3_SECRET_KEY]
duplicates:
  description: For each name that stands there several times, the numbers of its lines.
  returned: success
  type: dict
  sample: {BACKUP_DIR: [3, 9]}
backup_file:
  description: The copy of the old file. V(null) if there is none.
  returned: success
  type: str
"""

from ansible_collections.vmforge.backup.plugins.module_utils._env_set import ENV_ARGUMENTS, set_env
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(ENV_ARGUMENTS, set_env)


if __name__ == "__main__":
    main()
