"""The losses: zero where they should be, and each sees what it is there for."""

from __future__ import annotations

import pytest
import torch

from vidrestore.errors import WeightsError
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.train.losses import (
    absolute_error,
    damage_share,
    laplacian_error,
    perceptual_error,
    sample_weights,
    unsteadiness,
)


def pictures(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_equal_pictures_cost_nothing() -> None:
    for softness in (0.0, 0.05):
        assert absolute_error(pictures(), pictures(), softness=softness).tolist() == [0.0, 0.0]
        assert laplacian_error(pictures(), pictures(), softness=softness).tolist() == [0.0, 0.0]


def test_an_offset_is_seen_by_the_coarsest_band_only() -> None:
    assert absolute_error(pictures() + 0.1, pictures()).tolist() == pytest.approx([0.1, 0.1], abs=1e-6)
    assert laplacian_error(pictures() + 0.1, pictures()).tolist() == pytest.approx([0.1, 0.1], abs=1e-5)


def test_a_checkerboard_is_seen_by_the_finest_band_only() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    board = ((x + y) % 2 * 2 - 1) * 0.1
    zero = torch.zeros(1, 3, 64, 64)
    assert float(laplacian_error(zero + board, zero)) == pytest.approx(0.1, abs=1e-6)


def test_softness_counts_squares_below_and_sizes_above() -> None:
    zero = torch.zeros(1, 3, 16, 16)
    below = float(absolute_error(zero + 0.002, zero, softness=0.1))
    assert below == pytest.approx(0.002**2 / 0.2, rel=1e-2)
    above = float(absolute_error(zero + 5.0, zero, softness=0.1))
    assert above == pytest.approx(4.9, abs=1e-2)


def test_a_worse_sample_weighs_less() -> None:
    weights = sample_weights(torch.tensor([0.0, 0.014, 0.1]))
    assert weights[0] > weights[1] > weights[2] > 0
    assert float(weights[1]) == pytest.approx(1.0)


def test_unsteadiness_compares_neighbours() -> None:
    a, b = pictures(2)
    assert float(unsteadiness(torch.stack([a, a, b, b]))) == 0.0
    assert float(unsteadiness(torch.stack([a, b, a, b]))) == pytest.approx(float((a - b).abs().mean()))


def test_unsteadiness_compares_what_two_windows_share() -> None:
    picture = pictures(1)[0]
    first, second = picture[:, 1:33, 4:36], picture[:, 3:35, 0:32]
    offsets = ((1, 4), (3, 0))
    assert float(unsteadiness(torch.stack([first, second]), offsets)) == 0.0
    assert float(unsteadiness(torch.stack([first, second]), ((1, 4), (3, 1)))) > 0.1
    edge = second.clone()
    edge[:, :, :4] += 1.0  # beyond what both show, but for the margin
    assert float(unsteadiness(torch.stack([first, edge]), offsets)) == 0.0


def test_clean_faces_have_no_share_of_damage() -> None:
    shares = damage_share(torch.tensor([0.0, 0.006, 0.06]))
    assert shares.tolist() == pytest.approx([0.0, 0.5, 10 / 11])


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
