"""The losses: zero where they should be, and each sees what it is there for."""

from __future__ import annotations

import pytest
import torch

from vidrestore.errors import WeightsError
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.train.losses import absolute_error, laplacian_error, perceptual_error, unsteadiness


def pictures(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_equal_pictures_cost_nothing() -> None:
    assert float(absolute_error(pictures(), pictures())) == 0.0
    assert float(laplacian_error(pictures(), pictures())) == 0.0


def test_an_offset_is_seen_by_the_coarsest_band_only() -> None:
    assert float(absolute_error(pictures() + 0.1, pictures())) == pytest.approx(0.1, abs=1e-6)
    assert float(laplacian_error(pictures() + 0.1, pictures())) == pytest.approx(0.1, abs=1e-5)


def test_a_checkerboard_is_seen_by_the_finest_band_only() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    board = ((x + y) % 2 * 2 - 1) * 0.1
    zero = torch.zeros(1, 3, 64, 64)
    assert float(laplacian_error(zero + board, zero)) == pytest.approx(0.1, abs=1e-6)


def test_unsteadiness_compares_neighbours() -> None:
    a, b = pictures(2)
    assert float(unsteadiness(torch.stack([a, a, b, b]))) == 0.0
    assert float(unsteadiness(torch.stack([a, b, a, b]))) == pytest.approx(float((a - b).abs().mean()))


def test_the_perceptual_error_looks_at_its_window_only() -> None:
    try:
        metric = ShiftTolerantLpips("alex")
    except WeightsError as error:
        pytest.skip(str(error))
    reference, restored = pictures(1), pictures(1)
    restored[..., 40:, :] = 0.0
    restored.requires_grad_()
    outside = perceptual_error(metric, restored, reference, corner=(0, 0), side=40)
    inside = perceptual_error(metric, restored, reference, corner=(24, 0), side=40)
    assert float(outside.detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(inside.detach()) > 1e-3
    inside.backward()
    assert restored.grad is not None
    assert float(restored.grad[..., :24, :].abs().max()) == 0.0
    assert float(restored.grad[..., 44:, :40].abs().max()) > 0.0
