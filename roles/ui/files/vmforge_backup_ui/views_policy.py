# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of a machine, and what another one would do."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template, request
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from vmforge_backup_ui.app import now, operator, reader, signed_in, start
from vmforge_backup_ui.errors import RefusedError
from vmforge_backup_ui.timeline import Change, compare, forecast
from vmforge_backup_ui.views_vms import known_machine, plan_of, variables_of

COUNTS = ("keep_daily", "keep_weekly", "keep_monthly", "max_total_gb", "max_age_days")


def register(root: Blueprint) -> None:
    """Add the pages."""
    root.add_url_rule("/vms/<vm:uuid>/policy", "policy", signed_in(policy))
    root.add_url_rule("/vms/<vm:uuid>/policy", "set_policy", operator(set_policy), methods=["POST"])
    root.add_url_rule("/vms/<vm:uuid>/policy/preview", "preview", signed_in(preview), methods=["POST"])


def policy(uuid: str) -> str:
    """What holds, and a form to change it."""
    return _page(uuid, None)


def preview(uuid: str) -> str:
    """What the values of the form would do: that alone for a page that is there, or else the page with it."""
    change = _change(uuid)
    if request.headers.get("HX-Request"):
        return render_template("_preview.html", change=change)
    return _page(uuid, change)


def _page(uuid: str, change: Any) -> str:
    vm, row = known_machine(uuid), reader().policy(uuid)
    before = change.before if isinstance(change, Change) else plan_of(vm, reader().history(uuid))
    values: Any = request.form if change else row or {"offsite": "s3"}
    return render_template("policy.html", vm=vm, row=row, before=before, change=change, values=values, counts=COUNTS)


def set_policy(uuid: str) -> Response:
    """Write the policy, or remove it."""
    vm = known_machine(uuid)
    if request.form.get("remove") == "yes":
        return start("policy", uuid, vm.name, {"remove": True})
    return start(
        "policy", uuid, vm.name, {name: value for name, value in _values(request.form).items() if value is not None}
    )


def _change(uuid: str) -> Any:
    vm, history = known_machine(uuid), reader().history(uuid)
    before = plan_of(vm, history)
    try:
        row = {**(reader().policy(uuid) or {}), **_values(request.form)}
    except RefusedError as error:
        return {"problem": error.message}
    after = forecast(vm, history, row, variables_of(vm), now=now())
    if after.problem:
        return {"problem": after.problem}
    return compare(before, after)


def _values(form: MultiDict[str, str]) -> dict[str, Any]:
    """The columns of the row; what is empty has the default."""
    values: dict[str, Any] = {}
    for name in COUNTS:
        text = form.get(name, "").strip()
        if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise RefusedError(f"{name} must be a whole number, or empty for the default.")
        values[name] = int(text) if text else None
    values["offsite"] = "s3" if form.get("offsite") == "s3" else "none"
    values["delete_local_after_upload"] = form.get("delete_local_after_upload") == "yes"
    if values["delete_local_after_upload"] and values["offsite"] == "none":
        raise RefusedError("Without a copy in S3 the local one cannot go.")
    return values
