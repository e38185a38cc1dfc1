# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking again over a connection that was lost."""

from __future__ import annotations

import pytest

from ansible_collections.vmforge.backup.plugins.plugin_utils._patience import patiently


class LostError(Exception):
    pass


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_it_asks_again_and_then_gives_up(failures: int) -> None:
    done: list[object] = []

    def ask() -> str:
        done.append("ask")
        if done.count("ask") <= failures:
            raise LostError
        return "answer"

    def run() -> str:
        return patiently(ask, LostError, lambda: done.append("reconnect"), pauses=[1, 2], sleep=done.append)

    if failures > 2:
        with pytest.raises(LostError):
            run()
    else:
        assert run() == "answer"
    assert done == ["ask", 1, "reconnect", "ask", 2, "reconnect", "ask"][: 1 + 3 * min(failures, 2)]


def test_other_errors_are_none_of_its_business() -> None:
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 // 0, LostError, lambda: None, sleep=lambda _seconds: None)
