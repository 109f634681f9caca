"""The batched degradations on a GPU are those on the CPU, noise aside, which is another draw of the same kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidrestore.train.degrade import LEVELS, draw_recipe
from vidrestore.train.degrade_batch import apply_recipes


def pictures(count: int) -> torch.Tensor:
    """(B, 3, 64, 64) smooth pictures in [-1, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(-1, 1)


@pytest.mark.needs_cuda
def test_a_gpu_degrades_as_the_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # with 10 bits of mantissa, cuDNN's default, more coefficients would fall to the other side
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    levels = list(LEVELS.values())
    drawn = [draw_recipe(np.random.default_rng(i), levels[i % 3], crop=64) for i in range(12)]
    recipes = [replace(recipe, noise=0.0) for recipe in drawn]
    here = apply_recipes(pictures(12), recipes, range(12))
    there = apply_recipes(pictures(12).cuda(), recipes, range(12)).cpu()
    for a, b in zip(here, there, strict=True):
        # sums in another order: a coefficient between two levels may fall to either side
        assert float((a - b).square().mean()) < 4 * 10**-4.5  # 45 dB


@pytest.mark.needs_cuda
def test_noise_on_a_gpu_is_the_seeds() -> None:
    recipe = draw_recipe(np.random.default_rng(2), LEVELS["medium"], crop=64)
    first, same, other = (apply_recipes(pictures(1).cuda(), [recipe], [seed]) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
