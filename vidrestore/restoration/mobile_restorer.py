"""Our own ``mobile`` network as a restorer: the 3D face of each crop, then the network.

The 3D face is the track's where a tracker follows one: it is smoothed in time and costs nothing more. Faces without one
are looked at by the regressor.

The prior's share is (1 - w) squared, a quarter at the usual w of 0.5. With a share of a half 15 small real faces lost a
little in likeness (dlib's distance 0.396 to 0.398; with three tenths 0.394), for 0.005 of ST-LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vidrestore.morphable.prior import ShapePrior
from vidrestore.restoration.mobile import MOBILE_SIZE, NUM_COEFFICIENTS, PRIOR_SIZE, MobileNet, load_mobile
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
        is_pure: whether the same crops give the same result whatever came before, so that they may be padded and
            captured. They do not: what the tracks know of their faces counts.

    Raises:
        WeightsError: a file of the package is missing or damaged.
    """

    is_pure = False

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
        """(B, 3, 512, 512) restored RGB of (B, 3, 512, 512) in [-1, 1]; w and the 3D faces are the context's."""
        if context is None:
            w = torch.full((len(images),), self.w, device=images.device)
        else:
            # staged when it returns: does not wait for what was launched before
            w = torch.from_numpy(context.w).to(images.device, images.dtype, non_blocking=True)
        w = 1.0 - (1.0 - w).square()  # for the network, which was trained with the share itself
        images = images.contiguous(memory_format=torch.channels_last)
        if context is not None and bool((context.w == 1.0).all()):
            return self._under_autocast(self._network.without_prior, images)
        coefficients = self._coefficients(images, context)
        render = self._prior.picture(coefficients, PRIOR_SIZE)
        return self._under_autocast(self._network, images, render, coefficients, w)

    def _under_autocast(self, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        autocast = self._precision != torch.float32
        with torch.autocast(self.device.type, dtype=self._precision if autocast else torch.bfloat16, enabled=autocast):
            return run(*inputs).float()

    def _coefficients(self, images: Tensor, context: CropContext | None) -> Tensor:
        """(B, 257): the tracks' own, and the regressor's for those that have none."""
        tracks = () if context is None else context.tracks
        # another face model's coefficients say nothing here
        known = [track.coefficients if track.topology is None else None for track in tracks]
        missing = [i for i in range(len(images)) if not known or known[i] is None]
        if len(missing) == len(images):
            return self._prior.coefficients(images)
        rows = [torch.zeros(NUM_COEFFICIENTS) if row is None else torch.from_numpy(row).float() for row in known]
        coefficients = torch.stack(rows).to(images.device, non_blocking=True)
        if missing:
            coefficients[missing] = self._prior.coefficients(images[missing])
        return coefficients
