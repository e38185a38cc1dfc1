# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The attributes that all modules of this collection have."""

from __future__ import annotations


class ModuleDocFragment:
    """Use as ``vmforge.backup.attributes``, and ``vmforge.backup.attributes.info_module`` for one that only reads."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed, or would be in C(check_mode), when in diff mode.
    support: full
  idempotent:
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
    support: full
  action_group:
    description: Use C(group/vmforge.backup.all) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - vmforge.backup.all
"""

    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - This module only reads.
  diff_mode:
    description: Will return details on what has changed, or would be in C(check_mode), when in diff mode.
    support: N/A
    details:
      - This module only reads.
  idempotent:
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
    support: full
    details:
      - This module only reads.
  action_group:
    description: Use C(group/vmforge.backup.all) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - vmforge.backup.all
"""
