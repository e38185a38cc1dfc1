# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup job of a domain, by libvirt's own handle of it. Raises ``libvirtError``."""

from __future__ import annotations

from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._backup_xml import job_socket
from ansible_collections.vmforge.backup.plugins.module_utils._deps import libvirt


def socket_of_job(handle: Any) -> str | None:
    """The NBD socket of the backup job that runs, ``""`` for a job without one, None when no job runs."""
    try:
        return job_socket(handle.backupGetXMLDesc(0)) or ""
    except libvirt.libvirtError as error:
        if error.get_error_code() in (
            libvirt.VIR_ERR_NO_DOMAIN_BACKUP,
            libvirt.VIR_ERR_OPERATION_INVALID,
            libvirt.VIR_ERR_NO_DOMAIN,
        ):
            return None
        raise


def abort_job(handle: Any) -> None:
    """Ask for its end."""
    try:
        handle.abortJob()
    except libvirt.libvirtError as error:
        # It ended by itself between the question and the request, or its QEMU went away.
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise
