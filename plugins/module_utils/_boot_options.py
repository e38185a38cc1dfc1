# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a verification that boots what is in a backup, checked. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._options import DEFAULT_SCRATCH_DIR

DEFAULT_SCREENSHOT_DIR = "/var/lib/vmforge/screenshots"
_LEAST_MEMORY = 64

BOOT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "boot_timeout": {"type": "int", "default": 300},
    "boot_pattern": {"type": "str"},
    "boot_memory": {"type": "int", "default": 2048},
    "screenshot_dir": {"type": "path", "default": DEFAULT_SCREENSHOT_DIR},
    "scratch_dir": {"type": "path", "default": DEFAULT_SCRATCH_DIR},
    "uri": {"type": "str", "default": "qemu:///system"},
}


@dataclass(frozen=True)
class BootOptions:
    """See the module's documentation for each meaning.

    Attributes:
        timeout: Seconds.
        pattern: What must appear on the first serial port; None for nothing.
        memory: MiB, at most.
        screenshots: A directory, made when it is needed.
        scratch: A directory that QEMU's user may enter.
    """

    timeout: int
    pattern: re.Pattern[str] | None
    memory: int
    screenshots: Path
    scratch: Path
    uri: str

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> BootOptions:
        """Build from a module's options.

        Raises:
            InputError: One is out of its range; names it.
        """
        if params["boot_timeout"] < 1:
            raise InputError(f"boot_timeout is {params['boot_timeout']}; it must be 1 or more seconds.")
        if params["boot_memory"] < _LEAST_MEMORY:
            raise InputError(f"boot_memory is {params['boot_memory']}; it must be {_LEAST_MEMORY} or more MiB.")
        text = params["boot_pattern"]
        try:
            pattern = re.compile(text, re.MULTILINE) if text else None
        except re.error as error:
            raise InputError(f"boot_pattern {text!r} is no regular expression: {error}.") from error
        for name in ("screenshot_dir", "scratch_dir"):
            if not os.path.isabs(params[name]):
                raise InputError(f"{name} is {params[name]!r}; it must be an absolute path.")
        return cls(
            timeout=params["boot_timeout"],
            pattern=pattern,
            memory=params["boot_memory"],
            screenshots=Path(params["screenshot_dir"]),
            scratch=Path(params["scratch_dir"]),
            uri=params["uri"],
        )
