# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords as MariaDB and MySQL keep them, to tell whether an account has the wanted one. Pure."""

from __future__ import annotations

import re
from hashlib import sha1, sha256

NATIVE = "mysql_native_password"
CACHING_SHA2 = "caching_sha2_password"

# $A$, thousands of rounds in hexadecimal digits, $, 20 bytes of salt, 43 characters of the hash.
_SHA2 = re.compile(r"\$A\$([0-9A-Fa-f]{3})\$(.{20})(.{43})", re.DOTALL)
_DIGITS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def is_password(password: str, plugin: str, stored: str) -> bool | None:
    """Say whether this is the password of an account; None where it cannot be told.

    Args:
        plugin: How the account logs in.
        stored: Its ``authentication_string``.
    """
    if plugin in ("", NATIVE):
        return stored.upper() == native_hash(password)
    found = _SHA2.fullmatch(stored) if plugin == CACHING_SHA2 else None
    if found is None:
        return None
    return found[3] == sha256_crypt(password.encode(), found[2].encode(), int(found[1], 16) * 1000)


def native_hash(password: str) -> str:
    """The hash that ``mysql_native_password`` keeps."""
    return "*" + sha1(sha1(password.encode()).digest()).hexdigest().upper()


def sha256_crypt(password: bytes, salt: bytes, rounds: int) -> str:
    """The hash of https://www.akkadia.org/drepper/SHA-crypt.txt, with a salt of any length, as MySQL has it."""
    other = sha256(password + salt + password).digest()
    first = password + salt + _repeated(other, len(password))
    for bit in range(len(password).bit_length()):
        first += other if len(password) >> bit & 1 else password
    last = sha256(first).digest()
    word = _repeated(sha256(password * len(password)).digest(), len(password))
    spice = _repeated(sha256(salt * (16 + last[0])).digest(), len(salt))
    for number in range(rounds):
        odd = number & 1
        text = (word if odd else last) + (spice if number % 3 else b"") + (word if number % 7 else b"")
        last = sha256(text + (last if odd else word)).digest()
    return _written(last)


def _repeated(text: bytes, length: int) -> bytes:
    return (text * (length // len(text) + 1))[:length]


def _written(digest: bytes) -> str:
    """Six bits a character, of every tenth byte."""
    groups = [(number, (number + 10) % 30, (number + 20) % 30) for number in range(10)]
    text = ""
    for start, group in enumerate(groups):
        high, middle, low = (group[(place + start * 2) % 3] for place in range(3))
        text += _characters(digest[high] << 16 | digest[middle] << 8 | digest[low], 4)
    return text + _characters(digest[31] << 8 | digest[30], 3)


def _characters(value: int, count: int) -> str:
    return "".join(_DIGITS[value >> 6 * place & 63] for place in range(count))
