"""Faces of black-and-white clips stay black and white, whatever colours a network gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from vidrestore.restoration.restorer import Restorer
from vidrestore.types import CropContext

__all__ = ["GreyRestorer", "without_colour"]

_WEIGHTS = (0.2989, 0.5870, 0.1140)  # as published
_EPSILON = 1e-5  # added to variances, as published


class GreyRestorer:
    """A network whose results lose their colour and take brightness, contrast and tint of the crop they were made of.

    Args:
        restorer: the network.
    """

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self.size = restorer.size
        self.device = restorer.device
        self.is_pure = bool(getattr(restorer, "is_pure", False))
        """As the network."""

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """See :class:`Restorer`."""
        return without_colour(self._restorer.restore(images, context), images)


def without_colour(restored: Tensor, degraded: Tensor) -> Tensor:
    """Grey of ``restored``, with mean and deviation of each channel of ``degraded``.

    Args:
        restored: (B, 3, S, S) in [-1, 1].
        degraded: (B, 3, S, S) in [-1, 1].

    Source:
        The published CodeFormer script (face_restoration_helper.py): grey, then AdaIN per channel with the population
        variance of 0..255 values plus 1e-5.
    """
    weights = torch.tensor(_WEIGHTS, device=restored.device, dtype=restored.dtype).reshape(1, 3, 1, 1)
    grey = (restored * weights).sum(1, keepdim=True)
    epsilon = _EPSILON / 127.5**2  # here the range is [-1, 1]
    variance, mean = torch.var_mean(grey, dim=(2, 3), correction=0, keepdim=True)
    wanted_variance, wanted_mean = torch.var_mean(degraded, dim=(2, 3), correction=0, keepdim=True)
    matched = (grey - mean) / (variance + epsilon).sqrt() * (wanted_variance + epsilon).sqrt() + wanted_mean
    return matched.clamp(-1.0, 1.0)
