"""Missing parts of faces made up: CodeFormer's inpainting variant behind the :class:`Restorer` protocol.

Weights:
    ``codeformer_inpainting.pth``, called as its authors do: holes are painted pure white, w = 1, no AdaIN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidrestore.restoration.codeformer import INPAINTING, CodeFormer
from vidrestore.types import CropContext

__all__ = ["InpaintingRestorer"]

_TOUCHED = 1e-3  # a crop pixel with more of a hole under it than this counts as missing
_WHITE = 1.0 - 1e-6


class InpaintingRestorer:
    """Draws whole faces for crops with holes; those without any come back as they are, at no cost.

    Args:
        network: the inpainting variant with its weights.
        device: where it goes.
        precision: of its generator and fusion.
    """

    is_pure = True
    """The same crops give the same result, whatever came before."""

    def __init__(self, network: CodeFormer, device: torch.device, precision: torch.dtype) -> None:
        self.size = network.dims.autoencoder.image_size
        self.device = device
        self._network = network.to_precision(precision).to(device).eval().requires_grad_(False)

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """See :class:`Restorer`; without a context the pure white pixels are the holes, as published."""
        if context is None:
            missing = (images >= _WHITE).all(1, keepdim=True)
        elif context.holes is None:
            return images
        else:
            missing = torch.from_numpy(context.holes).to(images.device).unsqueeze(1) > _TOUCHED
        has_holes = missing.flatten(1).any(1)
        if not bool(has_holes.any()):
            return images
        shown = torch.where(missing, torch.ones_like(images), images)[has_holes]
        restored = images.clone()
        drawn = self._network(shown, INPAINTING.w, adain=INPAINTING.matches_statistics)
        restored[has_holes] = drawn.float().clamp(-1.0, 1.0)
        return restored
