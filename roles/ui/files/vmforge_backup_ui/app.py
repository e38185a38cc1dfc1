# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: what all its pages share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, abort, current_app, g, redirect, render_template, request, session, url_for
from flask import Response as FlaskResponse
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter
from werkzeug.wrappers import Response

from ansible_collections.vmforge.backup.plugins.module_utils._model import utc_now
from vmforge_backup_ui import shown
from vmforge_backup_ui.audit import Audit
from vmforge_backup_ui.auth import Account, Accounts
from vmforge_backup_ui.config import WebConfig
from vmforge_backup_ui.errors import UiError
from vmforge_backup_ui.listing import open_list
from vmforge_backup_ui.reader import Reader, open_database
from vmforge_backup_ui.sessions import Sessions
from vmforge_backup_ui.throttle import Throttle
from vmforge_backup_ui.wire import Runner

View = Callable[..., Any]
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_FORM_BYTES = 64 * 1024


@dataclass
class Parts:
    """What the pages work with; one of each for all requests.

    Attributes:
        tries: Failures by account; ``address_tries`` by the address that they come from.
    """

    config: WebConfig
    runner: Runner
    audit: Audit
    accounts: Accounts
    sessions: Sessions
    tries: Throttle
    address_tries: Throttle


class _Uuid(BaseConverter):
    regex = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    part_isolating = True


class _BackupId(BaseConverter):
    regex = "[0-9]{8}T[0-9]{6}Z"
    part_isolating = True


class _JobId(BaseConverter):
    regex = "[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}"
    part_isolating = True


def create_app(config: WebConfig) -> Flask:
    """Make the application."""
    from vmforge_backup_ui import views_backups, views_policy, views_sign_in, views_vms, views_work

    app = Flask("vmforge_backup_ui", static_folder=None, root_path=str(Path(__file__).parent))
    app.config.update(
        # With the sessions, it is new at every start.
        SECRET_KEY=secrets.token_bytes(32),
        SESSION_COOKIE_NAME="__Host-vmforge-backup" if config.secure else "vmforge-backup",
        SESSION_COOKIE_PATH="/",
        SESSION_COOKIE_SECURE=config.secure,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        MAX_CONTENT_LENGTH=_FORM_BYTES,
        WTF_CSRF_TIME_LIMIT=None,
        TEMPLATES_AUTO_RELOAD=False,
    )
    app.extensions["vmforge"] = Parts(
        config=config,
        runner=Runner(config.runner),
        audit=Audit(Path(config.audit_log)),
        accounts=Accounts(config),
        sessions=Sessions(),
        tries=Throttle(10, 900),
        address_tries=Throttle(20, 900),
    )
    app.url_map.converters.update(vm=_Uuid, backup=_BackupId, job=_JobId)
    app.jinja_env.filters.update(size=shown.size, moment=shown.moment, age=lambda value: shown.age(value, now()))
    CSRFProtect(app)
    root = Blueprint(
        "ui", __name__, url_prefix=config.url.rstrip("/"), static_folder="static", static_url_path="/static"
    )
    for views in (views_sign_in, views_vms, views_backups, views_policy, views_work):
        views.register(root)
    app.register_blueprint(root)
    app.after_request(_guard)
    app.teardown_request(_close)
    app.register_error_handler(UiError, _tell)
    app.register_error_handler(CSRFError, _tell_forged)
    app.register_error_handler(HTTPException, _tell_http)
    app.context_processor(_common)
    return app


def parts() -> Parts:
    """Of the running application."""
    found: Parts = current_app.extensions["vmforge"]
    return found


def now() -> datetime:
    """One moment for all of a request."""
    if "now" not in g:
        g.now = utc_now()
    moment: datetime = g.now
    return moment


def reader() -> Reader:
    """Where this request reads; opened when it is first needed."""
    if "reader" not in g:
        config = parts().config
        g.stack = ExitStack()
        if config.database:
            g.reader = g.stack.enter_context(open_database(config.database))
        else:
            g.reader = open_list(Path(config.list))
    found: Reader = g.reader
    return found


def account() -> Account | None:
    """Who asks; None for nobody. Looked up anew for each request, so that what the panel takes away is gone at once."""
    if "account" not in g:
        # What a page fetches by itself is no click.
        used = request.method != "GET" or "HX-Request" not in request.headers
        found = parts().sessions.find(str(session.get("token") or ""), now=time.monotonic(), used=used)
        g.account = parts().accounts.again(reader, *found) if found else None
    who: Account | None = g.account
    return who


def signed_in(view: View) -> View:
    """A page for those who signed in; others are sent to do so."""
    return _needs(view, act=False)


def operator(view: View) -> View:
    """A page for operators alone."""
    return _needs(view, act=True)


def note(event: str, **values: Any) -> None:
    """Write something down in the audit log."""
    who = account()
    parts().audit.write(event, by=who.name if who else "", address=request.remote_addr or "", **values)


def start(action: str, vm: str, name: str, values: dict[str, Any]) -> Response:
    """Write an action down, start it, and go to the page of its job. What cannot be written down is not started."""
    who = account()
    assert who is not None
    note(action, vm=vm, values=values)
    try:
        job = parts().runner.start(action, vm, who.name, name, values)
    except UiError as error:
        note(f"{action} refused", vm=vm, why=error.message)
        raise
    note(f"{action} started", vm=vm, job=job)
    return redirect(url_for("ui.job", job=job), code=303)


def _needs(view: View, *, act: bool) -> View:
    @wraps(view)
    def checked(*args: Any, **kwargs: Any) -> Any:
        who = account()
        if who is None:
            if request.headers.get("HX-Request"):
                # A part of a page cannot ask for a password.
                return "", 401, {"HX-Redirect": url_for("ui.sign_in")}
            if request.method != "GET":
                abort(401)
            return redirect(url_for("ui.sign_in", next=request.full_path.rstrip("?")), code=303)
        if act and not who.may_act:
            note("refused", path=request.path)
            abort(403)
        return view(*args, **kwargs)

    return checked


def _common() -> dict[str, Any]:
    return {"who": g.get("account"), "now": now(), "database": bool(parts().config.database)}


def _guard(response: FlaskResponse) -> FlaskResponse:
    response.headers.update(_HEADERS)
    if request.endpoint != "ui.static":
        response.headers["Cache-Control"] = "no-store"
    return response


def _close(_error: BaseException | None) -> None:
    stack = g.pop("stack", None)
    if stack is not None:
        stack.close()


def _tell(error: UiError) -> tuple[str, int]:
    return render_template("error.html", message=error.message, status=error.status), error.status


def _tell_forged(_error: CSRFError) -> tuple[str, int]:
    message = (
        "This form is too old, or it was not one of these pages that sent it. Nothing was done. Go back, load the page "
        "anew and try again."
    )
    return render_template("error.html", message=message, status=400), 400


def _tell_http(error: HTTPException) -> tuple[str, int]:
    status = error.code or 500
    return render_template("error.html", message=_MESSAGES.get(status, error.description), status=status), status


_MESSAGES = {
    401: "You are signed out. Sign in again.",
    403: "You may look, but not change anything. Ask an operator.",
    404: "There is nothing here.",
    405: "That is not what this page is for.",
    413: "That is too much.",
    500: "Something went wrong that nobody expected. The log of the service vmforge-backup-ui has it.",
}
