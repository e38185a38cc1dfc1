# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpacks ``tpm.tar``: files and directories below one place, and nothing else."""

from __future__ import annotations

import grp
import io
import os
import posixpath
import pwd
import tarfile
from pathlib import Path

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_errors, write_file

# Of libvirt, with a directory for each domain's UUID.
SWTPM_DIRECTORY = Path("/var/lib/libvirt/swtpm")


def unpack_tpm(data: bytes, directory: Path) -> None:
    """Unpack the state of a TPM into a new directory.

    Raises:
        FormatError: It holds anything but files and directories of its own.
        StorageError: It cannot be written.
    """
    with storage_errors(f"unpacking into {directory}"):
        directory.mkdir(mode=0o711, parents=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                for member in archive:
                    _unpack(archive, member, directory)
        except tarfile.TarError as error:
            raise FormatError(f"tpm.tar cannot be read: {error}.") from error


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    name = posixpath.normpath(member.name)
    if name.startswith(("/", "..")) or not (member.isfile() or member.isdir()):
        raise FormatError(f"tpm.tar holds {member.name!r}, which is none of a TPM's files.")
    path = directory / name
    if member.isdir():
        path.mkdir(exist_ok=True)
    else:
        stream = archive.extractfile(member)
        write_file(path, stream.read() if stream is not None else b"")
    # By name: the same user has another number on another host.
    os.chown(path, _user(member), _group(member))
    path.chmod(member.mode & 0o777)


def _user(member: tarfile.TarInfo) -> int:
    try:
        return pwd.getpwnam(member.uname).pw_uid
    except KeyError:
        return member.uid


def _group(member: tarfile.TarInfo) -> int:
    try:
        return grp.getgrnam(member.gname).gr_gid
    except KeyError:
        return member.gid
