# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The boundary: the one place that knows ``AnsibleModule``. Everything below takes plain values and raises."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import remove_values
from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    DependencyError,
    StorageError,
    VMForgeError,
    internal_errors,
)
from ansible_collections.vmforge.backup.plugins.module_utils._job import Jobs, job_key

# Set by the action plugins: the work goes on by itself, and the module waits for it no longer than so many seconds.
_WAIT = "VMFORGE_BACKUP_WAIT"
# The distributions' own interpreters: their packages are not visible from a virtualenv or a newer Python.
_SYSTEM_PYTHONS = ["/usr/bin/python3", "/usr/libexec/platform-python"]


@dataclass(frozen=True)
class Request:
    """What a use case is asked to do.

    Attributes:
        params: The module's options, typed and defaulted by Ansible.
        check_mode: Plan only; touch nothing.
        diff_mode: A ``diff`` is wanted in the outcome.
    """

    params: Mapping[str, Any]
    check_mode: bool = False
    diff_mode: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a use case did, or would do in check mode.

    Attributes:
        changed: Whether anything was, or would be, changed.
        values: The module's return values.
        diff: Ansible's diff structure, where one was asked for.
        warnings: Sentences for the operator.
        failure: Set when part of the work failed: the module fails with it and still returns ``values``.
        unechoed: Options that Ansible shall not give back among ``invocation``: listings take seconds to carry.
    """

    changed: bool
    values: Mapping[str, Any] = field(default_factory=dict)
    diff: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    failure: str | None = None
    unechoed: tuple[str, ...] = ()


UseCase = Callable[[Request], Outcome]


def run_module(argument_spec: Mapping[str, Any], use_case: UseCase, **rules: Any) -> None:
    """Run one use case as an Ansible module and exit.

    Args:
        argument_spec: Ansible's argument specification.
        use_case: Takes a :class:`Request`, returns an :class:`Outcome` or raises :class:`VMForgeError`.
        rules: ``required_if``, ``mutually_exclusive`` and the like, for ``AnsibleModule``.
    """
    module = AnsibleModule(argument_spec=dict(argument_spec), supports_check_mode=True, **rules)
    request = Request(params=module.params, check_mode=module.check_mode, diff_mode=module._diff)
    # Without root there is no place for it, and not much that could be done.
    if _WAIT in os.environ and not module.check_mode and os.geteuid() == 0:
        answer = _answer_of_job(module, request, use_case, seconds=float(os.environ[_WAIT]))
    else:
        answer = _answer(request, use_case)
    _respawn_where_present(tuple(answer.get("libraries", ())))
    for warning in answer.get("warnings", ()):
        module.warn(warning)
    result = dict(answer.get("values", {}), changed=answer.get("changed", False))
    if answer.get("diff") is not None and request.diff_mode:
        result["diff"] = answer["diff"]
    if "failure" in answer:
        module.fail_json(msg=answer["failure"], **result)
    module.exit_json(**result)


def _answer(request: Request, use_case: UseCase) -> dict[str, Any]:
    """Run the use case; what it says, as plain values, in the form that a job keeps."""
    try:
        with internal_errors():
            outcome = use_case(request)
    except DependencyError as error:
        return {"failure": error.message, "values": {"code": error.code}, "libraries": list(error.libraries)}
    except VMForgeError as error:
        return {"failure": error.message, "values": {"code": error.code}}
    except OSError as error:
        return {"failure": f"The operating system refused: {error}.", "values": {"code": StorageError.code}}
    values = dict(outcome.values)
    if outcome.unechoed:
        shown = {name: value for name, value in request.params.items() if name not in outcome.unechoed}
        values["invocation"] = {"module_args": shown}
    answer = {"changed": outcome.changed, "values": values, "diff": outcome.diff, "warnings": list(outcome.warnings)}
    return answer if outcome.failure is None else {**answer, "failure": outcome.failure}


def _answer_of_job(module: AnsibleModule, request: Request, use_case: UseCase, *, seconds: float) -> dict[str, Any]:
    """Let the work go on by itself, or find it doing so; its answer, or how far it is after so many seconds."""

    def work() -> dict[str, Any]:
        answer = _answer(request, use_case)
        # What lies in a file has no secrets, not even in /run.
        values = {"invocation": {"module_args": dict(request.params)}, **answer["values"]}
        cleaned: dict[str, Any] = remove_values({**answer, "values": values}, module.no_log_values)
        return {**cleaned, "changed": answer.get("changed", False)}

    name = str(module._name)
    secret = {option for option, spec in module.argument_spec.items() if spec.get("no_log")}
    try:
        with internal_errors():
            vms = request.params.get("vm") or []
            facts = {"module": name, "vm": [vms] if isinstance(vms, str) else list(vms)}
            job, joined = Jobs().begin_or_join(job_key(name, request.params, secret), facts, work)
            if not job.wait(seconds):
                return {"values": {"job": {**job.state(), "joined": joined}}}
            answer = job.take()
            return (
                {**answer, "values": {**answer["values"], "job": {**job.state(), "joined": True}}} if joined else answer
            )
    except VMForgeError as error:
        return {"failure": error.message, "values": {"code": error.code}}
    except OSError as error:
        return {"failure": f"The work cannot be followed: {error}.", "values": {"code": StorageError.code}}


def _respawn_where_present(libraries: tuple[str, ...]) -> None:
    """Run the module again under an interpreter that has the missing libraries; return when there is none."""
    if not libraries or has_respawned():
        return
    interpreters = [
        path for path in _SYSTEM_PYTHONS if all(probe_interpreters_for_module([path], name) for name in libraries)
    ]
    if interpreters:
        respawn_module(interpreters[0])
