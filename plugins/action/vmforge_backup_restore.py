# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores on the node, and tells how far it is while that goes on."""

from __future__ import annotations

from ansible_collections.vmforge.backup.plugins.plugin_utils._detached import DetachedAction


class ActionModule(DetachedAction):
    """See the documentation of the module of the same name."""
