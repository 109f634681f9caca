"""An iterator that runs ahead in a thread of its own, with a bounded queue: the joint between two stages."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from vidrestore.types import StageTime

__all__ = ["Ahead"]

T = TypeVar("T")

_POLL_S = 0.1  # how soon a blocked producer notices that nobody wants its items any more


class _End:
    """Closes a queue, with the exception that ended the source, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Runs a generator in a thread, at most ``size`` items ahead of the one who iterates.

    An exception of the generator is raised, unchanged, where the items are taken. ``close`` stops the thread, closes
    the generator (its ``finally`` blocks run in the thread) and waits for both. Chained, closing the last one closes
    all before it.

    Args:
        source: the generator.
        size: most items that wait, >= 1.
        name: of the stage, for the thread and the timings.
        check: called, in the thread of the one who iterates, before every item and every tenth of a second of waiting;
            what it raises comes out there. A signal's handler that only sets a flag is asked in this way: an exception
            out of the handler itself could strike between taking a queue's lock and giving it back.
    """

    def __init__(
        self, source: Generator[T, None, None], size: int, name: str, check: Callable[[], None] | None = None
    ) -> None:
        self.name = name
        self._check = check
        self._source = source
        self._queue: queue.Queue[T | _End] = queue.Queue(size)
        self._stopped = threading.Event()
        self._ended = False
        self._run_s = self._blocked_s = self.waited_s = 0.0
        self._blocked_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"vidrestore-{name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        begin = time.perf_counter()
        item = self._get()
        self.waited_s += time.perf_counter() - begin
        if isinstance(item, _End):
            self._ended = True
            self._thread.join()
            if item.error is not None:
                raise item.error
            raise StopIteration
        return item

    def _get(self) -> T | _End:
        if self._check is None:
            return self._queue.get()
        while True:
            self._check()
            try:
                return self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def close(self) -> None:
        """Stops the thread and waits until the generator has cleaned up. May be called twice."""
        self._ended = True
        self._stopped.set()
        while self._thread.is_alive():
            try:  # room for a producer that waits in put
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(_POLL_S)

    def stage_time(self, upstream: Ahead[object] | None = None) -> StageTime:
        """Busy, starved and blocked seconds; the time spent waiting for ``upstream`` counts as starved."""
        starved = upstream.waited_s if upstream is not None else 0.0
        since = self._blocked_since  # of a wait that goes on
        waits_s = time.perf_counter() - since if since is not None else 0.0
        return StageTime(max(self._run_s - starved, 0.0), starved, self._blocked_s + waits_s)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while not self._stopped.is_set():
                begin = time.perf_counter()
                try:
                    item = next(self._source)
                except StopIteration:
                    break
                finally:
                    self._run_s += time.perf_counter() - begin
                self._put(item)
        except BaseException as raised:  # noqa: BLE001, it is raised again where the items are taken
            error = raised
        finally:
            try:
                self._source.close()
            except BaseException as raised:  # noqa: BLE001, likewise
                error = error or raised
            self._put(_End(error))

    def _put(self, item: T | _End) -> None:
        self._blocked_since = begin = time.perf_counter()
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                break
            except queue.Full:
                continue
        self._blocked_since = None
        self._blocked_s += time.perf_counter() - begin
