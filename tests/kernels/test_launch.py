from __future__ import annotations

import multiprocessing
import threading
import warnings
from typing import Any

import numba
import numpy as np
import pytest
from plane_formats import GRAY, about, random_planes

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


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def without_cache(**flags: Any) -> Any:
        if flags.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**flags)

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
