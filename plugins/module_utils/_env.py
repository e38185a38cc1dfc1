# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of a ``.env`` file: what it says, and how to change values and nothing else. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ansible_collections.vmforge.backup.plugins.module_utils._env_readers import (
    SystemdReader,
    assignment,
    lines_in_quotes,
    split_lines,
)
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_BARE = re.compile(r"[A-Za-z0-9_@%+=:,./-]*\Z")
_SINGLE = re.compile(r"'([^']*)'\Z")
# Inside double quotes a shell leaves a backslash alone unless it stands before one of these or before another.
_DOUBLE = re.compile(r'"((?:[^"$`\\]|\\(?!["$`\\]))*)"\Z')
_COMMENTED = re.compile(r"""\s*(?P<value>'[^']*'|"[^"]*"|(?:[^'"\s#](?:(?!\s#).)*)?)\s+(?P<comment>#.*)\Z""", re.DOTALL)
_EXPORT = re.compile(r"\s*export\s+(?:.*\s)?([A-Za-z_][A-Za-z0-9_]*)=")


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        text: With its end.
        name: What it assigns, for the panel's loader; None if nothing.
        read: The value, for that loader.
        meant: The value without the comment behind it that the loader takes for a part of it.
        comment: That comment, or None.
    """

    text: str
    name: str | None = None
    read: str = ""
    meant: str = ""
    comment: str | None = None

    @classmethod
    def of(cls, text: str) -> Line:
        """Read a line."""
        found = assignment(text)
        if found is None:
            return cls(text)
        commented = _COMMENTED.match(text.rstrip("\r\n").partition("=")[2])
        if commented is None:
            return cls(text, found[0], found[1], found[1])
        meant = assignment(f"{found[0]}={commented['value']}")
        return cls(text, found[0], found[1], meant[1] if meant else "", commented["comment"])


@dataclass(frozen=True)
class Change:
    """A line that is put where another stood, or at the end. ``before`` is None for a name that was not there."""

    name: str
    before: str | None
    after: str


@dataclass
class EnvPlan:
    """What is to be written.

    Attributes:
        text: The whole new file.
        changes: In the order of the file.
        duplicates: Name -> numbers of the lines that assign it, where there are several.
        warnings: What is not as it should be, and is not ours to change.
    """

    text: str
    changes: list[Change] = field(default_factory=list)
    duplicates: dict[str, list[int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def encode(name: str, value: str) -> str:
    """Write a value so that the panel's loader, a shell and systemd read it alike.

    Raises:
        InputError: There is no way to write it so.
    """
    bad = next((char for char in value if not _is_plain(char)), None)
    if bad is not None:
        raise InputError(
            f"The value of {name} cannot be written to a .env file: it holds the character U+{ord(bad):04X}, "
            "which is a control character or no text."
        )
    for form in (value, f"'{value}'", f'"{value}"'):
        if _read_alike(form) == value:
            return form
    raise InputError(
        f"The value of {name} cannot be written to a .env file so that VMForge, a shell and systemd read it alike: "
        "it begins or ends with a quote or a backslash, or holds both kinds of quotes, or an apostrophe and one of "
        "$, ` and \\\\. Choose another value."
    )


def _is_plain(char: str) -> bool:
    """Whether systemd takes it in a file, and no reader takes it for the end of a line."""
    code = ord(char)
    noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return not noncharacter and code != 0xFEFF and unicodedata.category(char) not in ("Cc", "Cs")


def _read_alike(form: str) -> str | None:
    """The value of what stands behind ``=``, if all readers agree on it; a form that is not understood is no value."""
    quoted = _SINGLE.match(form) or _DOUBLE.match(form)
    value = quoted[1] if quoted else form
    if not quoted and not _BARE.match(form):
        return None
    found = assignment(f"X={form}")
    return value if found is not None and found[1] == value else None


def read_values(text: str) -> dict[str, Line]:
    """Name -> the line that counts, which is its last."""
    return {line.name: line for line in map(Line.of, split_lines(text)) if line.name}


def rewrite(text: str, values: Mapping[str, str]) -> EnvPlan:
    """Plan to set values; every other line stays as it is, to the byte.

    A name is set where it stands last, for the last one wins; a new one is added at the end, in the order given. Lines
    of ours end in a bare line feed, for a shell would take a carriage return for a part of the value. A comment behind
    a value is kept above it.

    Raises:
        InputError: A name or a value cannot be written.
    """
    for name in values:
        if not NAME.match(name):
            raise InputError(f"{name!r} is no name of a variable: letters, digits and underscores.")
    wanted = {name: f"{name}={encode(name, value)}\n" for name, value in values.items()}
    lines = [Line.of(line) for line in split_lines(text)]
    places = {line.name: index for index, line in enumerate(lines) if line.name in wanted}
    plan, new = EnvPlan(text), list[str]()
    for index, line in enumerate(lines):
        if line.name is None or places.get(line.name) != index or _is_right(line, values[line.name], new):
            new.append(line.text)
        else:
            plan.changes.append(Change(line.name, line.text.rstrip("\n"), wanted[line.name].rstrip("\n")))
            _append(new, wanted[line.name], line.comment)
    for name in [name for name in wanted if name not in places]:
        plan.changes.append(Change(name, None, wanted[name].rstrip("\n")))
        _append(new, wanted[name], None)
    plan.text = "".join(new)
    plan.duplicates = _duplicates(lines, values)
    plan.warnings = list(_warnings(plan, values))
    return plan


def _is_right(line: Line, value: str, before: list[str]) -> bool:
    """Whether all readers agree already that this line sets this value."""
    name, _equals, form = line.text.rstrip("\n").partition("=")
    bare = form.rstrip(" \t")
    return name == line.name and _read_alike(bare) == value and not _is_continued(before)


def _append(lines: list[str], text: str, comment: str | None) -> None:
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if comment is not None:
        lines.append(comment.rstrip("\r\n") + "\n")
    if _is_continued(lines):
        # A shell, and systemd even behind a comment, would take the line for a part of this one.
        lines.append("\n")
    lines.append(text)


def _is_continued(lines: list[str]) -> bool:
    last = lines[-1].rstrip("\n") if lines else ""
    return (len(last) - len(last.rstrip("\\"))) % 2 == 1


def _duplicates(lines: list[Line], values: Mapping[str, str]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        if line.name in values:
            numbers.setdefault(str(line.name), []).append(number)
    return {name: found for name, found in numbers.items() if len(found) > 1}


def _warnings(plan: EnvPlan, values: Mapping[str, str]) -> Iterator[str]:
    for name, numbers in plan.duplicates.items():
        where = ", ".join(map(str, numbers))
        yield f"{name} stands there {len(numbers)} times (lines {where}): the last counts, the others stay as they are."
    lines = split_lines(plan.text)
    if plan.text.startswith("\ufeff"):
        yield "It begins with a byte order mark, which every reader takes for a part of the first line's name."
    quotes, systemd = lines_in_quotes(plan.text), SystemdReader().read(plan.text)
    for number, text in enumerate(lines, 1):
        found, line = _EXPORT.match(text), Line.of(text)
        if found and found[1] in values:
            yield f"Line {number} sets {found[1]} for a shell alone: VMForge's loader does not know export."
        if line.name in values and number - 1 in quotes:
            opened = quotes[number - 1] + 1
            yield f"A shell does not see {line.name} in line {number}: line {opened} leaves a quote open."
        if not all(_is_plain(char) or char in "\t\r\n\ufeff" for char in text):
            yield f"Line {number} holds what is no text in UTF-8: systemd may refuse the whole file."
    for name in values:
        if systemd.get(name) != values[name]:
            yield f"systemd does not see {name} as it is: a line above it leaves a quote open."
