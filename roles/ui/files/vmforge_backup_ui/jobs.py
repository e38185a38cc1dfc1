# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of jobs: a directory for each, with ``job.json`` and what its playbook printed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id, format_time, utc_now
from vmforge_backup_ui.errors import MissingError

LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}\Z")
# The end of a log that a page shows.
_TAIL = 200_000


class Jobs:
    """All jobs that are remembered.

    Args:
        directory: Where they lie.
        keep: How many of those that are over.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory, self._keep = directory, keep
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def begin(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Make one that is running."""
        job = f"{format_id(utc_now())}-{secrets.token_hex(4)}"
        (self._directory / job).mkdir(mode=0o700)
        return self.write({**record, "job": job, "state": "running", "began": format_time(utc_now()), "ended": None})

    def write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Replace its record."""
        place = self.place(str(record["job"])) / "job.json"
        new = place.with_name(".job.json.new")
        new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(new, place)
        return dict(record)

    def place(self, job: str) -> Path:
        """Its directory.

        Raises:
            MissingError: There is no such job, or that is no name of one.
        """
        place = self._directory / job
        if not _NAME.match(job) or not place.is_dir():
            raise MissingError("There is no such job any more.", code="missing")
        return place

    def read(self, job: str) -> dict[str, Any]:
        """Its record.

        Raises:
            MissingError: There is none.
        """
        try:
            record: dict[str, Any] = json.loads((self.place(job) / "job.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MissingError("There is no such job any more.", code="missing") from error
        except (OSError, ValueError) as error:
            raise MissingError("The record of this job cannot be read.", code="missing") from error
        return record

    def all(self) -> Iterator[dict[str, Any]]:
        """All records, newest first."""
        for job in self._names():
            # One may be begun, or go, at this moment; mark_lost() tells of others.
            with contextlib.suppress(MissingError):
                yield self.read(job)

    def log(self, job: str) -> str:
        """What its playbook has printed; of a long one, the end."""
        path = self.place(job) / "artifacts" / job / "stdout"
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                return file.read(_TAIL).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def mark_lost(self) -> None:
        """After a start: nobody watches any more what was running, and what has no record is a remnant."""
        for job in self._names():
            try:
                self.read(job)
            except MissingError as error:
                LOG.warning("job %s is removed: %s", job, error.message)
                remove(self._directory / job)
        for record in self.all():
            if record["state"] == "running":
                message = (
                    "The program that watched it was stopped. What was under way on a node goes on there, or is "
                    "cleared away by the next run."
                )
                self.write({**record, "state": "lost", "ended": format_time(utc_now()), "message": message})

    def forget_old(self) -> None:
        """Remove the oldest of those that are over."""
        over = [record["job"] for record in self.all() if record["state"] != "running"]
        for job in over[self._keep :]:
            remove(self._directory / job)

    def _names(self) -> list[str]:
        return sorted((path.name for path in self._directory.iterdir() if _NAME.match(path.name)), reverse=True)


def remove(place: Path) -> None:
    """Remove a directory, if it is there. What cannot be removed is told in the log, and stays."""
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        return
    except OSError as error:
        LOG.warning("%s cannot be removed: %s", place, error)
