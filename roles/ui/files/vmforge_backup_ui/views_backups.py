# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be done with a machine and with one backup. Each form says what will happen; the runner does it."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Blueprint, render_template, request
from werkzeug.wrappers import Response

from vmforge_backup_ui.app import operator, reader, start
from vmforge_backup_ui.entries import Backup, Machine, dependants
from vmforge_backup_ui.errors import MissingError, RefusedError
from vmforge_backup_ui.views_vms import known_machine

_ONE = "/vms/<vm:uuid>/backups/<backup:backup_id>"


def register(root: Blueprint) -> None:
    """Add the pages."""
    root.add_url_rule("/vms/<vm:uuid>/create", "create", operator(create), methods=["POST"])
    root.add_url_rule("/vms/<vm:uuid>/verify", "verify", operator(verify), methods=["POST"])
    root.add_url_rule("/refresh", "refresh", operator(refresh), methods=["POST"])
    root.add_url_rule("/status", "status", operator(status), methods=["POST"])
    root.add_url_rule("/other", "other", operator(other), methods=["POST"])
    for name, view in (("delete", delete), ("hold", hold), ("restore", restore)):
        root.add_url_rule(f"{_ONE}/{name}", name, operator(view), methods=["GET", "POST"])
    root.add_url_rule(f"{_ONE}/free", "free", operator(free), methods=["POST"])
    root.add_url_rule(f"{_ONE}/verify", "verify_one", operator(verify_one), methods=["POST"])


def create(uuid: str) -> Response:
    """Make a backup now."""
    return start("backup", uuid, known_machine(uuid).name, {})


def other() -> Response:
    """Make a backup of a machine that is not on the list, which only knows those that have one."""
    name = request.form.get("name", "").strip()
    return start("backup", name, name, {})


def refresh() -> Response:
    """Ask all nodes what they have."""
    return start("list", "", "", {})


def status() -> Response:
    """Ask all nodes what they are doing, also what was not started here."""
    return start("status", "", "", {})


def verify(uuid: str) -> Response:
    """Read all copies of all backups of a machine."""
    return start("verify", uuid, known_machine(uuid).name, {})


def verify_one(uuid: str, backup_id: str) -> Response:
    """Read all copies of one backup."""
    vm, _backup, _all = _find(uuid, backup_id)
    return start("verify", uuid, vm.name, {"id": backup_id})


def delete(uuid: str, backup_id: str) -> str | Response:
    """Delete one backup, and what builds on it if that was said."""
    vm, backup, backups = _find(uuid, backup_id)
    children = dependants(backups, backup_id)
    held = [item for item in (backup, *children) if item.hold]
    ids = [*(str(child.id) for child in children), backup_id]
    if request.method == "GET":
        ready = [item for item in backups if item.status == "ready"]
        rest = [item for item in ready if item.id not in {backup_id, *(child.id for child in children)}]
        return render_template("delete.html", vm=vm, backup=backup, children=children, held=held, rest=rest, ids=ids)
    if children and request.form.get("children") != "yes":
        raise RefusedError(
            f"{len(children)} backups build on {backup_id} and could not be restored without it. Delete them as well, "
            "or none."
        )
    if request.form.get("ids") != ",".join(ids):
        raise RefusedError("Since you were asked, what builds on this backup has changed. Go back, and look again.")
    return start("delete", uuid, vm.name, {"ids": ids})


def hold(uuid: str, backup_id: str) -> str | Response:
    """Protect a backup from deletion."""
    vm, backup, _all = _find(uuid, backup_id)
    if request.method == "GET":
        return render_template("hold.html", vm=vm, backup=backup)
    values = {"id": backup_id, "reason": request.form.get("reason", "")}
    until = request.form.get("until", "").strip()
    if until:
        # The day that was named is still protected.
        values["until"] = f"{until}T23:59:59Z"
    return start("hold", uuid, vm.name, values)


def free(uuid: str, backup_id: str) -> Response:
    """End a hold."""
    vm, _backup, _all = _find(uuid, backup_id)
    return start("free", uuid, vm.name, {"id": backup_id})


def restore(uuid: str, backup_id: str) -> str | Response:
    """Make a new machine of a backup, or put the machine itself back."""
    vm, backup, _all = _find(uuid, backup_id)
    if request.method == "GET":
        return render_template("restore.html", vm=vm, backup=backup)
    form = request.form
    values = {"id": backup_id, "start": form.get("start") == "yes"}
    if form.get("mode") == "new":
        to = form.get("to", "").strip()
        if not to:
            raise RefusedError("Give the new machine a name.")
        return start("restore", uuid, vm.name, {**values, "to": to, "disconnect": form.get("disconnect") == "yes"})
    if form.get("mode") != "place":
        raise RefusedError("Say whether to make a new machine or to restore in place.")
    if form.get("confirm", "").strip() != vm.name:
        raise RefusedError("To restore in place, write the name of the machine: what is on its disks now is replaced.")
    return start("restore", uuid, vm.name, {**values, "force": form.get("force") == "yes"})


def _find(uuid: str, backup_id: str) -> tuple[Machine, Backup, Sequence[Backup]]:
    vm, backups = known_machine(uuid), reader().history(uuid).backups
    found = [backup for backup in backups if backup.id == backup_id and backup.status != "failed"]
    if not found:
        raise MissingError(f"There is no backup {backup_id} of {vm.name} any more.")
    return vm, found[0], backups
