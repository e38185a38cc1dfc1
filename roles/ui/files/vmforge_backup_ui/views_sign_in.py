# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signing in and out."""

from __future__ import annotations

import time

from flask import Blueprint, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response

from vmforge_backup_ui.app import Parts, note, parts, reader, signed_in
from vmforge_backup_ui.errors import UiError
from vmforge_backup_ui.throttle import network_of


def register(root: Blueprint) -> None:
    """Add the pages."""
    root.add_url_rule("/sign-in", "sign_in", sign_in, methods=["GET", "POST"])
    root.add_url_rule("/sign-out", "sign_out", signed_in(sign_out), methods=["POST"])


def sign_in() -> str | Response | tuple[str, int]:
    """Ask for a name and a password; one answer to whatever is wrong with them."""
    target = _own(request.values.get("next", ""))
    if request.method == "GET":
        return render_template("sign_in.html", next=target)
    name, shared, now = request.form.get("name", "").strip()[:200], parts(), time.monotonic()
    address = request.remote_addr or ""
    wait = _take(shared, name, address, now)
    if wait:
        shared.audit.write("sign-in", by=name, address=address, refused="too many failures")
        message = f"There were too many failures. Try again in {int(wait // 60) + 1} min."
        return render_template("sign_in.html", next=target, message=message), 429
    return _try(shared, name, address, target, now)


def _take(shared: Parts, name: str, address: str, now: float) -> float:
    wait = shared.tries.take(name.lower(), now=now)
    if wait:
        return wait
    wait = shared.address_tries.take(network_of(address), now=now)
    if wait:
        shared.tries.give_back(name.lower())
    return wait


def _try(shared: Parts, name: str, address: str, target: str, now: float) -> Response | tuple[str, int]:
    password, code = request.form.get("password", "")[:1000], request.form.get("code", "")[:20]
    try:
        who, why = shared.accounts.sign_in(reader, name, password, code)
    except UiError:
        # Nobody could look.
        shared.tries.give_back(name.lower())
        shared.address_tries.give_back(network_of(address))
        raise
    if who is None:
        shared.audit.write("sign-in", by=name, address=address, refused=why)
        message = "The name, the password or the code is wrong, or this account may not sign in here."
        return render_template("sign_in.html", next=target, message=message, name=name), 401
    shared.tries.forget(name.lower())
    shared.address_tries.give_back(network_of(address))
    shared.audit.write("sign-in", by=who.name, address=address, role=who.role)
    # Nothing of before lives on, not even the token of forms.
    shared.sessions.close(str(session.get("token") or ""))
    session.clear()
    session["token"] = shared.sessions.open(who.name, who.mark, now=now)
    return redirect(target or url_for("ui.machines"), code=303)


def sign_out() -> Response:
    """End the session for certain."""
    note("sign-out")
    parts().sessions.close(str(session.get("token") or ""))
    session.clear()
    return redirect(url_for("ui.sign_in"), code=303)


def _own(target: str) -> str:
    """A page of these; anything else is passed over."""
    home = url_for("ui.machines")
    plain = all(letter.isprintable() for letter in target) and "\\" not in target and ".." not in target
    # Two strokes are another host, also where the pages begin at the first.
    return target if plain and target.startswith(home) and not target.startswith("//") else ""
