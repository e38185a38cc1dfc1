# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines, and what backups one of them has."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, render_template, request

from vmforge_backup_ui.app import now, parts, reader, signed_in
from vmforge_backup_ui.chart import chart, first_day
from vmforge_backup_ui.entries import Machine
from vmforge_backup_ui.errors import AwayError, MissingError
from vmforge_backup_ui.history import History
from vmforge_backup_ui.timeline import Forecast, forecast, marks

_PAGE = 50
_SORTS = ("name", "age", "size")
# Older than a night and a bit of delay.
LATE = timedelta(hours=26)


def register(root: Blueprint) -> None:
    """Add the pages."""
    root.add_url_rule("/", "machines", signed_in(machines))
    root.add_url_rule("/stored", "stored", signed_in(stored))
    root.add_url_rule("/vms/<vm:uuid>", "machine", signed_in(machine))


def machines() -> str:
    """All machines, by pages; the table alone where a search asks for it."""
    search, sort = request.args.get("q", "")[:100], request.args.get("sort", "name")
    sort = sort if sort in _SORTS else "name"
    number = page_number()
    page = reader().page(search, sort, (number - 1) * _PAGE, _PAGE)
    values = {"page": page, "search": search, "sort": sort, "number": number, "pages": -(-page.matching // _PAGE)}
    late = now() - LATE
    if request.headers.get("HX-Request"):
        return render_template("_machines.html", late=late, **values)
    return render_template("machines.html", late=late, running=running(), **values)


def stored() -> str:
    """How much was stored over time. The list fetches it when it is shown, for years of rows may take a while."""
    today = now().date()
    name = "_chart.html" if request.headers.get("HX-Request") else "stored.html"
    return render_template(name, chart=chart(reader().growth(first_day(today)), today=today))


def machine(uuid: str) -> str:
    """One machine: its backups, what retention will do with them, and what is under way."""
    found, history = known_machine(uuid), reader().history(uuid)
    plan, backups = plan_of(found, history), history.backups
    number = page_number()
    shown = backups[(number - 1) * _PAGE : number * _PAGE]
    return render_template(
        "machine.html",
        vm=found,
        backups=shown,
        total=len(backups),
        ready=any(backup.status == "ready" for backup in backups),
        depths=history.depths,
        plan=plan,
        marks=marks(backups, plan, now=now()),
        jobs=running(uuid),
        number=number,
        pages=-(-len(backups) // _PAGE),
    )


def known_machine(uuid: str) -> Machine:
    """A machine that the panel or a backup knows.

    Raises:
        MissingError: There is none of that UUID.
    """
    found = reader().machine(uuid)
    if found is None:
        raise MissingError("There is no such machine, and no backup of one.")
    return found


def plan_of(vm: Machine, history: History) -> Forecast:
    """What the next prune does with its backups."""
    return forecast(vm, history, reader().policy(vm.uuid), variables_of(vm), now=now())


def variables_of(vm: Machine) -> tuple[dict[str, object] | None, dict[str, object]]:
    """The variables that hold where the machine has no policy of its own."""
    config = parts().config
    own = config.policies.get(vm.uuid) or config.policies.get(vm.name)
    return (dict(own) if own else None), dict(config.policy)


def running(vm: str = "") -> list[dict[str, object]] | None:
    """Jobs that are under way; None where the runner does not answer."""
    try:
        return [job for job in parts().runner.jobs(vm) if job["state"] == "running"]
    except AwayError:
        return None


def page_number() -> int:
    """Which page of a long table, from 1."""
    text = request.args.get("page", "1")
    return max(1, int(text)) if text.isdecimal() and len(text) < 7 else 1
