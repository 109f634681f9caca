"""Where a held face went and how far it is held, by kernels, against the same in whole-picture operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.errors import KernelError
from vidrestore.kernels.follow import FollowOptions, follow_crop, shrink_crops
from vidrestore.restoration.motion import coarse_size, shrink
from vidrestore.restoration.steady import Steadiness, SteadyOptions, _lively, _Memory, _Now, _Place

OPTIONS = FollowOptions(
    weight=0.65, noise=1.2, slack=0.075, lively=0.8, open=2.0, noise_floor=0.004, noise_ceiling=0.06, light_step=0.016
)
"""Those of :class:`SteadyOptions` for a grid of 64."""
SIZES = [8, 36, 60, 128, 256, 260]


def parts(size: int, seed: int, shift: int = 2, noise: float = 0.02) -> tuple[_Memory, _Now]:
    """A textured crop that moved by whole pixels, grew brighter, and of which a part is covered; with a mesh's map."""
    rng = torch.Generator().manual_seed(seed)
    texture = functional.interpolate(torch.randn(1, 3, 12, 12, generator=rng), size, mode="bicubic") * 0.3
    moved = texture.roll((shift, 1), (2, 3))
    pictures = (part + noise * torch.randn(texture.shape, generator=rng) for part in (texture, moved))
    earlier, later = (shrink(picture)[0] for picture in pictures)
    coarse = coarse_size(size)
    later = later + 0.04
    later[:, coarse // 3 : coarse // 2, : coarse // 4] = 0.5
    points = np.array([[[0.38, 0.47], [0.62, 0.47], [0.5, 0.6], [0.4, 0.72], [0.6, 0.72]]]) * size
    mesh = 0.01 * torch.randn(2, coarse, coarse, generator=rng) if seed % 2 else None
    hole = (torch.rand(coarse, coarse, generator=rng) > 0.9).float() if seed % 3 == 0 else None
    place = _Place(0, 0, 1, None, points[0], None)
    now = _Now(place, texture[0], later, None, _lively(points, texture)[0], mesh, hole)
    return _Memory(place, 9, texture[0], earlier, torch.ones(()), None), now


def followed(
    memory: _Memory, now: _Now, options: FollowOptions = OPTIONS
) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    mesh, hole = (None if part is None else part.numpy() for part in (now.mesh_motion, now.hole))
    return follow_crop(memory.degraded.numpy(), now.degraded.numpy(), mesh, now.lively.numpy(), hole, options)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 10**6), st.integers(-5, 5), st.sampled_from([0.0, 0.02, 0.2]))
def test_kernels_give_what_whole_pictures_give(size: int, seed: int, shift: int, noise: float) -> None:
    memory, now = parts(size, seed, shift, noise)
    steadiness = Steadiness()
    maps, kept = steadiness.followed_by_torch(memory, now, 0.65)
    got_maps, got_kept = (part.numpy() for part in steadiness._followed(memory, now, 0.65)[:2])
    np.testing.assert_allclose(got_maps[:2] * (size / 2), maps[:2].numpy() * (size / 2), atol=2e-3)  # px
    np.testing.assert_allclose(got_maps[2], maps[2].numpy(), atol=2e-3)
    np.testing.assert_allclose(got_maps[3:], maps[3:].numpy(), atol=1e-4)
    np.testing.assert_allclose(got_kept, kept.numpy(), atol=1e-3)


def test_what_is_not_trusted_is_not_held() -> None:
    memory, now = parts(64, 4)
    maps, kept, _ = followed(memory, now, FollowOptions(0.0, 1.2, 0.075, 0.8, 2.0, 0.004, 0.06, 0.016))
    assert not maps[2].any()
    assert np.array_equal(kept, now.degraded.numpy())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["earlier", "now", "mesh"])
def test_what_is_not_finite_opens_the_gate_everywhere(where: str, bad: float) -> None:
    memory, now = parts(64, 1)
    assert now.mesh_motion is not None
    {"earlier": memory.degraded, "now": now.degraded, "mesh": now.mesh_motion}[where][1, 3, 5] = bad
    maps, kept, is_sound = followed(memory, now)
    assert not is_sound
    assert not maps.any()
    assert np.array_equal(kept, now.degraded.nan_to_num(0.0, 0.0, 0.0).numpy())


def test_holes_are_never_held() -> None:
    memory, now = parts(64, 3)
    assert now.hole is not None
    maps, _, is_sound = followed(memory, now)
    assert is_sound
    hole = now.hole.numpy() > 0.0
    assert not maps[2][hole].any()
    assert maps[2][~hole].any()


def test_options_of_the_step_reach_the_kernel() -> None:
    memory, now = parts(256, 0)
    for options in (SteadyOptions(), SteadyOptions(noise=2.0, slack_px=0.6, lively=0.3, open=3.0, light_step=0.05)):
        steadiness = Steadiness(options)
        found = steadiness._followed(memory, now, 0.5)[0]
        torch.testing.assert_close(found, steadiness.followed_by_torch(memory, now, 0.5)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "coarse"), [(4, 1), (9, 3), (64, 16), (256, 64), (320, 64)])
def test_cells_are_means(size: int, coarse: int) -> None:
    crops = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
    means: Tensor = functional.adaptive_avg_pool2d(crops, coarse)
    np.testing.assert_allclose(shrink_crops(crops.numpy(), coarse), means.numpy(), atol=1e-6)


def test_what_does_not_fit_is_an_error() -> None:
    crop, grid = np.zeros((3, 8, 8), np.float32), np.zeros((8, 8), np.float32)
    with pytest.raises(KernelError, match="do not fit"):
        follow_crop(crop[:2], crop, None, grid, None, OPTIONS)
    with pytest.raises(KernelError, match="do not fit"):
        follow_crop(crop, crop, crop, grid, None, OPTIONS)
    with pytest.raises(KernelError, match="float32"):
        follow_crop(crop, crop.astype(np.float64), None, grid, None, OPTIONS)
    with pytest.raises(KernelError, match="no 3 cells"):
        shrink_crops(crop[None], 3)
    with pytest.raises(KernelError, match="contiguous"):
        shrink_crops(crop[None].transpose(0, 1, 3, 2), 4)
