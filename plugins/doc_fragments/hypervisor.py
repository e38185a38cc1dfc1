# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that work on a hypervisor."""

from __future__ import annotations


class ModuleDocFragment:
    """``vmforge.backup.hypervisor`` for libvirt, ``vmforge.backup.hypervisor.storage`` for where backups lie."""

    DOCUMENTATION = r"""
options:
  uri:
    description:
      - libvirt's connection URI, as seen on the node.
    type: str
    default: qemu:///system
requirements:
  - libvirt 6.0 or newer, and its Python binding (package C(python3-libvirt))
"""

    STORAGE = r"""
options:
  backup_dir:
    description:
      - The directory of all backups on the node. An absolute path.
      - It must exist, because a missing one often is a file system that is not mounted.
        The role P(vmforge.backup.node#role) creates it.
    type: path
    default: /var/lib/vmforge/backups
"""
