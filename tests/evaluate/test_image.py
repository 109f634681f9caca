"""PSNR and SSIM: known values, properties, bad arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrestore.evaluate.image import psnr, ssim


def picture(seed: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_psnr_of_one_step_everywhere_is_48_dB() -> None:
    a = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(a, a + np.uint8(1)) == pytest.approx(20 * math.log10(255))


def test_psnr_of_equal_pictures_is_infinite() -> None:
    assert psnr(picture(0), picture(0)) == math.inf


@given(seed=st.integers(0, 2**32 - 1), step=st.floats(0.01, 0.5))
@settings(max_examples=25, deadline=None)
def test_psnr_of_an_offset_is_that_offset(seed: int, step: float) -> None:
    a = np.random.default_rng(seed).random((6, 7, 3))
    assert psnr(a, a + step) == pytest.approx(-20 * math.log10(step), abs=1e-6)


@given(first=st.integers(0, 1000), second=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_ssim_is_symmetric_and_at_most_one(first: int, second: int) -> None:
    a, b = picture(first), picture(second)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)
    assert ssim(a, b) <= 1.0 + 1e-12
    assert ssim(a, a) == pytest.approx(1.0)


def test_ssim_of_flat_pictures_follows_the_formula() -> None:
    a, b = np.full((16, 16), 0.25), np.full((16, 16), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)  # the variances are zero
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_ssim_agrees_with_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is the extra 'metrics'")
    a, b = picture(1, 40), picture(1, 40)
    b = np.clip(b.astype(int) + np.random.default_rng(2).integers(-30, 30, b.shape), 0, 255).astype(np.uint8)
    reference = metrics.structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ssim(a, b) == pytest.approx(reference, abs=1e-6)


def test_pictures_of_different_shape_or_type_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape and type"):
        psnr(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="one shape and type"):
        ssim(np.zeros((16, 16)), np.zeros((16, 16), np.uint8))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(np.zeros((16, 10)), np.zeros((16, 10)))
