"""SGPN's losses on the 3D face: landmarks and mesh.

Paper:
    Zhu et al.: Blind Face Restoration via Integrating Face Shape and Generative Priors, CVPR 2022: a landmark loss
    between the 68 points of the output's and the target's mesh, and a mesh loss over the positions and colours of all
    vertices, of the regressor on the degraded picture against the pretrained one on the clean picture; both with weight
    100. Chosen here, as the paper's text leaves it open:

    - Squared differences. Positions are in the model's unit (decimetres for BFM 2009), so a point that is 3 mm off
      counts 100 * 0.03² / 3 = 0.03, as much as 0.03 of absolute error in the picture; absolute differences would count
      30 times as much and drown it.
    - Colours over 255, lit: the light is part of what the regressor has to see through the degradation.
    - The output is looked at with the *pretrained* regressor, which does not learn: one that learned could satisfy the
      loss by reading faces badly.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from vidrestore.morphable.model import MorphableModel

__all__ = ["MeshErrors", "landmark_loss", "mesh_loss"]

Measure = Literal["squared", "absolute"]

COLOUR_RANGE = 255.0


class MeshErrors(NamedTuple):
    """The two parts of the mesh loss, scalars."""

    positions: Tensor
    colours: Tensor


def landmark_loss(model: MorphableModel, coefficients: Tensor, target: Tensor, measure: Measure = "squared") -> Tensor:
    """Mean difference of the 68 landmarks in the camera's world, scalar.

    Args:
        model: the mesh.
        coefficients: (B, 257) of the restored faces; has the gradient.
        target: (B, 257) of the clean faces; gets none.
        measure: of the differences.
    """
    points = model.landmarks3d(model(coefficients).vertices)
    wanted = model.landmarks3d(model(target.detach()).vertices)
    return _mean(points - wanted, measure)


def mesh_loss(model: MorphableModel, coefficients: Tensor, target: Tensor, measure: Measure = "squared") -> MeshErrors:
    """Mean differences of all vertices' positions and lit colours.

    Args:
        model: the mesh.
        coefficients: (B, 257) of the degraded faces; has the gradient.
        target: (B, 257) of the clean faces; gets none.
        measure: of the differences.
    """
    face, wanted = model(coefficients), model(target.detach())
    positions = _mean(face.vertices - wanted.vertices, measure)
    return MeshErrors(positions, _mean((face.colours - wanted.colours) / COLOUR_RANGE, measure))


def _mean(difference: Tensor, measure: Measure) -> Tensor:
    return difference.square().mean() if measure == "squared" else difference.abs().mean()
