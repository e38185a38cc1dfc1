# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checksum that a server keeps with an object says that it is another, or nothing."""

from __future__ import annotations

import base64
import hashlib

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._s3_checksum import contradicts

ONE, TWO = hashlib.sha256(b"one"), hashlib.sha256(b"two")
PARTS = [ONE.hexdigest(), TWO.hexdigest()]
BOTH = hashlib.sha256(ONE.digest() + TWO.digest()).digest()


def stored(digest: bytes, count: str = "") -> str:
    return base64.b64encode(digest).decode() + count


@pytest.mark.parametrize(
    ("told", "parts", "wrong"),
    [
        (stored(BOTH, "-2"), PARTS, False),
        (stored(TWO.digest(), "-2"), PARTS, True),
        # In other parts: of no use.
        (stored(TWO.digest(), "-3"), PARTS, False),
        (stored(ONE.digest()), PARTS[:1], False),
        (stored(TWO.digest()), PARTS[:1], True),
        (stored(hashlib.sha256(ONE.digest()).digest(), "-1"), PARTS[:1], False),
        # Of the whole object, whose own SHA-256 nobody knows.
        (stored(ONE.digest()), PARTS, False),
    ],
)
def test_what_it_tells(told: str, parts: list[str], wrong: bool) -> None:
    assert contradicts(told, parts) is wrong
