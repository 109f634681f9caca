"""Threads stay ordinary, whatever an encoder asks of the system while it starts.

Run as root, as in most containers, SVT-AV1 makes its threads *and the one that opens it* real-time ones (SCHED_FIFO,
the highest priority). They then go before everything else on the machine, the kernel's own threads among it: with as
many of them as cores nothing else runs, and other programs stand still for minutes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ordinary_scheduling"]

_TASKS = Path("/proc/self/task")


@contextlib.contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Takes real-time scheduling back from every thread of this process that got it meanwhile; Linux only."""
    before = _urgent()
    try:
        yield
    finally:
        for thread in _urgent() - before:
            with contextlib.suppress(OSError):  # it has ended, or the system does not let us
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _urgent() -> set[int]:
    """Ids of this process's threads that are scheduled in real time."""
    if not hasattr(os, "sched_getscheduler") or not _TASKS.is_dir():
        return set()
    urgent = set()
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(int(task.name)) in (os.SCHED_FIFO, os.SCHED_RR):
                urgent.add(int(task.name))
    return urgent
