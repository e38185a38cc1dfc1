# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints lines in the output of a playbook, where that is for people."""

from __future__ import annotations

from collections.abc import Iterable

from ansible import constants
from ansible.utils.display import Display


def show(lines: Iterable[str]) -> None:
    """Print on the terminal, unless what goes there has to stay JSON."""
    if not str(constants.DEFAULT_STDOUT_CALLBACK).endswith(("json", "jsonl")):
        Display().display("\n".join(lines))
