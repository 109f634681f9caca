"""The step that holds a crop, in one pass, against the same in whole-picture operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vidrestore.errors import KernelError
from vidrestore.kernels.launch import limit_threads, thread_limit
from vidrestore.kernels.steady import hold_crop
from vidrestore.restoration.motion import coarse_size, hold, hold_by_torch


def parts(size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Earlier and present crop, motion of some pixels, weights with a hole, light."""
    rng = torch.Generator().manual_seed(seed)
    coarse = coarse_size(size)
    earlier, now = torch.rand(2, 3, size, size, generator=rng) - 0.5
    motion = torch.randn(2, coarse, coarse, generator=rng) * (4.0 / size)
    weights = torch.rand(coarse, coarse, generator=rng)
    weights[coarse // 2 :, : coarse // 2] = 0.0
    return earlier, now, motion, weights, 0.1 * torch.randn(3, coarse, coarse, generator=rng)


def held(earlier: Tensor, now: Tensor, motion: Tensor, weights: Tensor, light: Tensor) -> Tensor:
    made, shown, before = torch.empty_like(now), torch.empty_like(now), now.clone()
    is_finite = hold(earlier, now, torch.cat([motion, weights[None], light]), made, shown)
    assert torch.equal(made.nan_to_num(7.0), shown.nan_to_num(7.0))
    assert is_finite == bool(made.isfinite().all())
    assert torch.equal(now, before)
    return made


def in_whole_pictures(earlier: Tensor, now: Tensor, motion: Tensor, weights: Tensor, light: Tensor) -> Tensor:
    made = torch.empty_like(now)
    hold_by_torch(earlier, now, torch.cat([motion, weights[None], light]), made, torch.empty_like(now))
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 17, 31, 128, 257])
def test_one_pass_gives_what_whole_pictures_give(size: int) -> None:
    given = parts(size)
    # white noise changes by 1 within a pixel: what places are rounded by, 1e-5 pixels, shows
    torch.testing.assert_close(held(*given), in_whole_pictures(*given), atol=1e-4, rtol=0)


def test_weight_zero_is_exactly_the_present_crop_whatever_was_before() -> None:
    earlier, now, motion, weights, light = parts(64)
    earlier.fill_(torch.nan)
    assert torch.equal(held(earlier, now, motion, torch.zeros_like(weights), light), now)


def test_a_motion_that_is_no_number_reads_nothing_outside() -> None:
    earlier, now, motion, weights, light = parts(64)
    for bad in (torch.nan, torch.inf, -torch.inf, 1e30):
        result = held(earlier, now, torch.full_like(motion, bad), (weights > 0).float(), light)
        hole = weights == 0
        inside = hole.repeat_interleave(4, 0).repeat_interleave(4, 1)
        inside[:34] = inside[:, 30:] = False  # away from cells with a weight
        assert torch.equal(result[:, inside], now[:, inside])


def test_bands_change_nothing() -> None:
    given = parts(257, seed=3)
    before = thread_limit()
    made = []
    try:
        for threads in (1, 4):
            limit_threads(threads)
            made.append(held(*given))
    finally:
        limit_threads(before)
    assert torch.equal(made[0], made[1])


def test_what_does_not_fit_is_an_error() -> None:
    crop, maps = np.zeros((3, 8, 8), np.float32), np.zeros((6, 2, 2), np.float32)
    with pytest.raises(KernelError, match="do not fit"):
        hold_crop(crop, crop[:, :4], maps, sharpness=0.6)
    with pytest.raises(KernelError, match="do not fit"):
        hold_crop(crop, crop, maps[:5], sharpness=0.6)
    with pytest.raises(KernelError, match="float32"):
        hold_crop(crop, crop.astype(np.float64), maps, sharpness=0.6)
    with pytest.raises(KernelError, match="contiguous"):
        hold_crop(crop.transpose(0, 2, 1), crop, maps, sharpness=0.6)
