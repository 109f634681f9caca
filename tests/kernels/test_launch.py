from __future__ import annotations

import multiprocessing
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np
import pytest
from plane_formats import GRAY, about, random_planes

from vidrestore.errors import KernelError
from vidrestore.kernels import launch, sample_crops


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (3, 20), (5, 1000)])
def test_bands_cover_every_row_once(start: int, stop: int) -> None:
    seen = np.zeros(1001, int)

    def kernel(first: int, last: int) -> None:
        seen[first:last] += 1

    launch.run_bands(kernel, start, stop, min_rows=4)
    assert (seen[start:stop] == 1).all()
    assert seen.sum() == stop - start


def test_an_error_in_a_band_reaches_the_caller() -> None:
    def kernel(first: int, last: int) -> None:
        if last == 200:
            raise RuntimeError("band")

    with pytest.raises(RuntimeError, match="band"):
        launch.run_bands(kernel, 0, 200)


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_every_task_runs_once(count: int) -> None:
    done: list[int] = []
    launch.run_tasks([partial(done.append, i) for i in range(count)])
    assert sorted(done) == list(range(count))


def test_an_error_of_a_task_is_not_taken_for_the_end_of_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_cores", lambda: 2)

    def fails() -> None:
        raise IndexError("pop from an empty deque")

    with pytest.raises(IndexError, match="empty deque"):
        launch.run_tasks([fails] * 4)


def test_a_busy_pool_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_cores", lambda: 2)
    pool = ThreadPoolExecutor(2)
    monkeypatch.setattr(launch, "_pool", pool)
    free = threading.Event()
    others = [pool.submit(free.wait) for _ in range(2)]
    done: list[int] = []
    try:
        launch.run_tasks([partial(done.append, i) for i in range(8)])
        assert done == list(range(8))  # by the caller alone
        assert not any(other.done() for other in others)
    finally:
        free.set()
        pool.shutdown()


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def without_cache(*functions: Any, **flags: Any) -> Any:  # numba's own modules, loaded late, pass functions
        if flags.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*functions, **flags)

    monkeypatch.setattr(numba, "njit", without_cache)

    def double(x: float) -> float:
        return 2.0 * x

    assert launch.jit(double)(21.0) == 42.0


def test_two_threads_may_sample_at_once() -> None:
    planes = random_planes(GRAY, 200, 200, seed=0)
    m = about((100, 100), (64, 64), 0.9, 0.2)[None]
    expected = sample_crops(planes, GRAY, m, 128)
    equal: list[bool] = []
    work = [
        threading.Thread(target=lambda: equal.append(np.array_equal(sample_crops(planes, GRAY, m, 128), expected)))
        for _ in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert equal == [True] * 8


def _sample_in_child(queue: Any) -> None:
    planes = random_planes(GRAY, 200, 200, seed=0)
    queue.put(float(sample_crops(planes, GRAY, about((100, 100), (64, 64), 0.9)[None], 128).sum()))


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    planes = random_planes(GRAY, 200, 200, seed=0)
    here = float(sample_crops(planes, GRAY, about((100, 100), (64, 64), 0.9)[None], 128).sum())
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_sample_in_child, args=(queue,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads: the very case
        child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == here


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_bands_run_at_once_than_the_limit_says(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_cores", lambda: 4)
    monkeypatch.setattr(launch, "_pool", None)  # one of the made cores' size
    running, most, lock = 0, 0, threading.Lock()

    def kernel(first: int, last: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    launch.limit_threads(limit)
    try:
        launch.run_bands(kernel, 0, 1000)
        assert launch.num_threads() == limit
    finally:
        launch.limit_threads(None)
        if launch._pool is not None:
            launch._pool.shutdown()
    assert most <= limit
    assert launch.num_threads() == 4


def test_a_limit_below_one_thread_is_refused() -> None:
    with pytest.raises(KernelError, match="at least 1 thread, got 0"):
        launch.limit_threads(0)
