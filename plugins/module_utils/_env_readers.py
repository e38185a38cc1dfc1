# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How programs read a ``.env`` file: the panel's loader, systemd, and where a shell loses its way. Pure."""

from __future__ import annotations

from typing import Callable

# What PHP's trim() takes away.
_BLANK = " \t\n\r\0\x0b"
_STRIPPED = "'\"\\"
_NEWLINE = "\n\r"
_SPACE = " \t\n\r"


def split_lines(text: str) -> list[str]:
    """The lines with their ends. Only a line feed ends one: other characters that Python knows are text to a loader."""
    pieces = text.split("\n")
    return [piece + "\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def assignment(line: str) -> tuple[str, str] | None:
    """Name and value as VMForge's own loader reads a line; None for one that assigns nothing.

    Its rules: the line is trimmed; empty ones and those that begin with ``#`` are skipped; it is split at the first
    ``=`` and both sides are trimmed; quotes and backslashes at the value's ends are stripped. It knows no escapes and
    no comments behind a value.
    """
    line = line.strip(_BLANK)
    if not line or line.startswith("#") or "=" not in line:
        return None
    name, _equals, value = line.partition("=")
    return name.strip(_BLANK), value.strip(_BLANK).strip(_STRIPPED)


class SystemdReader:
    """systemd's ``EnvironmentFile=``: systemd.exec(5), and ``parse_env_file_internal()`` of systemd 252.

    That version, unlike those since 254, lets a backslash at the end of a comment continue it on the next line.
    """

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._key = ""
        self._value = ""
        self._kept = 0
        self._state: Callable[[str], None] = self._before_key

    def read(self, text: str) -> dict[str, str]:
        """The variables of a file; the last of a name wins."""
        for char in text:
            self._state(char)
        if self._state not in (self._before_key, self._in_key, self._comment, self._comment_escape):
            self._store()
        return self.values

    def _before_key(self, char: str) -> None:
        if char in "#;":
            self._state = self._comment
        elif char not in _SPACE:
            self._key, self._state = char, self._in_key

    def _in_key(self, char: str) -> None:
        if char in _NEWLINE:
            self._state = self._before_key
        elif char == "=":
            self._value, self._kept, self._state = "", 0, self._before_value
        else:
            self._key += char

    def _before_value(self, char: str) -> None:
        states = {"'": self._single, '"': self._double, "\\": self._escape}
        if char in _NEWLINE:
            self._store()
        elif char in states:
            self._state = states[char]
        elif char not in _SPACE:
            self._state = self._in_value
            self._push(char)

    def _in_value(self, char: str) -> None:
        if char in _NEWLINE:
            self._store()
        elif char == "\\":
            self._kept, self._state = len(self._value), self._escape
        elif char in _SPACE:
            self._value += char
        else:
            self._push(char)

    def _escape(self, char: str) -> None:
        self._state = self._in_value
        if char not in _NEWLINE:
            self._push(char)

    def _single(self, char: str) -> None:
        if char == "'":
            self._state = self._before_value
        else:
            self._push(char)

    def _double(self, char: str) -> None:
        if char == '"':
            self._state = self._before_value
        elif char == "\\":
            self._state = self._double_escape
        else:
            self._push(char)

    def _double_escape(self, char: str) -> None:
        self._state = self._double
        if char in '"\\`$':
            self._push(char)
        elif char != "\n":
            self._push("\\" + char)

    def _comment(self, char: str) -> None:
        if char == "\\":
            self._state = self._comment_escape
        elif char in _NEWLINE:
            self._state = self._before_key

    def _comment_escape(self, _char: str) -> None:
        self._state = self._comment

    def _push(self, text: str) -> None:
        self._value += text
        self._kept = len(self._value)

    def _store(self) -> None:
        self.values[self._key.rstrip(_SPACE)] = self._value[: self._kept]
        self._state = self._before_key


def lines_in_quotes(text: str) -> dict[int, int]:
    """Lines that a shell takes for the inside of a quote that an earlier line opened: index -> index of that line."""
    found: dict[int, int] = {}
    quote, opened, escaped = "", 0, False
    for index, line in enumerate(split_lines(text)):
        before = " "
        if quote:
            found[index] = opened
        for char in line:
            if escaped:
                escaped = False
            elif char == "\\" and quote != "'":
                escaped = True
            elif quote:
                quote = "" if char == quote else quote
            elif char == "#" and before in _SPACE:
                break
            elif char in ("'", '"'):
                quote, opened = char, index
            before = char
    return found
