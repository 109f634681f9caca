"""The 257 numbers that describe a face in a picture, in their published order."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["COEFFICIENTS", "WIDTHS", "Coefficients", "join", "split"]

WIDTHS = {"identity": 80, "expression": 64, "texture": 80, "angles": 3, "lighting": 27, "translation": 3}
"""How many numbers of each kind, in the order in which the published regressor (D3DFR) gives them."""

COEFFICIENTS = sum(WIDTHS.values())


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The numbers of B faces, by kind."""

    identity: Tensor
    """(B, 80): who it is. Standard deviations of the model's population."""
    expression: Tensor
    """(B, 64): what the face does. Standard deviations."""
    texture: Tensor
    """(B, 80): the colours of the skin. Standard deviations."""
    angles: Tensor
    """(B, 3): rotation about x, y and z, radians (:meth:`MorphableModel.rotation`)."""
    lighting: Tensor
    """(B, 27): nine spherical harmonics for red, then green, then blue; 0.8 is still to be added to the constants."""
    translation: Tensor
    """(B, 3): place of the face's origin; x right, y up, z towards the camera, in the model's unit."""

    def __post_init__(self) -> None:
        batch = self.identity.shape[0]
        for name, width in WIDTHS.items():
            shape = tuple(getattr(self, name).shape)
            if shape != (batch, width):
                raise ValueError(f"{name} must be ({batch}, {width}), got {shape}")

    def __repr__(self) -> str:
        return f"Coefficients({self.identity.shape[0]} faces, {self.identity.dtype}, {self.identity.device})"


def split(coefficients: Tensor) -> Coefficients:
    """Names the columns of (B, 257); the parts are views.

    Raises:
        ValueError: another shape.
    """
    if coefficients.ndim != 2 or coefficients.shape[1] != COEFFICIENTS:
        raise ValueError(f"coefficients must be (B, {COEFFICIENTS}), got {tuple(coefficients.shape)}")
    return Coefficients(*torch.split(coefficients, list(WIDTHS.values()), dim=1))


def join(coefficients: Coefficients) -> Tensor:
    """The inverse of :func:`split`, (B, 257)."""
    return torch.cat([getattr(coefficients, field.name) for field in fields(coefficients)], dim=1)
