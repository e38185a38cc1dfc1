# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A ``.env`` file on disk: where it really lies, who owns it, and how it is replaced at once."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, StorageError
from ansible_collections.vmforge.backup.plugins.module_utils._files import storage_error, storage_errors, sync_directory
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id, utc_now

_MAX_LINKS = 40
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Rights:
    """Who may do what with the file. ``uid`` and ``gid`` are None to keep what is there."""

    mode: int
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def parse(cls, owner: str | None, group: str | None, mode: Any) -> Rights:
        """Read names or numbers.

        Raises:
            InputError: There is no such user or group here, or the mode is no octal number.
        """
        text = f"{mode:o}" if isinstance(mode, int) else str(mode)
        if not re.match(r"0?[0-7]{3}\Z", text):
            raise InputError(f"Option mode: {mode!r} is no octal number such as '0640'.")
        return cls(int(text, 8), _user(owner) if owner else None, _group(group) if group else None)

    def differ(self, found: os.stat_result) -> bool:
        """Whether a file has others."""
        return (
            stat.S_IMODE(found.st_mode) != self.mode
            or self.uid not in (None, found.st_uid)
            or self.gid not in (None, found.st_gid)
        )


def _user(name: str) -> int:
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise InputError(f"Option owner: there is no user {name!r} on this host.") from None


def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise InputError(f"Option group: there is no group {name!r} on this host.") from None


@dataclass(frozen=True)
class EnvFile:
    """A file as it was found.

    Attributes:
        path: Where it lies, symbolic links followed.
        text: What it says; bytes that are no UTF-8 are kept as surrogates. Empty if there is none.
        found: None if there is none.
    """

    path: Path
    text: str
    found: os.stat_result | None

    @classmethod
    def read(cls, path: str) -> EnvFile:
        """Read it.

        Raises:
            InputError: The path leads to something that is no file, nowhere, or where somebody else may have led it.
            StorageError: It cannot be read.
        """
        place = _follow(Path(path))
        try:
            with storage_errors(f"reading {place}"):
                # Not to be led elsewhere after the check, nor held up by a pipe.
                descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return cls(place, "", None)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            kind = "directory" if stat.S_ISDIR(found.st_mode) else "device, a pipe or a socket"
            raise InputError(f"{place} is a {kind} and not a .env file.", code="not_a_file")
        with os.fdopen(descriptor, "rb") as stream, storage_errors(f"reading {place}"):
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES or b"\0" in data:
            raise InputError(f"{place} is not a .env file: it is too large or holds zero bytes.", code="not_a_file")
        return cls(place, data.decode("utf-8", "surrogateescape"), found)

    def replace(self, text: str, rights: Rights) -> None:
        """Write another text. Readers see the old file or the new one; durable when it returns."""
        with storage_errors(f"writing {self.path}"):
            try:
                descriptor, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            except FileNotFoundError as error:
                raise StorageError(f"Writing {self.path} failed: its directory does not exist.") from error
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(text.encode("utf-8", "surrogateescape"))
                    stream.flush()
                    self._dress(descriptor, rights)
                    os.fsync(descriptor)
                os.rename(temporary, self.path)
            except BaseException:
                os.unlink(temporary)
                raise
            sync_directory(self.path.parent)

    def _dress(self, descriptor: int, rights: Rights) -> None:
        """Give a new file the attributes of the old one, but for what is wanted otherwise."""
        if self.found is not None:
            with suppress(OSError):
                for name in os.listxattr(self.path):
                    os.setxattr(descriptor, name, os.getxattr(self.path, name))
        uid = rights.uid if rights.uid is not None else self.found.st_uid if self.found else -1
        gid = rights.gid if rights.gid is not None else self.found.st_gid if self.found else -1
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, rights.mode)

    def set_rights(self, rights: Rights) -> None:
        """Change nothing but owner, group and mode."""
        with storage_errors(f"changing the rights of {self.path}"):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchown(
                    descriptor, -1 if rights.uid is None else rights.uid, -1 if rights.gid is None else rights.gid
                )
                os.fchmod(descriptor, rights.mode)
            finally:
                os.close(descriptor)

    def keep_copy(self) -> Path:
        """Copy the file as it was found, for its owner alone; where it lies."""
        copy = self.path.with_name(f"{self.path.name}.{format_id(utc_now())}.{os.getpid()}~")
        with storage_errors(f"copying {self.path} to {copy}"):
            descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(self.text.encode("utf-8", "surrogateescape"))
                stream.flush()
                os.fsync(descriptor)
        return copy


def _follow(path: Path) -> Path:
    """Where symbolic links lead, if those who made them are trusted: root, ourselves, and the owner of the target."""
    if not path.is_absolute():
        raise InputError(f"Option path: {str(path)!r} is not an absolute path.")
    owners: list[int] = []
    place = path
    try:
        while place.is_symlink():
            owners.append(os.lstat(place).st_uid)
            place = place.parent / os.readlink(place)
            if len(owners) > _MAX_LINKS:
                raise InputError(f"{path} is a symbolic link that leads to itself.", code="dangling_link")
        place = Path(os.path.realpath(place.parent)) / place.name
        target = os.lstat(place)
    except FileNotFoundError:
        if owners:
            raise InputError(
                f"{path} is a symbolic link to {place}, which does not exist. Remove the link or make the file.",
                code="dangling_link",
            ) from None
        return place
    except OSError as error:
        raise storage_error(f"looking at {path}", error) from error
    strangers = set(owners) - {0, os.geteuid(), target.st_uid}
    if strangers:
        raise InputError(
            f"{path} is a symbolic link to {place} that user {min(strangers)} made, who does not own that file. "
            "Name the file itself as path.",
            code="foreign_link",
        )
    return place
