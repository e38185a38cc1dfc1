# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case of ``vmforge_backup_job``: what goes on by itself on this host, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._job import Jobs
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request

JOB_ARGUMENTS: dict[str, dict[str, Any]] = {
    "job": {"type": "str"},
    "wait": {"type": "int", "default": 0},
}
_WORK = {"vmforge_backup": "backup", "vmforge_backup_restore": "restore", "vmforge_backup_verify": "verify"}


def follow_job(request: Request) -> Outcome:
    """Tell of all work that goes on here, or wait for one piece of it.

    Raises:
        NotFoundError: There is no such work.
        VMForgeError: It ended without an answer.
    """
    jobs, name = Jobs(), request.params["job"]
    if name is None:
        states = [job.state() for job in jobs.running()]
        return Outcome(changed=False, values={"jobs": states, "vms": [row for state in states for row in _rows(state)]})
    job = jobs.get(name)
    if request.check_mode or not job.wait(request.params["wait"]):
        return Outcome(changed=False, values={"job": job.state()})
    answer = job.take()
    return Outcome(
        changed=answer.get("changed", False),
        values=answer["values"],
        diff=answer.get("diff"),
        warnings=tuple(answer.get("warnings", ())),
        failure=answer.get("failure"),
    )


def _rows(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One for each machine that is worked on; one for work that has not come so far or waits for its turn."""
    same = {"job": state["job"], "work": _WORK.get(state["module"].rsplit(".", 1)[-1], state["module"])}
    same.update(pid=state["pid"], begun=state["begun"])
    return [
        {
            **same,
            "vm": said["vm"]["name"],
            "phase": said["phase"],
            "percent": said["bytes_done"] * 100 // said["bytes_total"] if said["bytes_total"] else None,
            **{name: said[name] for name in ("bytes_done", "bytes_total", "rate", "eta")},
        }
        for said in state["progress"]
    ] or [{**same, "vm": ", ".join(state["vm"]) or None, "phase": "waiting"}]
