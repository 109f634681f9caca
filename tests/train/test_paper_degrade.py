"""The papers' degradations: their statistics are those that were documented, and the order is right."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from vidrestore.train.degrade import Picture
from vidrestore.train.paper_degrade import (
    LARGE,
    PAPER,
    SMALL,
    BlindLevel,
    BrushOptions,
    ColourFaults,
    blur_kernel,
    brush_strokes,
    degrade_blind,
    disturb_colour,
    punch_holes,
)

NOTHING = BlindLevel(blur=(1e-3, 1e-3), scale=(1.0, 1.0), noise=(0.0, 0.0), quality=(100.0, 100.0))
"""A chain without effect; tests turn on one step of it at a time."""
QUIET = ColourFaults(shift_share=0.0, grey_share=0.0, jitter_share=0.0)


def flat(side: int = 64, value: float = 0.5) -> Picture:
    return np.full((side, side, 3), value, np.float32)


def smooth(side: int = 64) -> Picture:
    coarse = np.random.default_rng(0).random((6, 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([7, i]) for i in range(count)]


def deviations(kernel: np.ndarray) -> tuple[float, float]:
    """Deviations along the two axes of a kernel, larger first."""
    radius = kernel.shape[0] // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    products = [(kernel * a * b).sum() for a, b in ((x, x), (x, y), (y, y))]
    low, high = np.linalg.eigvalsh([[products[0], products[1]], [products[1], products[2]]])
    return math.sqrt(high), math.sqrt(low)


def test_the_published_ranges() -> None:
    assert (LARGE.blur, LARGE.scale, LARGE.noise, LARGE.quality) == ((1, 15), (4, 30), (0, 20), (30, 80))
    assert (SMALL.blur, SMALL.scale, SMALL.noise, SMALL.quality) == ((0.1, 10), (1, 12), (0, 15), (60, 100))
    assert (PAPER.blur, PAPER.scale, PAPER.noise, PAPER.quality) == ((1, 15), (1, 30), (0, 20), (30, 90))
    assert LARGE.taps == 41


def test_kernels_are_gaussians_of_the_drawn_deviations() -> None:
    level = BlindLevel(blur=(2.0, 5.0))  # within reach of 41 taps
    pairs = [deviations(blur_kernel(level, rng)) for rng in rngs(400)]
    round_ones = [high for high, low in pairs if high - low < 1e-3]
    assert 0.42 < len(round_ones) / len(pairs) < 0.58  # equal odds: 0.5 with a deviation of 0.025
    assert min(low for _, low in pairs) >= 1.99
    assert max(high for high, _ in pairs) <= 5.01
    assert np.mean(round_ones) == pytest.approx(3.5, abs=0.2)  # uniform
    assert all(blur_kernel(level, rng).sum() == pytest.approx(1.0, abs=1e-5) for rng in rngs(3))


def test_noise_is_uniform_in_its_deviation_and_independent_by_channel() -> None:
    level = BlindLevel(blur=(1e-3, 1e-3), scale=(1.0, 1.0), noise=(0.0, 20.0), quality=(100.0, 100.0))
    pictures = [degrade_blind(flat(), level, rng) * 255.0 for rng in rngs(150)]
    # JPEG's 4:2:0 halves the chroma part of the noise, so the luma is looked at
    luma = [p @ np.array([0.299, 0.587, 0.114]) for p in pictures]
    found = np.array([p.std() for p in luma]) / math.sqrt(0.299**2 + 0.587**2 + 0.114**2)
    assert found.max() < 21.5
    assert found.min() < 1.5
    assert found.mean() == pytest.approx(10.0, abs=1.5)


def test_the_scale_is_the_ratio_of_the_sides() -> None:
    """A linear resize to one pixel and back leaves one colour, to four leaves sixteen and their mixtures."""
    one = BlindLevel(blur=(1e-3, 1e-3), scale=(64.0, 64.0), noise=(0.0, 0.0), quality=(100.0, 100.0))
    assert np.ptp(degrade_blind(smooth(), one, rngs(1)[0]), axis=(0, 1)).max() == 0.0
    four = BlindLevel(blur=(1e-3, 1e-3), scale=(15.9, 15.9), noise=(0.0, 0.0), quality=(100.0, 100.0))
    got = degrade_blind(smooth(), four, rngs(1)[0])
    again = cv2.resize(cv2.resize(got, (4, 4), interpolation=cv2.INTER_LINEAR), (64, 64))
    assert np.abs(got - again).mean() < 0.05  # all that was left fits into 4 x 4


def test_low_quality_changes_more() -> None:
    def error(quality: float) -> float:
        level = BlindLevel(blur=(1e-3, 1e-3), scale=(1.0, 1.0), noise=(0.0, 0.0), quality=(quality, quality))
        return float(np.abs(degrade_blind(smooth(), level, rngs(1)[0]) - smooth()).mean())

    assert error(100.0) < error(60.0) < error(15.0)


def test_a_chain_without_effect_keeps_the_picture_in_place() -> None:
    assert np.abs(degrade_blind(smooth(), NOTHING, rngs(1)[0]) - smooth()).mean() < 2.5 / 255.0


def test_large_is_worse_than_small_and_results_are_of_8_bits() -> None:
    errors = {}
    for name, level in (("small", SMALL), ("large", LARGE)):
        pictures = [degrade_blind(smooth(128), level, rng) for rng in rngs(12)]
        assert all(np.abs(p * 255.0 - np.rint(p * 255.0)).max() < 1e-3 for p in pictures)
        assert all(p.shape == (128, 128, 3) and p.dtype == np.float32 for p in pictures)
        errors[name] = float(np.mean([np.abs(p - smooth(128)).mean() for p in pictures]))
    assert errors["large"] > 1.3 * errors["small"]


def test_the_same_numbers_give_the_same_picture() -> None:
    first, second = (degrade_blind(smooth(), LARGE, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "bad", [{"blur": (2.0, 1.0)}, {"blur": (0.0, 1.0)}, {"scale": (0.5, 2.0)}, {"noise": (-1.0, 1.0)}, {"taps": 40}]
)
def test_wrong_ranges_are_errors(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        BlindLevel(**bad)  # type: ignore[arg-type]


def test_the_offset_is_one_number_per_channel_and_comes_in_three_of_ten() -> None:
    faults = ColourFaults(grey_share=0.0, jitter_share=0.0)
    moved = [disturb_colour(flat(8), faults, rng) - disturb_colour(flat(8), QUIET, rng) for rng in rngs(400)]
    offsets = np.stack([m.mean((0, 1)) for m in moved]) * 255.0
    assert max(m.std((0, 1)).max() for m in moved) < 1e-6
    changed = np.abs(offsets).max(1) > 0.5
    assert 0.22 < changed.mean() < 0.38
    assert 15.0 < np.abs(offsets).max() <= 20.6  # and half a step of rounding at either end


def test_grey_pictures_have_equal_channels() -> None:
    picture = disturb_colour(smooth(), ColourFaults(shift_share=0.0, grey_share=1.0, jitter_share=0.0), rngs(1)[0])
    assert np.ptp(picture, axis=2).max() == 0.0
    expected = smooth() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(picture[..., 0] - expected).max() <= 0.6 / 255.0


def only(**ranges: tuple[float, float]) -> ColourFaults:
    still = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": (0.0, 0.0)}
    return ColourFaults(0.0, 20.0, 0.0, 1.0, **(still | ranges))  # type: ignore[arg-type]


def test_each_jitter_does_what_it_is_called() -> None:
    rng, picture = rngs(1)[0], np.clip(smooth(), 0.25, 0.7)
    unchanged = disturb_colour(picture, only(), rng)
    assert np.abs(unchanged - picture).max() < 1.1 / 255.0
    brighter = disturb_colour(picture, only(brightness=(1.2, 1.2)), rng)
    assert brighter.mean() == pytest.approx(1.2 * picture.mean(), rel=0.01)
    flatter = disturb_colour(picture, only(contrast=(0.5, 0.5)), rng)
    assert flatter.std() == pytest.approx(0.5 * picture.std(), rel=0.1)
    paler = disturb_colour(picture, only(saturation=(0.0, 0.0)), rng)
    assert np.ptp(paler, axis=2).max() < 1.1 / 255.0
    turned = disturb_colour(flat() * np.array([1.0, 0.5, 0.5], np.float32), only(hue=(1 / 3, 1 / 3)), rng)
    np.testing.assert_allclose(turned[0, 0], [0.25, 0.5, 0.25], atol=0.01)  # red becomes green


def test_strokes_cover_a_part_and_are_connected() -> None:
    masks = [brush_strokes(256, BrushOptions(), rng) for rng in rngs(60)]
    cover = np.array([m.mean() for m in masks])
    assert 0.10 < cover.mean() < 0.55
    assert cover.min() > 0.005
    pieces = [cv2.connectedComponents(m.astype(np.uint8))[0] - 1 for m in masks]
    assert max(pieces) <= 3  # at most three strokes, each in one piece
    assert min(pieces) == 1


def test_the_brush_grows_with_the_picture() -> None:
    single = BrushOptions(strokes=(1, 1), vertices=(8, 8), width=(30.0, 30.0))
    depths = {}
    for side in (128, 512):
        masks = [brush_strokes(side, single, rng).astype(np.uint8) for rng in rngs(10)]
        # distance to the border of the mask is half the width in the middle of a stroke
        depths[side] = np.median([np.percentile(cv2.distanceTransform(m, cv2.DIST_L2, 5)[m > 0], 75) for m in masks])
    assert depths[512] / depths[128] == pytest.approx(4.0, rel=0.35)


def test_holes_are_pure_white() -> None:
    mask = brush_strokes(64, BrushOptions(), rngs(1)[0])
    punched = punch_holes(smooth(), mask)
    assert (punched[mask] == 1.0).all()
    np.testing.assert_array_equal(punched[~mask], smooth()[~mask])
