# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that the panel's PHP pack made, one image each: whose they are, of when, and what may be taken. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError
from ansible_collections.vmforge.backup.plugins.module_utils._model import (
    MAX_CLOCK_AHEAD,
    canonical_uuid,
    format_id,
    format_time,
    is_id,
    parse_time,
)

ADOPTED = "adopted"
_SUFFIX = ".qcow2"
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")


@dataclass(frozen=True)
class PackRow:
    """One row of the pack, as the panel's table has it.

    Attributes:
        row: Its ``id`` in the table.
        uuid: Of the VM, in libvirt's form; None where the table holds something else.
        instant: When it was made, aware.
        sha256: Of the image, lower case; None where the row has none that could be one.
        path: Of the image on some node.
        s3_key: Of the image in the bucket.
    """

    row: int
    uuid: str | None
    name: str
    instant: datetime
    sha256: str | None
    path: str | None
    s3_key: str | None

    @property
    def sources(self) -> tuple[str, ...]:
        """Every place that it names, as a manifest's disk calls it."""
        return tuple(place for place in (self.path, self.s3_key and f"s3:{self.s3_key}") if place)


def is_of_pack(row: Mapping[str, Any], meta: Mapping[str, Any]) -> bool:
    """Whether a ready row is one of the pack's: it names an image, and no node of ours."""
    places = (row.get("path") or "", row.get("s3_key") or "")
    return row.get("status") == "ready" and not meta.get("node") and any(place.endswith(_SUFFIX) for place in places)


def read_row(value: Mapping[str, Any]) -> PackRow:
    """A row as ``vmforge_backup_adopt_info`` returns it.

    Raises:
        InputError: Its instant is none.
    """
    try:
        instant = parse_time(value["instant"])
    except ValueError as error:
        raise InputError(f"rows: row {value['row']} has the instant {value['instant']!r}: {error}.") from error
    checksum = (value.get("checksum_sha256") or "").strip()
    uuid = canonical_uuid((value.get("vm_uuid") or "").strip())
    return PackRow(
        row=value["row"],
        uuid=uuid,
        name=value.get("vm_name") or uuid or str(value.get("vm_uuid")),
        instant=instant,
        sha256=checksum.lower() if _SHA256.match(checksum) else None,
        path=value.get("path") or None,
        s3_key=value.get("s3_key") or None,
    )


def utc_instants(times: Sequence[datetime], zone: ZoneInfo) -> list[tuple[datetime, bool]]:
    """What a wall clock's times are in UTC.

    An hour that the clock went through twice cannot be told from the times alone, but the rows were written one after
    the other: one that would lie before the row before it is of the second time round.

    Args:
        times: Without a zone, in the order in which they were written.
        zone: The clock's.

    Returns:
        For each the aware time, and whether it is one of two.
    """
    found: list[tuple[datetime, bool]] = []
    for wall in times:
        first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc) for fold in (0, 1))
        # In the hour that was left out in spring the two come in the other order: there the first reading is meant.
        ambiguous = first < second
        behind = ambiguous and bool(found) and first < found[-1][0] <= second
        found.append((second if behind else first, ambiguous))
    return found


def refusal(row: PackRow, *, now: datetime) -> str | None:
    """Why a row cannot be adopted, whatever lies there; None if nothing speaks against it."""
    if row.uuid is None:
        return "its vm_uuid is no UUID"
    if row.sha256 is None:
        return "it has no checksum, so nothing could prove that the image is what was backed up"
    if row.instant > now + MAX_CLOCK_AHEAD:
        return f"it was made at {format_time(row.instant)}, which is in the future: check panel_timezone and the clocks"
    if row.path is not None and (not row.path.startswith("/") or "\0" in row.path):
        return f"its path {row.path!r} is not absolute"
    if any(is_id(word.split(".", 1)[0]) for place in row.sources for word in place.split("/")[:-1]):
        return "it names an image within a backup of this collection"
    return None


def choose_id(instant: datetime, known: Iterable[str], *, now: datetime) -> str:
    """The id of an adopted backup: its second, or the next one that is free.

    Raises:
        InputError: All seconds up to now are taken.
    """
    taken = set(known)
    chosen = instant.astimezone(timezone.utc).replace(microsecond=0)
    while format_id(chosen) in taken:
        chosen += timedelta(seconds=1)
    if chosen > now and chosen > instant:
        raise InputError(f"There is no free second between {format_time(instant)} and now.", code="clock")
    return format_id(chosen)
