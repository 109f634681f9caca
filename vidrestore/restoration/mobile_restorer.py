"""Our own ``mobile`` network as a restorer: the shape prior of each crop, then the network."""

from __future__ import annotations

import torch
from torch import Tensor

from vidrestore.morphable.prior import ShapePrior
from vidrestore.restoration.mobile import MOBILE_SIZE, PRIOR_SIZE, MobileNet, load_mobile
from vidrestore.types import CropContext

__all__ = ["MobileRestorer"]


class MobileRestorer:
    """``mobile`` with its shape prior.

    Args:
        device: where the networks go.
        precision: of the network; the shape prior stays in float32.
        w: fidelity weight in [0, 1] where no context gives one: 0 uses all of the prior, 1 none.
        network: None is the one that comes with the package.
        prior: None is the one that comes with the package.

    Attributes:
        is_pure: the same crops give the same result whatever came before: it may be padded and captured.

    Raises:
        WeightsError: a file of the package is missing or damaged.
    """

    is_pure = True

    def __init__(
        self,
        device: torch.device,
        precision: torch.dtype,
        w: float,
        *,
        network: MobileNet | None = None,
        prior: ShapePrior | None = None,
    ) -> None:
        self.size = MOBILE_SIZE
        self.device = device
        self.w = w
        self._precision = precision
        self._network = (network or load_mobile(device=device)).to(device).eval()
        self._prior = prior or ShapePrior(device)

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """(B, 3, 512, 512) restored RGB of (B, 3, 512, 512) in [-1, 1]; w is the context's."""
        coefficients = self._prior.coefficients(images)
        render = self._prior.picture(coefficients, PRIOR_SIZE)
        if context is None:
            w = torch.full((len(images),), self.w, device=images.device)
        else:
            w = torch.from_numpy(context.w).to(images)
        autocast = self._precision != torch.float32
        with torch.autocast(self.device.type, dtype=self._precision if autocast else torch.bfloat16, enabled=autocast):
            restored: Tensor = self._network(
                images.contiguous(memory_format=torch.channels_last), render, coefficients, w
            )
        return restored.float()
