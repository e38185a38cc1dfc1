# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is let out of a body: only errors of ours, each with its place; and never a stop of the interpreter."""

from __future__ import annotations

import errno

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._errors import (
    CancelledError,
    InternalError,
    SourceError,
    StorageError,
    VMForgeError,
    describe_error,
    internal_errors,
)
from ansible_collections.vmforge.backup.plugins.module_utils._files import as_failures
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request, _answer
from ansible_collections.vmforge.backup.plugins.module_utils._signals import Interrupted


@pytest.mark.parametrize(
    ("error", "kind", "code", "words"),
    [
        (SourceError("as it was"), SourceError, "source", "^as it was$"),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, "target_full", "No space left"),
        (OSError(errno.EIO, "Input/output error"), StorageError, "storage", "Input/output error"),
        (Interrupted("SIGTERM"), CancelledError, "cancelled", "stopped by SIGTERM"),
        (ValueError("odd"), InternalError, "internal", r"ValueError: odd \(test_errors.py:\d+\)"),
        (MemoryError(), InternalError, "internal", r"MemoryError:  \(test_errors.py:\d+\)"),
        (StopIteration(), InternalError, "internal", "StopIteration"),
        (AssertionError("odd"), InternalError, "internal", "AssertionError"),
    ],
)
def test_what_becomes_of_an_error(error: BaseException, kind: type[VMForgeError], code: str, words: str) -> None:
    with pytest.raises(VMForgeError, match=words) as caught, as_failures():
        raise error
    assert caught.value.__class__ == kind
    assert caught.value.code == code


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_ends_the_interpreter_is_let_through(error: BaseException) -> None:
    for guard in (as_failures, internal_errors):
        with pytest.raises(type(error)), guard():
            raise error


@pytest.mark.parametrize("error", [OSError("disk"), SourceError("ours"), Interrupted("SIGINT")])
def test_what_is_no_fault_of_ours_is_no_internal_error(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, internal_errors():
        raise error
    assert caught.value is error


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert describe_error(KeyError("x")) == "KeyError: 'x'"


def test_whatever_a_use_case_raises_is_a_failure_and_no_traceback() -> None:
    def use_case(_request: Request) -> Outcome:
        raise PermissionError(errno.EACCES, "Permission denied", "/backups/x")

    answer = _answer(Request({}), use_case)
    assert answer["values"] == {"code": "storage"}
    assert "Permission denied" in answer["failure"]
    assert "/backups/x" in answer["failure"]
