# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a backup's data come from: a running domain's job (_pull.py) or a stopped one's disks (_stopped.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Callable, Protocol

from ansible_collections.vmforge.backup.plugins.module_utils._nbd import Export

# Sockets and locks of this host; gone with a reboot, as what they belong to.
RUN_DIRECTORY = Path("/run/vmforge-backup")
# Below it, for each VM.
DISK_SOCKETS, PARENT_SOCKETS = "nbd", "parent"


@dataclass(frozen=True)
class Since:
    """What the source of an incremental backup is asked for.

    Attributes:
        checkpoint: Whose bitmaps are read.
        disks: Targets of the disks that ought to have one.
    """

    checkpoint: str
    disks: tuple[str, ...]


class Source(Protocol):
    """Disks that can be read, all of one instant.

    Attributes:
        exports: By target; those that tell what changed have a bitmap.
        refused: Disks whose changes were wanted and cannot be told: target -> why.
        checkpoint: Name of the checkpoint of this instant, if one was made.
        checkpoint_xml: As libvirt has it.
    """

    consistency: str
    instant: datetime
    warnings: list[str]
    exports: dict[str, Export]
    refused: dict[str, str]
    checkpoint: str | None
    checkpoint_xml: str | None

    def __enter__(self) -> Source:
        """Open it."""

    def __exit__(self, *exception: object) -> None:
        """Close it and leave nothing behind, however far it was opened; also once more."""

    def release(self) -> None:
        """End what hurts the guest while it lasts; from any thread."""

    def watches(self) -> Sequence[Callable[[], None]]:
        """Checks to call twice a second; each raises when the backup must stop."""

    def confirm(self) -> None:
        """Raise unless all that was read is of the one instant."""
