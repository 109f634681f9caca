"""The regressor's crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vidrestore.geometry import apply, compose, invert
from vidrestore.morphable.align import CROP_SIZE, FACE_POINTS_3D, d3dfr_from_crop, warp


def seen(scale: float, x: float, y: float) -> np.ndarray:
    """The five points without perspective, their origin at (x, y) of a crop."""
    return np.array([x, y]) + scale * FACE_POINTS_3D[:, :2] * (1.0, -1.0)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(20, 400), x=st.floats(0, 511), y=st.floats(0, 511))
def test_the_origin_comes_to_the_middle_and_a_unit_to_102_pixels(scale: float, x: float, y: float) -> None:
    found = d3dfr_from_crop(seen(scale, x, y))
    factor = 102.0 / scale
    assume(abs(512 * factor - round(512 * factor)) > 1e-6)  # the fit's last digit decides which way those are rounded
    np.testing.assert_allclose(found[:, :2], factor * np.eye(2), rtol=1e-9, atol=1e-12)
    lost = (512 * factor - np.floor(512 * factor)) / 2  # the published rounding, at most half a pixel
    np.testing.assert_allclose(apply(found, [x, y]), [112 + lost, 111 - lost], atol=1e-6)


def test_the_published_steps_give_the_same_points() -> None:
    """The published code in its own terms: y upwards, fit, scale, cut out the middle, y downwards again."""
    points = np.array([(201.5, 240.1), (310.2, 242.0), (256.3, 305.5), (212.9, 366.0), (302.0, 365.1)])
    upward = np.column_stack([points[:, 0], 511 - points[:, 1]])
    rows = np.zeros((10, 8))
    rows[0::2, :3], rows[0::2, 3], rows[1::2, 4:7], rows[1::2, 7] = FACE_POINTS_3D, 1, FACE_POINTS_3D, 1
    k = np.linalg.lstsq(rows, upward.reshape(10), rcond=None)[0]
    s = 102.0 / ((np.linalg.norm(k[0:3]) + np.linalg.norm(k[4:7])) / 2)
    moved = (upward - (k[3], k[7]) + 256) * s - (int(512 * s) / 2 - 112)
    expected = np.column_stack([moved[:, 0], 223 - moved[:, 1]])
    np.testing.assert_allclose(apply(d3dfr_from_crop(points), points), expected, atol=1e-9)


@pytest.mark.parametrize("points", [np.zeros((4, 2)), np.full((5, 2), 7.0)])
def test_points_without_a_crop_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="landmarks"):
        d3dfr_from_crop(points)


def test_a_warped_ramp_has_the_values_of_the_places_it_came_from() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    images = torch.stack([x, y]).expand(2, -1, -1, -1)
    maps = np.array([[[0.7, 0.1, -3.2], [-0.1, 0.7, 2.5]], [[1.3, 0.0, -15.0], [0.0, 1.3, -9.0]]])
    out = warp(images, torch.from_numpy(maps), 20)
    assert out.shape == (2, 2, 20, 20)
    for picture, target_from_source in zip(out, maps, strict=True):
        v, u = np.mgrid[:20, :20]
        source = apply(invert(target_from_source), np.stack([u, v], axis=-1))
        is_inside = (source >= 0).all(-1) & (source <= (59, 39)).all(-1)
        assert is_inside.sum() > 100
        np.testing.assert_allclose(picture.permute(1, 2, 0).numpy()[is_inside], source[is_inside], atol=1e-3)


def test_beyond_the_border_lies_zero() -> None:
    out = warp(torch.ones(1, 1, 8, 8), torch.tensor([[[1.0, 0.0, 4.0], [0.0, 1.0, 4.0]]]), 16)
    assert torch.equal(out[0, 0], torch.nn.functional.pad(torch.ones(8, 8), (4, 4, 4, 4)))


def test_there_and_back_is_where_it_was() -> None:
    to_crop = d3dfr_from_crop(seen(170.0, 250.0, 260.0))
    np.testing.assert_allclose(compose(invert(to_crop), to_crop), np.eye(3)[:2], atol=1e-12)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 512), torch.linspace(-1, 1, 512), indexing="ij")
    smooth = torch.stack([x * x, y, x * y])[None]
    there = warp(smooth, torch.from_numpy(to_crop)[None], CROP_SIZE)
    back = warp(there, torch.from_numpy(invert(to_crop))[None], 512)
    torch.testing.assert_close(back[..., 200:300, 200:300], smooth[..., 200:300, 200:300], atol=1e-3, rtol=0)


def test_warping_passes_gradients() -> None:
    images = torch.rand(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    maps = torch.tensor([[[0.9, 0.1, 0.3], [-0.1, 0.9, 0.6]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda i: warp(i, maps, 5), (images,))
