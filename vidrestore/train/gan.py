"""Adversarial losses as CodeFormer's training has them: hinge, and a weight that follows the other losses' gradient."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adaptive_weight", "hinge_critic", "hinge_fooling"]


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator makes small: real scores above 1, those of restored pictures below -1.

    Args:
        real: scores of clean pictures, any shape.
        fake: scores of restored ones, detached from the generator.
    """
    return torch.relu(1.0 - real).mean() + torch.relu(1.0 + fake).mean()


def hinge_fooling(fake: Tensor) -> Tensor:
    """What the generator makes small: minus the mean score of its pictures."""
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, layer: Tensor, *, ceiling: float = 1.0) -> Tensor:
    """How strongly the adversarial loss may pull: as much as the reconstruction does, at most ``ceiling``.

    |gradient of the reconstruction loss| / (|gradient of the adversarial loss| + 1e-4), both with regard to the last
    layer, clamped to [0, ceiling], without gradient.

    Args:
        reconstruction: scalar; its graph is kept.
        adversarial: scalar; its graph is kept.
        layer: the weight of the last layer that is trained.

    Source:
        Esser et al. 2021, equation 7, with the released code's clamp at 1 instead of 10 000.
    """
    pull = torch.autograd.grad(reconstruction, layer, retain_graph=True)[0].norm()
    push = torch.autograd.grad(adversarial, layer, retain_graph=True)[0].norm()
    weight: Tensor = (pull / (push + 1e-4)).clamp(0.0, ceiling).detach()
    return weight
