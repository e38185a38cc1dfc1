# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An action whose work goes on by itself on the node, while the control node tells how far it is."""

from __future__ import annotations

import os
import time
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vmforge.backup.plugins.plugin_utils._patience import patiently
from ansible_collections.vmforge.backup.plugins.plugin_utils._progress_line import (
    Interval,
    parse_interval,
    progress_line,
)
from ansible_collections.vmforge.backup.plugins.plugin_utils._terminal import show

_VARIABLE = "vmforge_backup_progress_interval"
# What the module on the node looks for.
_WAIT = "VMFORGE_BACKUP_WAIT"
_FOLLOW = "vmforge.backup.vmforge_backup_job"


class DetachedAction(ActionBase):
    """Begins the work of the module of the same name, or finds it going on, and follows it to its end.

    In check mode, and where the task itself is asynchronous, it is an ordinary module.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        self._supports_check_mode = True
        self._supports_async = True
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        if self._task.async_val or self._task.check_mode:
            wrap = bool(self._task.async_val) and not self._connection.has_native_async
            return {**result, **self._execute_module(task_vars=variables, wrap_async=wrap)}
        return {**result, **self._follow(variables, self._interval(variables))}

    def _interval(self, variables: dict[str, Any]) -> Interval:
        value = self._templar.template(variables.get(_VARIABLE, os.environ.get(_VARIABLE.upper())))
        try:
            return parse_interval(value)
        except ValueError as error:
            raise AnsibleActionFail(
                f"{_VARIABLE} is {value!r}. It is a number of seconds, 0 for no progress."
            ) from error

    def _follow(self, variables: dict[str, Any], interval: Interval) -> dict[str, Any]:
        began, playbook = time.monotonic(), os.getppid()
        reply = self._begin(variables, interval.after(0))
        job = reply.get("job")
        joined = job if job and job["joined"] else None
        if job:
            # The module's file has the options in it.
            self._remove_tmp_path(self._connection._shell.tmpdir)
        if joined:
            self._tell_joined(joined)
        while job:
            if os.getppid() != playbook:
                # It was killed, and this process of it was not: the answer is for whoever asks next.
                raise AnsibleActionFail("The playbook has ended.")
            if not interval.silent and not self._task.no_log:
                self._show(job)
            reply = self._ask(job["job"], variables, interval.after(time.monotonic() - began))
            job = reply.get("job")
        return reply

    def _begin(self, variables: dict[str, Any], seconds: float) -> dict[str, Any]:
        environment = self._task.environment
        self._task.environment = [*(environment or []), {_WAIT: str(seconds)}]
        try:
            reply: dict[str, Any] = self._execute_module(task_vars=variables)
        finally:
            self._task.environment = environment
        return reply

    def _ask(self, job: str, variables: dict[str, Any], seconds: float) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            reply: dict[str, Any] = self._execute_module(
                module_name=_FOLLOW, module_args={"job": job, "wait": int(seconds)}, task_vars=variables
            )
            return reply

        return patiently(ask, AnsibleConnectionFailure, self._reconnect)

    def _reconnect(self) -> None:
        self._connection._shell.tmpdir = None
        self._connection.reset()

    @staticmethod
    def _show(job: dict[str, Any]) -> None:
        lines = [progress_line(said) for said in job["progress"]]
        if lines:
            show(lines)

    @staticmethod
    def _tell_joined(job: dict[str, Any]) -> None:
        text = f"This was begun at {job['begun']} by an earlier call for the same, and was not begun again."
        Display().warning(text)
