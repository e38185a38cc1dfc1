# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong, said to people."""

from __future__ import annotations


class UiError(Exception):
    """Something that a person can act on.

    Attributes:
        message: What failed, and what to do.
        status: The HTTP status of the page that says so.
    """

    status = 400

    def __init__(self, message: str, *, code: str = "refused") -> None:
        super().__init__(message)
        self.message, self.code = message, code


class RefusedError(UiError):
    """Something that must not be done."""


class MissingError(UiError):
    """There is no such thing."""

    status = 404


class BusyError(UiError):
    """Something else is at work there."""

    status = 409


class AwayError(UiError):
    """The runner, the database or the list does not answer."""

    status = 503
