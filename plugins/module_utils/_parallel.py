# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbered pieces of work in some threads."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Callable


def in_parallel(
    count: int,
    parallel: int,
    size: int,
    work: Callable[[int, bytearray], None],
    on_error: Callable[[], None] | None = None,
) -> None:
    """Call ``work(number, buffer)`` for 1 to ``count`` in threads; the first error, also one here, ends all of them.

    Args:
        count: How many calls.
        parallel: How many at once at most.
        size: Bytes of the buffer that each thread has.
        work: What to call.
        on_error: Called before waiting for the threads to end, to make them end soon.
    """
    numbers = iter(range(1, count + 1))
    lock = threading.Lock()
    failed = threading.Event()

    def worker() -> None:
        buffer = bytearray(size)
        while not failed.is_set():
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            work(number, buffer)

    threads = max(1, min(parallel, count))
    with ThreadPoolExecutor(max_workers=threads) as pool:
        running: list[Future[None]] = [pool.submit(worker) for _thread in range(threads)]
        try:
            for future in as_completed(running):
                future.result()
        except BaseException:
            failed.set()
            if on_error is not None:
                on_error()
            raise
