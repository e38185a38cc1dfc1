# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's errors as ours."""

from __future__ import annotations

from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._deps import libvirt
from ansible_collections.vmforge.backup.plugins.module_utils._errors import BusyError, HypervisorError, NotFoundError


def is_disconnect(error: Any) -> bool:
    """Whether the connection was lost, and another one may do."""
    if error.get_error_domain() == libvirt.VIR_FROM_RPC:
        return True
    return error.get_error_code() in (libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_NO_CONNECT)


def translate(what: str, error: Any) -> HypervisorError | BusyError | NotFoundError:
    """Say what failed, and why.

    Args:
        what: Was done, such as ``listing domains``.
        error: A ``libvirtError``.
    """
    message = f"{what[0].upper()}{what[1:]} failed: {error.get_error_message()}."
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return BusyError(f"{message} Another job is running on it; try again when that has ended.", code="domain_busy")
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NotFoundError(message, code="vm_not_found")
    if code == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
        return NotFoundError(message, code="checkpoint_not_found")
    if code in (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_CONFIG_UNSUPPORTED):
        return HypervisorError(message, code="unsupported")
    if code in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED):
        return HypervisorError(message, code="agent_silent")
    if code == libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT:
        return HypervisorError(message, code="bitmap_lost")
    return HypervisorError(message)


def ignore_message(_context: Any, _error: Any) -> None:
    """What libvirt calls with an error, which it would print else; it is raised as an exception as well."""
