# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test whether a module can be used here."""

from __future__ import annotations

DOCUMENTATION = r"""
name: installed_module
short_description: Whether Ansible finds a module
version_added: 1.0.0
author: VMForge contributors (@vmforge)
description:
  - So a role can say what is missing, before it uses a module of a collection that not everybody has.
options:
  _input:
    description: The module's whole name, with that of its collection.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Look for a collection
  ansible.builtin.assert:
    that: "'vmforge.backup.vmforge_backup' is vmforge.backup.installed_module"
"""

RETURN = r"""
_value:
  description: Whether it was found.
  type: bool
"""

from collections.abc import Callable

from ansible.plugins.loader import module_loader


def installed_module(name: str) -> bool:
    """Look where Ansible itself would, when it runs a task."""
    return module_loader.find_plugin(name) is not None


class TestModule:
    """What Ansible looks for."""

    def tests(self) -> dict[str, Callable[[str], bool]]:
        """Name the tests."""
        return {"installed_module": installed_module}
