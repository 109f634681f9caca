"""Landmark and mesh losses of restored faces: what ``vr468``'s regressor reads off them, against what it should.

The regressor does not learn here: one that did could satisfy the loss by reading badly (as in
:mod:`vidrestore.train.shape_losses`, where SGPN's own losses are).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidrestore.morphable.camera import Camera
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.regressor import ShapeRegressor

__all__ = ["ShapeErrors", "ShapeJudge"]

_EYES = (36, 45)  # outer corners, of the 68 landmarks


class ShapeErrors(NamedTuple):
    """(B,) each."""

    landmark: Tensor
    """Mean distance of the 68 landmarks in the picture, in shares of the distance between the eyes' outer corners."""
    mesh: Tensor
    """Mean distance of all vertices in space, in the same unit, and a tenth of the mean absolute difference of their
    lit colours, 0 to 1: places are off by hundredths where colours are off by tenths."""


class ShapeJudge:
    """Reads faces with a regressor that stays as it is; the gradient flows into the pictures.

    Args:
        regressor: in evaluation mode.
        model: ``vr468``, on the same device.
    """

    def __init__(self, regressor: ShapeRegressor, model: MorphableModel) -> None:
        self.regressor, self.model = regressor.eval().requires_grad_(False), model

    def errors(self, restored: Tensor, clean: Tensor, points: Tensor | None = None) -> ShapeErrors:
        """How far the restored faces' shape is from the true one.

        Args:
            restored: (B, 3, S, S) whole crops in [-1, 1], aligned as FFHQ's.
            clean: the same shape; no gradient flows into it.
            points: (B, 468, 2 or more) the teacher's points in pixels of the crop, which the landmarks are compared
                with. None compares them with what the regressor reads off the clean face, as the mesh is.
        """
        camera = Camera().scaled(restored.shape[-1])
        with torch.no_grad():
            wanted = self.model(self.regressor(clean), camera)
            target = wanted.points_px if points is None else points[..., :2]
            target = self.model.landmarks3d(target)  # (B, 68, 2)
            eyes = self.model.landmarks3d(wanted.vertices)[:, list(_EYES)]
            unit = (eyes[:, 0] - eyes[:, 1]).norm(dim=-1)  # in space, so that a profile's is not short
            unit_px = unit * camera.focal / wanted.depth.mean(1)
        face = self.model(self.regressor(restored), camera)
        landmark = _length(self.model.landmarks3d(face.points_px) - target).mean(1) / unit_px
        places = _length(face.vertices - wanted.vertices).mean(1) / unit
        colours = (face.colours - wanted.colours).abs().mean((1, 2)) / 255.0
        return ShapeErrors(landmark, places + 0.1 * colours)


def _length(difference: Tensor) -> Tensor:
    return (difference.square().sum(-1) + 1e-8).sqrt()  # the root of 0 has no slope
