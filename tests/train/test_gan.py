"""Adversarial losses: their values, their signs, and the weight that follows the gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidrestore.train.gan import adaptive_weight, hinge_critic, hinge_fooling


def test_the_critic_is_content_beyond_the_margin() -> None:
    assert float(hinge_critic(torch.tensor([1.0, 4.0]), torch.tensor([-1.0, -3.0]))) == 0.0
    assert float(hinge_critic(torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 1.0]))) == pytest.approx(0.5 + 1.0)


def test_fooling_wants_high_scores() -> None:
    scores = torch.tensor([1.0, 3.0], requires_grad=True)
    hinge_fooling(scores).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [-0.5, -0.5]


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
