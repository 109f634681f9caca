"""Maps of motion: what the mesh says, what the crops say, and pictures moved by them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_steady import face

from vidrestore.morphable.files import load_vr468
from vidrestore.restoration.motion import (
    box,
    cell_motion,
    crop_motion,
    grow,
    mesh_motion,
    mesh_motion_by_torch,
    shrink,
    smooth,
    warp,
    warp_sharp,
)

CPU = torch.device("cpu")


def model_mesh(size: int) -> np.ndarray:
    """The mean face, filling a crop."""
    rest = load_vr468().mean_shape.numpy()
    flat = rest * [1.0, -1.0, 1.0] * (size / 3.0)
    return np.asarray(flat + np.array([size / 2, size / 2, 0.0]), np.float32)


@pytest.mark.parametrize(("coarse", "size"), [(1, 7), (8, 32), (64, 256), (64, 257)])
def test_growing_is_linear_interpolation_between_centres(coarse: int, size: int) -> None:
    values = torch.randn(2, coarse, coarse, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.interpolate(values[None], size=size, mode="bilinear")[0]
    torch.testing.assert_close(grow(values, size), expected, atol=1e-5, rtol=0)


def test_no_motion_changes_nothing() -> None:
    picture = face()[0]
    still = torch.zeros(2, 128, 128)
    torch.testing.assert_close(warp_sharp(picture, still), picture, atol=2e-6, rtol=0)


def test_what_is_warped_again_and_again_stays_sharp() -> None:
    picture = face()[0]
    motion = torch.full((2, 128, 128), 2.0 * 0.5 / 128)  # half a pixel along both axes, the worst
    plain, sharp = picture, picture
    for _ in range(4):
        plain, sharp = warp(plain, motion), warp_sharp(sharp, motion)
    truth = face(0, -2.0, -2.0)[0]
    inner = (..., slice(16, 112), slice(16, 112))
    errors = [float((moved - truth)[inner].square().mean()) for moved in (plain, sharp)]
    assert errors[1] < 0.1 * errors[0]


@settings(max_examples=15, deadline=None)
@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0))
def test_shifts_are_found_in_the_crops(x: float, y: float) -> None:
    earlier, later = face(0), face(0, x, y)
    motion = crop_motion(shrink(earlier)[0], shrink(later)[0]) * 64  # px
    found = motion[:, 8:24, 8:24].mean((1, 2))
    tolerance = 0.05 + 0.2 * float(np.hypot(x, y))
    assert abs(float(found[0]) + x) < tolerance
    assert abs(float(found[1]) + y) < tolerance


def test_a_flat_crop_does_not_move() -> None:
    flat = torch.zeros(3, 16, 16)
    assert torch.equal(crop_motion(flat, flat), torch.zeros(2, 16, 16))


def test_noise_moves_nothing() -> None:
    moved = []
    for seed in range(10):
        a, b = (
            face()[0] + 0.1 * torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(s)) for s in (seed, 99)
        )
        moved.append(float(crop_motion(shrink(a[None])[0], shrink(b[None])[0]).abs().max()) * 64)
    assert np.mean(moved) < 0.05  # px


@settings(max_examples=10, deadline=None)
@given(st.floats(-4.0, 4.0), st.floats(-4.0, 4.0), st.floats(0.95, 1.05))
def test_a_mesh_that_moves_as_a_whole_moves_the_whole_crop(x: float, y: float, scale: float) -> None:
    later = model_mesh(128)
    earlier = ((later - 63.5) * scale + 63.5 + [x, y, 0.0]).astype(np.float32)
    motion = mesh_motion([(earlier, later)], 128, CPU)[0] * 64
    rows, columns = np.mgrid[0:32, 0:32] * 4 + 1.5
    np.testing.assert_allclose(motion[0], (columns - 63.5) * (scale - 1) + x, atol=0.02)
    np.testing.assert_allclose(motion[1], (rows - 63.5) * (scale - 1) + y, atol=0.02)


def test_a_part_of_the_mesh_moves_its_part_of_the_crop() -> None:
    later = model_mesh(128)
    earlier = later.copy()
    low = later[:, 1] > np.quantile(later[:, 1], 0.85)
    earlier[low, 1] -= 4.0
    motion = mesh_motion([(earlier, later)], 128, CPU)[0] * 64
    x, y = later[low, 0].mean(), np.median(later[low, 1])
    assert float(motion[1, int(y / 4), int(x / 4)]) < -2.5
    brow = later[later[:, 1] < np.quantile(later[:, 1], 0.3)]
    assert abs(float(motion[1, int(brow[:, 1].mean() / 4), int(brow[:, 0].mean() / 4)])) < 1.0


def test_a_mesh_that_is_not_ours_moves_the_crop_as_a_whole() -> None:
    later = np.random.default_rng(0).uniform(20, 100, (30, 3)).astype(np.float32)
    earlier = later + np.array([2.0, 0.0, 0.0], np.float32)
    motion = mesh_motion([(earlier, later)], 128, CPU)[0] * 64
    np.testing.assert_allclose(motion[0], 2.0, atol=1e-3)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([64, 128, 256, 300]), st.booleans())
def test_kernels_draw_the_same_maps(seed: int, size: int, is_ours: bool) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(2):
        later = model_mesh(size) if is_ours else rng.uniform(0, size, (30, 3)).astype(np.float32)
        linear = np.eye(2) + rng.normal(0, 0.03, (2, 2))
        earlier = later + rng.normal(0, 1.0, later.shape)
        earlier[:, :2] = earlier[:, :2] @ linear + rng.normal(0, 3.0, 2)
        pairs.append((earlier.astype(np.float32), later))
    expected = mesh_motion_by_torch(pairs, size, CPU) * (size / 2)
    torch.testing.assert_close(mesh_motion(pairs, size, CPU) * (size / 2), expected, atol=1e-4, rtol=0)  # px


@pytest.mark.parametrize("made", [mesh_motion, mesh_motion_by_torch])
def test_a_mesh_on_a_line_moves_the_crop_as_a_whole(made: Callable[..., torch.Tensor]) -> None:
    later = np.column_stack([np.linspace(10, 100, 30), np.linspace(10, 100, 30), np.zeros(30)]).astype(np.float32)
    earlier = later + np.array([1.5, -2.0, 0.0], np.float32)
    motion = made([(earlier, later)], 128, CPU)[0] * 64
    np.testing.assert_allclose(motion[0], 1.5, atol=1e-3)
    np.testing.assert_allclose(motion[1], -2.0, atol=1e-3)


def test_no_pairs_are_no_maps() -> None:
    assert mesh_motion_by_torch([], 128, CPU).shape == (0, 2, 32, 32)
    assert mesh_motion([], 128, CPU).shape == (0, 2, 32, 32)


def test_means_over_squares_repeat_the_border() -> None:
    values = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(3))
    padded = torch.nn.functional.pad(values[None], (2, 2, 2, 2), mode="replicate")
    torch.testing.assert_close(smooth(values, 2, 1), torch.nn.functional.avg_pool2d(padded, 5, 1)[0])
    torch.testing.assert_close(smooth(values, 1, 2), box(box(values)))


def test_a_part_that_moves_by_itself_is_followed() -> None:
    size = 256
    earlier = face(3, size=size)
    moved = face(3, 2.0, -1.5, size=size)  # px, of cells of 4
    part = torch.zeros(size, size)
    part[:, size // 2 :] = 1.0
    later = earlier * (1 - part) + moved * part
    motion = cell_motion(shrink(earlier)[0], shrink(later)[0]) * (size / 2)
    still, goes = motion[:, 8:56, 4:20].mean((1, 2)), motion[:, 8:56, 44:60].mean((1, 2))
    assert float(still.abs().max()) < 0.15
    assert abs(float(goes[0]) + 2.0) < 0.6
    assert abs(float(goes[1]) - 1.5) < 0.5


def test_noise_moves_no_cell() -> None:
    a, b = (
        face(size=256)[0] + 0.1 * torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    motion = cell_motion(shrink(a[None])[0], shrink(b[None])[0]) * 128  # px
    assert float(motion.abs().mean()) < 0.25
    flat = torch.zeros(3, 64, 64)
    assert torch.equal(cell_motion(flat, flat), torch.zeros(2, 64, 64))
