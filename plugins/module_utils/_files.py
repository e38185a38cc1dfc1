# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are whole or not there at all, and durable once written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    FormatError,
    StorageError,
    VMForgeError,
    internal_errors,
)
from ansible_collections.vmforge.backup.plugins.module_utils._signals import Interrupted


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn operating system errors into ``StorageError``; FileExistsError and FileNotFoundError are for the caller."""
    try:
        yield
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise storage_error(what, error) from error


def storage_error(what: str, error: OSError) -> StorageError:
    """Describe an operating system error. ENOSPC and EDQUOT get the code ``target_full``."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = " Free space there, or prune old backups." if full else ""
    return StorageError(
        f"{what[0].upper()}{what[1:]} failed: {error.strerror or error}.{hint}",
        code="target_full" if full else StorageError.code,
    )


@contextmanager
def as_failures(what: str = "making the backup") -> Iterator[None]:
    """Let nothing but ``VMForgeError`` out, be it a signal, the operating system or a fault of ours that ends the body.

    KeyboardInterrupt and SystemExit are none of our business.

    Args:
        what: The body does, for messages.
    """
    try:
        with internal_errors():
            yield
    except (OSError, Interrupted) as error:
        raise as_failure(error, what) from error


def as_failure(error: VMForgeError | OSError | Interrupted, what: str = "making the backup") -> VMForgeError:
    """The error itself, or a signal or what the operating system said as one of ours."""
    if isinstance(error, Interrupted):
        return error.as_error()
    return error if isinstance(error, VMForgeError) else storage_error(what, error)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file by rename: readers see the old content or the new one; durable when it returns."""
    temporary = path.with_name(f".{path.name}.new")
    with storage_errors(f"writing {path}"):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, path)
        except OSError:
            temporary.unlink()
            raise
        sync_directory(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> bytes:
    """Replace a JSON file; returns its bytes."""
    data = encode_json(value)
    write_file(path, data)
    return data


def encode_json(value: Mapping[str, Any]) -> bytes:
    """JSON as people can read it, one form for one value."""
    return (json.dumps(value, indent=1, sort_keys=False, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: There is none.
        FormatError: It is not a JSON object.
    """
    with storage_errors(f"reading {path}"):
        data = path.read_bytes()
    return decode_json(data, where=str(path))


def read_note(path: Path) -> dict[str, Any]:
    """The same of a file that nothing depends on: one that is missing or damaged says nothing."""
    try:
        return read_json(path)
    except (FileNotFoundError, FormatError):
        return {}


def decode_json(data: bytes, *, where: str) -> dict[str, Any]:
    """The JSON object in some bytes. Raises ``FormatError`` naming ``where`` for anything else."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise FormatError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where} holds no JSON object.")
    return value


def remove_tree(path: Path) -> None:
    """Remove a directory with all in it; one that is gone already is fine."""
    with storage_errors(f"removing {path}"):
        try:
            shutil.rmtree(path)
            sync_directory(path.parent)
        except FileNotFoundError:
            return
