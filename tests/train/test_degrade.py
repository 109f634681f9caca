"""The degradations: aligned, seeded, within range, and as strong as they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrestore.train.degrade import (
    LEVELS,
    Level,
    Recipe,
    apply_recipe,
    compress_jpeg,
    compress_video,
    degrade,
    draw_recipe,
    resample,
)

NOTHING = Recipe(size=64)


def waves(size: int = 64) -> np.ndarray:
    """A smooth picture in [0.2, 0.8], other in each channel."""
    y, x = np.mgrid[:size, :size].astype(np.float32) * np.float32(64 / size)
    channels = [np.sin(x / 9 + k) * np.cos(y / 11 - k) for k in range(3)]
    return (0.5 + 0.3 * np.stack(channels, -1)).astype(np.float32)


def error(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square on the scale of 8 bits."""
    return float(np.sqrt(np.mean((a - b) ** 2)) * 255)


@given(seed=st.integers(0, 2**32 - 1), level=st.sampled_from(sorted(LEVELS)))
@settings(max_examples=25, deadline=None)
def test_the_result_is_a_picture_of_the_same_kind(seed: int, level: str) -> None:
    out = degrade(waves(), LEVELS[level], np.random.default_rng(seed))
    assert out.shape == (64, 64, 3)
    assert out.dtype == np.float32
    assert out.min() >= 0.0
    assert out.max() <= 1.0


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_the_same_seed_gives_the_same_picture(level: str) -> None:
    first, second = (degrade(waves(), LEVELS[level], np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, degrade(waves(), LEVELS[level], np.random.default_rng(8)))


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([32, 48, 64, 80]))
@settings(max_examples=25, deadline=None)
def test_resizing_alone_moves_nothing(seed: int, size: int) -> None:
    recipe = replace(NOTHING, size=size)  # the phase of the grid is drawn from the seed
    out = apply_recipe(waves(), recipe, np.random.default_rng(seed))
    assert error(out[4:-4, 4:-4], waves()[4:-4, 4:-4]) < 2.0  # half a pixel of shift would be 5


def test_the_mean_is_kept_through_the_whole_chain() -> None:
    shifts = [(degrade(waves(), LEVELS["medium"], np.random.default_rng(i)) - waves()).mean((0, 1)) for i in range(40)]
    assert np.abs(np.mean(shifts, 0)).max() * 255 < 0.5


def test_levels_are_in_order() -> None:
    errors = [
        np.mean([error(degrade(waves(), LEVELS[n], np.random.default_rng(i)), waves()) for i in range(30)])
        for n in ("light", "medium", "heavy")
    ]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("grain", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("chroma_noise", [0.0, 0.5, 1.0])
def test_noise_has_the_deviation_it_says(grain: float, chroma_noise: float) -> None:
    grey = np.full((128, 128, 3), 0.5, np.float32)
    recipe = replace(NOTHING, size=128, noise=10.0, grain=grain, chroma_noise=chroma_noise, kernel="box")
    recipe = replace(recipe, codecs=(("none", 0),), late_noise=True)
    small = [apply_recipe(grey, recipe, np.random.default_rng(i)) - grey for i in range(3)]
    # the grid's random phase softens the noise when it is sampled back, so it can only be less
    assert 4.0 < np.std(small) * 255 < 10.5


def test_luma_noise_has_no_colour() -> None:
    grey = np.full((64, 64, 3), 0.5, np.float32)
    out = apply_recipe(grey, replace(NOTHING, noise=12.0, chroma_noise=0.0), np.random.default_rng(0))
    assert np.ptp(out, axis=-1).max() < 1.5 / 255
    assert out.std() * 255 > 4.0


def test_scale_is_log_uniform_over_its_range() -> None:
    level = LEVELS["heavy"]
    rng = np.random.default_rng(0)
    scales = np.array([256 / draw_recipe(rng, level).size for _ in range(2000)])
    assert scales.min() > level.scale[0] * 0.97
    assert scales.max() < level.scale[1] * 1.03
    assert np.median(scales) == pytest.approx(math.sqrt(level.scale[0] * level.scale[1]), rel=0.05)


def test_faults_come_as_often_as_they_should() -> None:
    rng = np.random.default_rng(0)
    recipes = [draw_recipe(rng, LEVELS["heavy"]) for _ in range(2000)]
    for happened in (
        [r.motion_px > 0 for r in recipes],
        [r.bleed_px > 0 for r in recipes],
        [r.interlace != "none" for r in recipes],
        [len(r.codecs) == 2 for r in recipes],
    ):
        assert np.mean(happened) == pytest.approx(LEVELS["heavy"].fault, abs=0.03)
    assert {r.codecs[0][0] for r in recipes} == {"none", "jpeg", "h264", "mpeg4", "mpeg2"}


def test_two_views_of_one_recipe_differ_by_noise_only() -> None:
    recipe = draw_recipe(np.random.default_rng(3), Level((2, 2), (0.3, 0.3), (8, 8), (60, 60), (24, 24), 0.0), crop=64)
    rng = np.random.default_rng(4)
    first, second = apply_recipe(waves(), recipe, rng), apply_recipe(waves(), recipe, rng)
    assert 0.0 < error(first, second) < 25.0


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mpeg2"])
def test_a_lower_rate_does_more_harm(codec: str) -> None:
    rng = np.random.default_rng(0)
    picture = np.clip(waves() + rng.normal(0, 0.05, (64, 64, 3)), 0, 1).astype(np.float32)
    clip = [picture] * 3
    errors = [error(compress_video(clip, codec, crf), picture) for crf in (18, 28, 38)]  # type: ignore[arg-type]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mpeg2"])
def test_a_flat_colour_survives_compression(codec: str) -> None:
    flat = np.full((32, 48, 3), (0.7, 0.4, 0.3), np.float32)
    assert error(compress_video([flat], codec, 20), flat) < 2.0  # type: ignore[arg-type]


def test_jpeg_quality_orders_the_error() -> None:
    assert error(compress_jpeg(waves(), 95), waves()) < error(compress_jpeg(waves(), 20), waves())


@pytest.mark.parametrize("kernel", ["box", "tent", "cubic", "lanczos", "catmull-rom"])
@pytest.mark.parametrize("step", [0.4, 1.0, 1.7])
def test_resampling_keeps_a_constant(kernel: str, step: float) -> None:
    flat = np.full((30, 41, 3), 0.6, np.float32)
    assert np.allclose(resample(flat, 17, step, (0.3, -0.2), kernel), 0.6, atol=1e-5)  # type: ignore[arg-type]


def test_resampling_by_one_is_the_identity() -> None:
    assert np.allclose(resample(waves(), 64, 1.0, (0.0, 0.0), "catmull-rom"), waves(), atol=1e-6)


def test_resampling_reads_where_its_convention_says() -> None:
    ramp = np.repeat(np.arange(20, dtype=np.float32)[None, :, None], 20, 0) * np.ones(3, np.float32)
    out = resample(ramp, 8, 0.75, (2.0, 3.0), "catmull-rom")  # a cubic reproduces straight lines
    assert np.allclose(out[2, 1:5, 0], (np.arange(1, 5) + 0.5) * 0.75 - 0.5 + 2.0, atol=1e-4)


def test_a_picture_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(S, S, 3\)"):
        apply_recipe(np.zeros((4, 6, 3), np.float32), NOTHING, np.random.default_rng(0))
