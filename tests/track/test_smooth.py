"""Local polynomial smoothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vidrestore.track.smooth import smooth_at


def fit(at: float, indices: list[float], values: np.ndarray, sigma: float = 3.0) -> float:
    return float(smooth_at(at, np.array(indices, float), values[:, None], np.ones(len(indices)), sigma)[0])


@given(st.floats(-50, 50), st.floats(-9, 9), st.floats(0.5, 6), st.integers(3, 30))
def test_a_steady_motion_passes_unchanged_with_and_without_looking_ahead(
    start: float, speed: float, sigma: float, count: int
) -> None:
    indices = [float(i) for i in range(count)]
    values = start + speed * np.arange(count)
    for at in (0.0, count / 2, count - 1.0):
        assert abs(fit(at, indices, values, sigma) - (start + speed * at)) < 1e-6


def test_a_nod_is_not_flattened() -> None:
    indices = np.arange(41.0)
    nod = 20.0 * np.sin(2 * np.pi * indices / 25)  # one nod a second at 25 frames/s
    errors = [abs(fit(at, list(indices), nod) - nod[int(at)]) for at in range(10, 31)]
    assert max(errors) < 0.1 * 20.0


def test_noise_is_at_least_halved() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 1.0, 400)
    indices = list(np.arange(400.0))
    smoothed = np.array([fit(at, indices[at - 12 : at + 13], noise[at - 12 : at + 13]) for at in range(12, 388)])
    assert smoothed.std() < 0.5 * noise[12:388].std()


def test_a_gap_is_filled_on_the_line() -> None:
    indices = [0.0, 1, 2, 3, 8, 9, 10, 11]
    assert abs(fit(5.0, indices, 2.0 * np.array(indices)) - 10.0) < 1e-6


def test_zero_width_takes_the_looks_as_they_are_and_joins_them_by_lines() -> None:
    values = np.array([1.0, 5.0, 2.0])
    assert fit(1.0, [0.0, 1.0, 2.0], values, 0.0) == 5.0
    assert fit(1.5, [0.0, 1.0, 2.0], values, 0.0) == 3.5
    assert fit(9.0, [0.0, 1.0, 2.0], values, 0.0) == 2.0


def test_an_unsure_look_counts_less() -> None:
    indices, values = np.arange(9.0), np.zeros((9, 1))
    values[4] = 10.0
    sure = smooth_at(4.0, indices, values, np.ones(9), 2.0)[0]
    weights = np.ones(9)
    weights[4] = 0.05
    assert abs(smooth_at(4.0, indices, values, weights, 2.0)[0]) < 0.3 * abs(sure)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.floats(-20, 40))
def test_the_result_stays_near_the_looks(values: list[float], at: float) -> None:
    array = np.array(values)
    result = fit(at, [float(i) for i in range(len(values))], array)
    slack = (array.max() - array.min()) / 2 + 1e-6
    assert array.min() - slack <= result <= array.max() + slack


def test_looks_that_disagree_with_all_around_them_do_not_count() -> None:
    indices = np.arange(19.0)
    values = np.stack([0.5 * indices, 0.1 * indices], 1)
    values[11:13] += [6.0, 0.0]
    noise = np.array([0.2, 0.2])
    kept = smooth_at(9.0, indices, values, np.ones(19), 3.0, noise=noise)
    np.testing.assert_allclose(kept, [4.5, 0.9], atol=0.1)
    assert abs(smooth_at(9.0, indices, values, np.ones(19), 3.0)[0] - 4.5) > 0.3


def test_a_start_from_rest_is_followed() -> None:
    indices = np.arange(40.0)
    values = 3.0 * np.maximum(indices - 20, 0.0)
    noise = np.array([0.1])

    def worst(**more: np.ndarray) -> float:
        return max(
            abs(float(smooth_at(at, indices, values[:, None], np.ones(40), 3.0, **more)[0]) - values[int(at)])
            for at in np.arange(14.0, 27.0)
        )

    assert worst(noise=noise) < 0.7 * worst()


def test_ordinary_noise_is_smoothed_nearly_as_much_as_without_rejection() -> None:
    noise = np.random.default_rng(3).normal(0.0, 0.4, (200, 6))
    indices, sizes = np.arange(200.0), np.full(6, 0.4)
    parts = [(at, slice(at - 10, at + 11)) for at in range(10, 190)]
    plain = [smooth_at(float(at), indices[part], noise[part], np.ones(21), 3.0) for at, part in parts]
    robust = [smooth_at(float(at), indices[part], noise[part], np.ones(21), 3.0, noise=sizes) for at, part in parts]
    assert np.std(robust) < 1.1 * np.std(plain)
