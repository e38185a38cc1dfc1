# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who signs in, and what they may do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from threading import Lock
from typing import Any

import argon2
import bcrypt
import pyotp

from vmforge_backup_ui.config import WebConfig
from vmforge_backup_ui.reader import Reader

OPERATOR, READER = "operator", "reader"
# Where the panel counts failures but writes no end of a lock, this many are one.
MAX_FAILED = 10
_ARGON2 = argon2.PasswordHasher()
# Verified where there is no such user, so that this takes as long.
_NOBODY = _ARGON2.hash("nobody")
# What bcrypt looks at; PHP cuts without a word.
_BCRYPT_BYTES = 72
_CODE_SECONDS = 30
_KEY_BYTES = 20


@dataclass(frozen=True)
class Account:
    """Somebody who may sign in.

    Attributes:
        name: The e-mail address, or the name of the local administrator.
        role: ``operator`` or ``reader``.
        mark: Another one as soon as the password or the secret of codes is another.
    """

    name: str
    role: str
    mark: str = ""

    @property
    def may_act(self) -> bool:
        """Whether they may do more than look."""
        return self.role == OPERATOR


def same_password(password: str, hashed: str) -> bool:
    """Compare with a hash of argon2 or bcrypt; False for any other."""
    if hashed.startswith("$argon2"):
        try:
            return _ARGON2.verify(hashed, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    if hashed.startswith(("$2y$", "$2b$", "$2a$")):
        try:
            return bcrypt.checkpw(password.encode()[:_BCRYPT_BYTES], hashed.encode())
        except ValueError:
            return False
    return False


def hash_password(password: str) -> str:
    """A hash for the configuration."""
    return _ARGON2.hash(password)


class Codes:
    """One-time codes; each is taken once."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}
        self._lock = Lock()

    def good(self, name: str, secret: str, code: str, *, now: float) -> bool:
        """Whether this is a code of the last, this or the next half minute that was not used. A bad secret has none."""
        given = code.replace(" ", "")
        step = int(now) // _CODE_SECONDS
        try:
            totp = pyotp.TOTP(_long_enough(secret))
            found = [at for at in (step - 1, step, step + 1) if hmac.compare_digest(totp.at(at * _CODE_SECONDS), given)]
        except (ValueError, TypeError):
            return False
        with self._lock:
            if not found or found[-1] <= self._used.get(name, -1):
                return False
            self._used[name] = found[-1]
            return True


def _long_enough(secret: str) -> str:
    """The same secret with zeros behind it, which HMAC adds anyway: panels make shorter ones than the library takes."""
    plain = secret.replace(" ", "").upper().rstrip("=")
    key = base64.b32decode(plain + "=" * (-len(plain) % 8))
    if not key:
        raise ValueError("no secret")
    return base64.b32encode(key.ljust(_KEY_BYTES, b"\0")).decode()


def refusal(user: Mapping[str, Any], *, now: datetime) -> str | None:
    """Why the panel does not let this user in now; None if it does."""
    until = user.get("locked_until")
    if isinstance(until, datetime) and until.replace(tzinfo=until.tzinfo or timezone.utc) > now:
        return "locked"
    if "locked_until" not in user and int(user.get("failed_logins") or 0) >= MAX_FAILED:
        return "locked"
    return None


def role_of(email: str, panel_role: str | None, operators: Sequence[str], readers: Sequence[str]) -> str | None:
    """What the configuration lets somebody do; None for nothing."""
    names = {email.lower(), *([f"role:{panel_role.lower()}"] if panel_role else [])}
    for role, listed in ((OPERATOR, operators), (READER, readers)):
        if names & {item.lower() for item in listed}:
            return role
    return None


class Accounts:
    """Signs people in. A reader is opened only for somebody of the panel: the local administrator needs no database.

    Args:
        config: Who may do what.
    """

    def __init__(self, config: WebConfig) -> None:
        self._config = config
        self._codes = Codes()

    def sign_in(self, reader: Callable[[], Reader], name: str, password: str, code: str) -> tuple[Account | None, str]:
        """Who that is; or None, and the reason for the audit log alone."""
        found = self._record(reader, name)
        hashed = str(found.get("password_hash") or "") if found else ""
        right = same_password(password, hashed or _NOBODY)
        if found is None or not hashed:
            return None, "unknown"
        if not right:
            return None, "password"
        account, why = self._allowed(found)
        if account is None:
            return None, why
        secret = str(found.get("totp_secret") or "")
        if secret and not self._codes.good(account.name, secret, code, now=time.time()):
            return None, "code"
        return account, ""

    def again(self, reader: Callable[[], Reader], name: str, mark: str) -> Account | None:
        """Somebody who signed in before, if that is still allowed, with what they proved then."""
        found = self._record(reader, name)
        account = self._allowed(found)[0] if found else None
        return account if account and account.mark == mark else None

    def _record(self, reader: Callable[[], Reader], name: str) -> Mapping[str, Any] | None:
        admin = self._config.admin
        if admin and name == admin["name"]:
            return {"email": name, "local": True, **admin}
        return reader().user(name) if "@" in name else None

    def _allowed(self, user: Mapping[str, Any]) -> tuple[Account | None, str]:
        name = str(user["email"])
        if user.get("local"):
            return Account(name, OPERATOR, _mark(user)), ""
        why = refusal(user, now=datetime.now(timezone.utc))
        if why:
            return None, why
        role = role_of(name, str(user.get("role") or ""), self._config.operators, self._config.readers)
        return (Account(name, role, _mark(user)), "") if role else (None, "no right")


def _mark(user: Mapping[str, Any]) -> str:
    proved = [str(user.get(name) or "") for name in ("password_hash", "totp_secret")]
    return hashlib.sha256(json.dumps(proved).encode()).hexdigest()
