"""Running ahead in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable

import pytest

from vidrestore.ahead import Ahead


def count_to(n: int) -> Generator[int, None, None]:
    yield from range(n)


def test_items_come_in_order() -> None:
    assert list(Ahead(count_to(100), 3, "count")) == list(range(100))


def test_an_exception_is_raised_where_items_are_taken_after_those_before_it() -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise RuntimeError("the disk is gone")

    items = Ahead(broken(), 2, "broken")
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(items)
    with pytest.raises(StopIteration):
        next(items)


def test_it_never_runs_farther_ahead_than_its_queue() -> None:
    made: list[int] = []

    def making() -> Generator[int, None, None]:
        for i in range(1000):
            made.append(i)
            yield i

    items = Ahead(making(), 3, "making")
    next(items)
    time.sleep(0.3)
    assert len(made) <= 1 + 3 + 1  # taken, queued, in hand
    items.close()


def test_close_wakes_a_blocked_producer_and_runs_its_clean_up() -> None:
    cleaned = threading.Event()

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 0
        finally:
            cleaned.set()

    items = Ahead(endless(), 1, "endless")
    next(items)
    begin = time.perf_counter()
    items.close()
    assert cleaned.is_set()
    assert time.perf_counter() - begin < 1.0


def test_closing_the_last_of_a_chain_leaves_no_thread() -> None:
    before = threading.active_count()
    first = Ahead(count_to(10**6), 2, "first")

    def doubled() -> Generator[int, None, None]:
        for item in first:
            yield 2 * item

    second = Ahead(doubled(), 2, "second")
    assert next(second) == 0
    second.close()
    first.close()
    assert threading.active_count() == before


def test_times_tell_who_waited_for_whom() -> None:
    def slow() -> Generator[int, None, None]:
        for i in range(5):
            time.sleep(0.02)
            yield i

    items = Ahead(slow(), 2, "slow")
    list(items)
    assert items.stage_time().busy_s >= 0.1
    assert items.waited_s >= 0.05


def paced(source: Iterable[int], seconds: float) -> Generator[int, None, None]:
    for item in source:
        time.sleep(seconds)
        yield item


@pytest.mark.parametrize("slow", ["first", "second", "taker"])
def test_busy_starved_and_blocked_are_told_apart(slow: str) -> None:
    pace = {name: 0.03 if name == slow else 0.0 for name in ("first", "second", "taker")}
    begin = time.perf_counter()
    first = Ahead(paced(range(20), pace["first"]), 1, "first")
    second = Ahead(paced(first, pace["second"]), 1, "second")
    list(paced(second, pace["taker"]))
    wall_s = time.perf_counter() - begin
    one, two = first.stage_time(), second.stage_time(first)
    told = {
        "first": (one.busy_s, two.starved_s, second.waited_s),
        "second": (one.blocked_s, two.busy_s, second.waited_s),
        "taker": (one.blocked_s, two.blocked_s),
    }[slow]
    assert min(told) > 0.6 * 20 * 0.03, "what waits for the slow one, and the slow one itself"
    for time_of in (one, two):
        assert time_of.busy_s + time_of.starved_s + time_of.blocked_s <= wall_s + 0.05
