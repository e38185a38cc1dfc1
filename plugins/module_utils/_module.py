# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The boundary: the one place that knows ``AnsibleModule``. Everything below takes plain values and raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    DependencyError,
    VMForgeError,
    internal_errors,
)

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
    try:
        with internal_errors():
            outcome = use_case(request)
    except DependencyError as error:
        _respawn_where_present(error.libraries)
        module.fail_json(msg=error.message, code=error.code)
    except VMForgeError as error:
        module.fail_json(msg=error.message, code=error.code)
    for warning in outcome.warnings:
        module.warn(warning)
    result = dict(outcome.values, changed=outcome.changed)
    if outcome.diff is not None and request.diff_mode:
        result["diff"] = outcome.diff
    if outcome.unechoed:
        shown = {name: value for name, value in module.params.items() if name not in outcome.unechoed}
        result["invocation"] = {"module_args": shown}
    if outcome.failure is not None:
        module.fail_json(msg=outcome.failure, **result)
    module.exit_json(**result)


def _respawn_where_present(libraries: tuple[str, ...]) -> None:
    """Run the module again under an interpreter that has the missing libraries; return when there is none."""
    if not libraries or has_respawned():
        return
    interpreters = [
        path for path in _SYSTEM_PYTHONS if all(probe_interpreters_for_module([path], name) for name in libraries)
    ]
    if interpreters:
        respawn_module(interpreters[0])
