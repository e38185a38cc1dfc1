# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a job is, from what its playbook prints. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# web1  42 %  1.9 of 4.6 GiB  612 MiB/s  0:04 left
_LINE = re.compile(r"^\s*(?P<name>\S.*?)\s+(?P<percent>\d{1,3}) ?%(?:\s+(?P<rest>\S.*))?$")
_TASK = re.compile(r"^TASK \[(?:vmforge\.backup\.\w+ : )?(?P<task>[^\]]+)\]")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Progress:
    """The last thing that was said.

    Attributes:
        task: The name of the playbook's task.
        percent: None where nobody counts.
    """

    task: str = ""
    percent: int | None = None
    text: str = ""


def clean(text: str) -> str:
    """Without a terminal's colours and control characters."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def progress(lines: Iterable[str]) -> Progress:
    """How far a job is; a new task begins to count anew."""
    found = Progress()
    for line in lines:
        task = _TASK.match(line)
        if task:
            found = Progress(task["task"])
            continue
        counted = _LINE.match(line)
        if counted and int(counted["percent"]) <= 100:
            found = Progress(found.task, int(counted["percent"]), " ".join((counted["rest"] or "").split()))
    return found
