from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidrestore.blend.occluders import CropPlace, OccluderMemory

Share = NDArray[np.float32]


def memory(frames: int = 10) -> OccluderMemory[Share]:
    return OccluderMemory(frames, np.minimum)


def one(value: float) -> Share:
    return np.full((4, 4), value, np.float32)


def run(values: list[float], frames: int = 10, shots: list[int] | None = None) -> list[float]:
    kept = memory(frames)
    shots = shots or [0] * len(values)
    return [float(kept.hold(CropPlace(0, shots[i], i), one(value))[0, 0]) for i, value in enumerate(values)]


def test_a_cover_counts_at_once_and_goes_slowly() -> None:
    out = run([1.0, 1.0, 0.0, 0.0] + [1.0] * 12)
    assert out == pytest.approx([1, 1, 0, 0, *np.arange(0.1, 1.05, 0.1), 1, 1], abs=1e-6)


def test_a_decision_that_wavers_does_not_flicker() -> None:
    wavering = [1.0, 0.1] * 20
    assert np.abs(np.diff(wavering)).max() == pytest.approx(0.9)
    assert np.abs(np.diff(run(wavering)[1:])).max() == pytest.approx(0.1)


def test_zero_frames_remember_nothing() -> None:
    kept = memory(0)
    assert kept.hold(CropPlace(0, 0, 0), one(0.0))[0, 0] == 0.0
    assert kept.hold(CropPlace(0, 0, 1), one(1.0))[0, 0] == 1.0
    assert len(kept) == 0


def test_a_cut_and_a_frame_that_is_not_newer_begin_anew() -> None:
    assert run([0.0, 1.0, 1.0], shots=[0, 1, 1]) == [0.0, 1.0, 1.0]
    kept = memory()
    kept.hold(CropPlace(0, 0, 5), one(0.0))
    assert kept.hold(CropPlace(0, 0, 5), one(1.0))[0, 0] == 1.0
    kept.hold(CropPlace(0, 0, 6), one(0.0))
    kept.forget()
    assert kept.hold(CropPlace(0, 0, 7), one(1.0))[0, 0] == 1.0


def test_frames_that_were_skipped_count() -> None:
    kept = memory()
    kept.hold(CropPlace(0, 0, 0), one(0.0))
    assert kept.hold(CropPlace(0, 0, 4), one(1.0))[0, 0] == pytest.approx(0.4)


def test_tracks_do_not_mix_and_places_neither() -> None:
    kept = memory()
    half = one(1.0)
    half[:, :2] = 0.0
    kept.hold(CropPlace(0, 0, 0), half)
    kept.hold(CropPlace(1, 0, 0), one(1.0))
    np.testing.assert_allclose(kept.hold(CropPlace(0, 0, 1), one(1.0)), np.where(half == 0.0, 0.1, 1.0), atol=1e-6)
    assert (kept.hold(CropPlace(1, 0, 1), one(1.0)) == 1.0).all()


def test_crops_of_another_size_begin_anew() -> None:
    kept = memory()
    kept.hold(CropPlace(0, 0, 0), one(0.0))
    assert (kept.hold(CropPlace(0, 0, 1), np.ones((8, 8), np.float32)) == 1.0).all()


def test_memory_holds_the_tracks_of_a_few_frames_only() -> None:
    kept = memory(10)
    for i in range(500):
        kept.hold(CropPlace(i, 0, i), one(0.5))
        assert len(kept) <= 10
    kept.hold(CropPlace(999, 1, 500), one(0.5))
    assert len(kept) == 1


@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=2, max_size=30), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_never_more_than_the_frame_allows_and_never_up_by_more_than_a_step(values: list[float], frames: int) -> None:
    out = np.array(run(values, frames))
    assert (out <= np.array(values) + 1e-6).all()
    assert np.diff(out).max() <= 1.0 / frames + 1e-5


def test_tensors_are_held_as_arrays_are() -> None:
    rng = np.random.default_rng(0)
    arrays, tensors = memory(7), OccluderMemory(7, torch.minimum)
    for i in range(30):
        share = rng.random((4, 4), np.float32)
        place = CropPlace(i % 2, i // 20, i)
        np.testing.assert_array_equal(arrays.hold(place, share), tensors.hold(place, torch.from_numpy(share)).numpy())
