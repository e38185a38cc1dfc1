# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong, as values: raised anywhere below ``_module.py``, turned into a module failure only there."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator


class VMForgeError(Exception):
    """A failure that an operator can act on.

    Args:
        message: What failed, on what, why, and what to do next. Never holds a secret.
        code: A stable word for programs, such as ``scratch_full``. Defaults to the class's own.
    """

    code = "failed"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class InputError(VMForgeError):
    """An option or a request that cannot be carried out as given; nothing was touched."""

    code = "invalid_input"


class NotFoundError(VMForgeError):
    """A thing that was named does not exist."""

    code = "not_found"


class DependencyError(VMForgeError):
    """A library or program is missing on this host.

    Args:
        libraries: Import names of the missing Python libraries; another interpreter may have them.
    """

    code = "missing_dependency"

    def __init__(self, message: str, *, libraries: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.libraries = libraries


class BusyError(VMForgeError):
    """Something else is working on the same thing right now."""

    code = "busy"


class HypervisorError(VMForgeError):
    """libvirt or QEMU refused or failed."""

    code = "hypervisor"


class SourceError(VMForgeError):
    """A disk could not be read to its end."""

    code = "source"


class SourceChangedError(SourceError):
    """The domain was started, stopped or changed under the reader: what was read is discarded."""

    code = "source_changed"


class StorageError(VMForgeError):
    """The local backup directory could not be read or written."""

    code = "storage"


class S3Error(VMForgeError):
    """The object store refused or failed."""

    code = "s3"


class DatabaseError(VMForgeError):
    """The database refused, failed or is not what it should be."""

    code = "database"


class FormatError(VMForgeError):
    """Data of ours that cannot be read: a manifest, a sidecar or an image that is not what it should be."""

    code = "format"


class CancelledError(VMForgeError):
    """The run was asked to stop, by a signal or because another part of it failed."""

    code = "cancelled"


class PolicyError(VMForgeError):
    """A policy that cannot be obeyed: it would keep nothing, or a value in it has no meaning."""

    code = "policy"


class InternalError(VMForgeError):
    """A fault of this collection itself."""

    code = "internal"


@contextlib.contextmanager
def internal_errors() -> Iterator[None]:
    """Turn what nobody expected into ``InternalError``. What the operating system says is for the caller.

    Raises:
        InternalError: Names the type and the place of the error.
    """
    try:
        yield
    except (VMForgeError, OSError):
        raise
    except Exception as error:
        raise InternalError(
            f"An error inside vmforge.backup: {describe_error(error)}. Please report it with this line.",
        ) from error


def describe_error(error: BaseException | None) -> str:
    """Type, message and place of an error, in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1] if error is not None and error.__traceback__ else None
    where = f" ({os.path.basename(last.filename)}:{last.lineno})" if last is not None else ""
    return f"{type(error).__name__}: {error}{where}"
