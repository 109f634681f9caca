"""The joint between live stages: it holds the newest items, never makes the producer wait, and keeps their order."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["LatestSlot"]

T = TypeVar("T")


class LatestSlot(Generic[T]):
    """A place for the newest ``size`` items; what does not fit pushes the oldest out.

    One producer, one consumer. Items come out in the order in which they went in; some never come out.

    Args:
        size: items held at most. 1 keeps latency lowest; a recorder takes a few to bridge a slow disk.

    Attributes:
        num_dropped: items that were pushed out.
    """

    def __init__(self, size: int = 1) -> None:
        if size < 1:
            raise ValueError(f"a slot holds at least one item, got size {size}")
        self._items: deque[T] = deque()
        self._size = size
        self._condition = threading.Condition()
        self._is_closed = False
        self.num_dropped = 0

    @property
    def is_closed(self) -> bool:
        """No item goes in any more."""
        return self._is_closed

    def put(self, item: T) -> None:
        """Offers an item, at once; after :meth:`close` it is ignored."""
        with self._condition:
            if self._is_closed:
                return
            if len(self._items) == self._size:
                self._items.popleft()
                self.num_dropped += 1
            self._items.append(item)
            self._condition.notify()

    def get(self, timeout_s: float | None = None) -> T | None:
        """The oldest item held; None after ``timeout_s`` seconds without one, or where the slot is closed and empty."""
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._is_closed, timeout_s)
            return self._items.popleft() if self._items else None

    def close(self) -> None:
        """Takes no more items and wakes the consumer, which still gets those that are held."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
