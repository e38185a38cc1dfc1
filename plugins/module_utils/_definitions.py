# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small files of a backup: a domain's definitions, its firmware variables and its TPM's state."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import DomainSpec
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain
from ansible_collections.vmforge.backup.plugins.module_utils._tpm_state import SWTPM_DIRECTORY


def read_definitions(domain: Domain, spec: DomainSpec) -> dict[str, bytes]:
    """Read what is needed beside the disks to define the domain again.

    ``nvram.fd`` and ``tpm.tar`` are read when this is called, which is a moment after the disks' instant.

    Returns:
        File name -> content.
    """
    files = {"domain.xml": domain.xml(inactive=True).encode()}
    if domain.state().active:
        files["domain-live.xml"] = domain.xml(inactive=False).encode()
    with storage_errors(f"reading the firmware state of {domain.name!r}"):
        if spec.nvram is not None and Path(spec.nvram).is_file():
            files["nvram.fd"] = Path(spec.nvram).read_bytes()
        state = SWTPM_DIRECTORY / domain.uuid
        if spec.tpm and state.is_dir():
            files["tpm.tar"] = _tar(state)
    return files


def _tar(directory: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(directory, arcname=".", recursive=True)
    return stream.getvalue()
