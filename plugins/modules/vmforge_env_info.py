#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_env_info
short_description: Read values from a .env file as VMForge reads them
version_added: 1.0.0
description:
  - Reads a file by the rules of VMForge's own loader. Where a name stands several times, the last one counts.
  - A comment behind a value is left out. VMForge takes it for a part of the value, so a warning tells of it.
extends_documentation_fragment:
  - vmforge.backup.attributes.info_module
options:
  path:
    description: The file. It is no error if it does not exist.
    type: path
    required: true
  names:
    description:
      - The names to read.
      - A secret such as C(S3_SECRET_KEY) is only read if it is named here. Set C(no_log) on the task then.
    type: list
    elements: str
    default:
      - BACKUP_DIR
      - S3_ENDPOINT
      - S3_REGION
      - S3_BUCKET
      - S3_ACCESS_KEY
      - S3_USE_PATH_STYLE
      - S3_SSL
      - S3_PREFIX
      - BACKUP_OFFSITE
      - DELETE_LOCAL_AFTER_UPLOAD
seealso:
  - module: vmforge.backup.vmforge_env
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
- name: Read what the panel knows of backups
  vmforge.backup.vmforge_env_info:
    path: /var/www/vmforge/.env
  register: env

- name: Tell where backups lie
  ansible.builtin.debug:
    msg: "{{ env.settings.BACKUP_DIR | default('The panel does not say.') }}"
"""

RETURN = r"""
path:
  description: Where the file really lies.
  returned: success
  type: str
  sample: /var/www/vmforge/.env
exists:
  description: Whether there is one.
  returned: success
  type: bool
settings:
  description: The values by name, as text. A name that the file does not set is not in it.
  returned: success
  type: dict
  sample: {BACKUP_DIR: /var/lib/vmforge/backups, S3_SSL: "1"}
"""

from ansible_collections.vmforge.backup.plugins.module_utils._env_set import ENV_INFO_ARGUMENTS, read_env
from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module


def main() -> None:
    """Run the module."""
    run_module(ENV_INFO_ARGUMENTS, read_env)


if __name__ == "__main__":
    main()
