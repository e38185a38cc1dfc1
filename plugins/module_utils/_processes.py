# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process per piece of work, so many at a time, each answering with one JSON value through a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Callable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import describe_error
from ansible_collections.vmforge.backup.plugins.module_utils._signals import SIGNALS, raise_on_signals

_BLOCK = 1 << 16


def run_each(works: Sequence[Callable[[], Any]], *, parallel: int, died: Callable[[int, str], Any]) -> list[Any]:
    """Run each work in a process of its own.

    SIGTERM, SIGINT and SIGHUP are passed on: in each process they raise ``Interrupted``, once. All processes are
    waited for in any case.

    Args:
        works: Each returns a value that JSON can hold, and deals with its own errors.
        parallel: How many at a time.
        died: Makes the value of a work whose process ended without an answer, from its index and what is known.

    Returns:
        The values, in the order of ``works``.
    """
    results: dict[int, Any] = {}
    running: dict[int, tuple[int, int, bytearray]] = {}
    waiting = list(range(len(works)))
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        waiting.clear()
        for pid, _index, _data in running.values():
            os.kill(pid, number)

    previous = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        with selectors.DefaultSelector() as selector:
            while waiting or running:
                while waiting and len(running) < parallel:
                    with _signals_held_back():
                        if not waiting:
                            break
                        index = waiting.pop(0)
                        pid, pipe = _start(works[index], running)
                        running[pipe] = (pid, index, bytearray())
                        # Another thread may have taken a signal before the handler knew of this process.
                        for number in received:
                            os.kill(pid, number)
                    selector.register(pipe, selectors.EVENT_READ)
                for key, _events in selector.select(1.0):
                    _receive(key.fd, running, results, selector, died)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for index in range(len(works)):
        results.setdefault(index, died(index, "it was not begun, for the run was stopped"))
    return [results[index] for index in range(len(works))]


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """No signal gets lost between a fork, the handlers of the child, and the parent's knowing of it."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _start(work: Callable[[], Any], running: dict[int, tuple[int, int, bytearray]]) -> tuple[int, int]:
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status, answer = 1, b""
    try:
        for other in (*running, reader):
            os.close(other)
        raise_on_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        answer = json.dumps(work()).encode()
        status = 0
    finally:
        try:
            # What a work did not deal with itself is a fault of ours; the parent says so.
            with os.fdopen(writer, "wb") as stream:
                stream.write(answer if status == 0 else describe_error(sys.exc_info()[1]).encode())
        finally:
            # Whatever happens, such as a parent that is gone: never go on as the parent.
            os._exit(status)


def _receive(
    pipe: int,
    running: dict[int, tuple[int, int, bytearray]],
    results: dict[int, Any],
    selector: selectors.BaseSelector,
    died: Callable[[int, str], Any],
) -> None:
    pid, index, data = running[pipe]
    block = os.read(pipe, _BLOCK)
    if block:
        data.extend(block)
        return
    selector.unregister(pipe)
    os.close(pipe)
    del running[pipe]
    _pid, status = os.waitpid(pid, 0)
    if status == 0 and data:
        results[index] = json.loads(data)
    elif os.WIFSIGNALED(status):
        results[index] = died(index, f"its process was killed by {signal.Signals(os.WTERMSIG(status)).name}")
    else:
        results[index] = died(index, f"its process ended with {data.decode() or 'no answer'}")
