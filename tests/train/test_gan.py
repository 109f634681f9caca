"""Adversarial losses: their values, their signs, and the weight that follows the gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidrestore.train.gan import (
    PatchCritic,
    adaptive_weight,
    critic_optimiser,
    hinge_critic,
    hinge_fooling,
    teach_critic,
)


def test_the_critic_is_content_beyond_the_margin() -> None:
    assert float(hinge_critic(torch.tensor([1.0, 4.0]), torch.tensor([-1.0, -3.0]))) == 0.0
    assert float(hinge_critic(torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 1.0]))) == pytest.approx(0.5 + 1.0)


def test_fooling_wants_high_scores() -> None:
    scores = torch.tensor([1.0, 3.0], requires_grad=True)
    hinge_fooling(scores).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [-0.5, -0.5]
    maps = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    assert hinge_fooling(maps, per_picture=True).tolist() == [-2.0, -6.0]


def losses(pull: float, push: float) -> tuple[torch.Tensor, torch.Tensor, nn.Parameter]:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    return pull * weight.sum(), push * weight.sum(), weight


@pytest.mark.parametrize(("pull", "push", "expected"), [(0.2, 1.0, 0.2), (3.0, 1.0, 1.0), (1.0, 4.0, 0.25)])
def test_the_weight_is_the_ratio_of_gradients_up_to_one(pull: float, push: float, expected: float) -> None:
    weight = adaptive_weight(*losses(pull, push))
    assert float(weight) == pytest.approx(expected, rel=1e-3)
    assert not weight.requires_grad


def test_no_push_gives_no_infinite_weight() -> None:
    assert float(adaptive_weight(*losses(1e-5, 0.0))) == pytest.approx(1e-5 * 2**0.5 / 1e-4, rel=1e-3)


def test_the_graphs_are_kept() -> None:
    pull, push, weight = losses(0.5, 1.0)
    (pull + adaptive_weight(pull, push, weight) * push).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == pytest.approx([1.0, 1.0], rel=1e-3)


def taught(r1: float, steps: int = 12) -> tuple[list[dict[str, float]], PatchCritic]:
    """A critic that learns to tell bright pictures from dark ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = PatchCritic(8)
    optimiser = critic_optimiser(critic)
    clean, restored = torch.full((2, 3, 32, 32), 0.5), torch.full((2, 3, 32, 32), -0.5)
    values = [teach_critic(critic, optimiser, clean, restored, r1) for _ in range(steps)]
    return [{name: float(value) for name, value in one.items()} for one in values], critic


def test_a_critic_learns_to_tell_pictures_apart() -> None:
    values, critic = taught(0.0)
    assert values[-1]["critic"] < values[0]["critic"]
    with torch.no_grad():
        bright, dark = (float(critic(torch.full((1, 3, 32, 32), value)).mean()) for value in (0.5, -0.5))
    assert bright > dark


def test_r1_keeps_the_scores_flat_at_clean_pictures() -> None:
    assert taught(1000.0)[0][-1]["r1"] < 0.5 * taught(0.0)[0][-1]["r1"]
