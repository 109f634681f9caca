"""The shape prior of a crop: its 3D face as coefficients and as a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from vidrestore.morphable.camera import Camera
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.regressor import ShapeRegressor, load_regressor
from vidrestore.morphable.render import render

__all__ = ["ShapePrior"]


class ShapePrior:
    """Regressor, model and renderer in one.

    Args:
        device: where the networks are.
        regressor: None is the one that comes with the package.
        model: None is ``vr468``.

    Raises:
        WeightsError: a file of the package is missing or damaged.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        regressor: ShapeRegressor | None = None,
        model: MorphableModel | None = None,
    ) -> None:
        self.regressor = regressor or load_regressor(device=device)
        self.model = (model or load_vr468()).to(device)

    @torch.inference_mode()
    def coefficients(self, crops: Tensor) -> Tensor:
        """(B, 257) of (B, 3, S, S) RGB crops in [-1, 1]."""
        found: Tensor = self.regressor(crops)
        return found

    @torch.inference_mode()
    def picture(self, coefficients: Tensor, size: int) -> Tensor:
        """The 3D faces as the crops' camera sees them.

        Args:
            coefficients: (B, 257).
            size: S, side of the picture in pixels.

        Returns:
            (B, 4, S, S): RGB in [-1, 1], -1 beside the face, and the face's mask, 0 or 1.
        """
        face = self.model(coefficients, Camera().scaled(size))
        colours, mask = render(face.points_px, face.depth, self.model.triangles, face.colours, size)
        return torch.cat([colours.clamp(0.0, 255.0) / 127.5 - 1.0, mask[:, None].to(colours)], 1)
