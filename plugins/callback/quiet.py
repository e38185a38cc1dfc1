# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The output of a playbook for people who did not write it: its tables, its progress, and what failed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: quiet
type: stdout
short_description: Print tables, progress and failures only
version_added: 1.0.0
description:
  - Leaves out everything that Ansible itself says of plays and tasks, but for warnings and failures.
  - The command C(vmforge-backup) uses it.
options:
  failures_file:
    description:
      - A file to write failures to, a line each, as JSON with C(host), C(msg) and C(code).
    type: path
    env:
      - name: VMFORGE_BACKUP_FAILURES_FILE
    ini:
      - section: callback_vmforge_quiet
        key: failures_file
author:
  - VMForge contributors (@vmforge)
"""

import json
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase

from ansible_collections.vmforge.backup.plugins.plugin_utils._answers import reason
from ansible_collections.vmforge.backup.plugins.plugin_utils._table import printable


class CallbackModule(CallbackBase):
    """See ``DOCUMENTATION``."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "vmforge.backup.quiet"

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Tell why, unless the playbook goes on and tells of it later."""
        self._handle_warnings(result.result)
        if not ignore_errors:
            self._tell(result.host.get_name(), result.result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Tell why, unless the playbook goes on."""
        if not result.task.ignore_unreachable:
            self._tell(result.host.get_name(), result.result)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Show the warnings of what succeeded."""
        self._handle_warnings(result.result)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Tell of it: Ansible takes it for success."""
        self._display.display("No host was found.", color=constants.COLOR_ERROR, stderr=True)

    def _tell(self, host: str, result: Any) -> None:
        message = reason(result, "it failed")
        self._display.display(f"{host}: {printable(message)}", color=constants.COLOR_ERROR, stderr=True)
        path = self.get_option("failures_file")
        if path:
            with Path(path).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"host": host, "msg": message, "code": result.get("code")}) + "\n")
