# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is under way, and what was."""

from __future__ import annotations

from flask import Blueprint, render_template, request

from vmforge_backup_ui.app import parts, signed_in

# The log's end that is shown.
_LINES = 400


def register(root: Blueprint) -> None:
    """Add the pages."""
    root.add_url_rule("/jobs", "work", signed_in(work))
    root.add_url_rule("/jobs/<job:job>", "job", signed_in(job))


def work() -> str:
    """All jobs that are remembered."""
    name = "_work.html" if request.headers.get("HX-Request") else "work.html"
    return render_template(name, jobs=parts().runner.jobs())


def job(job: str) -> str:
    """One job with its log; the part that changes alone, where that is asked for."""
    found = parts().runner.job(job)
    lines = str(found.pop("log", "")).splitlines()
    name = "_job.html" if request.headers.get("HX-Request") else "job.html"
    return render_template(name, job=found, log="\n".join(lines[-_LINES:]), cut=len(lines) > _LINES)
