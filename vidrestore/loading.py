"""Imports without the garbage collector: ``without_collecting``."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collecting"]


@contextmanager
def without_collecting(*, keeps: bool = False) -> Iterator[None]:
    """Holds the collector still while modules are imported, and lets it go on as it was.

    An import makes hundreds of thousands of objects that stay, and the collector looks through all of them again and
    again on the way: half a second out of three for torch, numba and what stands on them.

    Args:
        keeps: what is there at the end is never looked through again (:func:`gc.freeze`), which spares later
            collections the same walk; for a process of our own, not for a program that only uses us.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if keeps:
            gc.freeze()
        if was_on:
            gc.enable()
