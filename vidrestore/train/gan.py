"""Adversarial losses: hinge, a weight that follows the other losses' gradient (CodeFormer), a patch critic with R1."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = ["PatchCritic", "adaptive_weight", "critic_optimiser", "hinge_critic", "hinge_fooling", "teach_critic"]


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator makes small: real scores above 1, those of restored pictures below -1.

    Args:
        real: scores of clean pictures, any shape.
        fake: scores of restored ones, detached from the generator.
    """
    return torch.relu(1.0 - real).mean() + torch.relu(1.0 + fake).mean()


def hinge_fooling(fake: Tensor, *, per_picture: bool = False) -> Tensor:
    """What the generator makes small: minus the mean score of its pictures, of all or, (B,), of each."""
    return -fake.flatten(1).mean(1) if per_picture else -fake.mean()


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


class PatchCritic(nn.Module):
    """Patch discriminator of ``compact`` and ``mobile``: four strided convolutions, no normalisation, a map of scores.

    Args:
        width: channels of the first convolution; each further one has twice as many.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 8 * width)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 1, H / 16, W / 16) scores of (B, 3, H, W) pictures in [-1, 1]."""
        scores: Tensor = self.layers(pictures)
        return scores


def critic_optimiser(critic: nn.Module) -> torch.optim.Adam:
    """Adam as StyleGAN's critics are trained: without momentum."""
    return torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.0, 0.99))


def teach_critic(
    critic: nn.Module, optimiser: torch.optim.Optimizer, clean: Tensor, restored: Tensor, r1: float
) -> dict[str, Tensor]:
    """One step of the critic: hinge loss, and R1 on the clean pictures.

    Args:
        critic: in float32; R1 is a difference of gradients, which bfloat16 is too coarse for.
        optimiser: of its parameters.
        clean: (B, 3, H, W) in [-1, 1].
        restored: the same shape, detached from the generator.
        r1: weight of half the mean squared length of the scores' gradient (Mescheder et al. 2018, equation 9).

    Returns:
        For the log: ``critic``, the hinge loss, and ``r1``, the squared length, both without gradient.
    """
    real = clean.detach().requires_grad_(True)
    scores = critic(real)
    slope = torch.autograd.grad(scores.sum(), real, create_graph=True)[0].square().sum((1, 2, 3)).mean()
    hinge = hinge_critic(scores, critic(restored))
    optimiser.zero_grad(set_to_none=True)
    (hinge + 0.5 * r1 * slope).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return {"critic": hinge.detach(), "r1": slope.detach()}
