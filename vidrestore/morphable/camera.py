"""The pinhole camera that looks at a morphable face."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Camera"]


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera on the z axis at ``distance``, looking down -z at the origin, into a square picture.

    The defaults are the published ones (the code of D3DFR): a face of ordinary size fills a crop of 224 pixels.

    Convention:
        World: x right, y up, z towards the camera; unit of the morphable model (decimetres for BFM 2009).
        Pixels: as everywhere in this package, x right, y down, (0, 0) is the *centre* of the top-left pixel. The
        published renderer counts from the picture's corner and puts pixel centres at +0.5: its u and v are these plus
        0.5, and its centre 112 is ``centre_px`` + 0.5. Both name the same place on the picture.
    """

    focal: float = 1015.0
    """Focal length in pixels."""
    size: int = 224
    """Side of the picture in pixels."""
    distance: float = 10.0
    """From the origin to the camera, in the model's unit."""

    def __post_init__(self) -> None:
        if not self.focal > 0 or self.size < 1 or not self.distance > 0:
            raise ValueError(f"focal, size and distance must be positive, got {self}")

    @property
    def centre_px(self) -> float:
        """x and y of the pixel where the optical axis goes through."""
        return 0.5 * self.size - 0.5

    def scaled(self, size: int) -> Camera:
        """The same view in a picture of another size: its edges stay where they are."""
        return replace(self, focal=self.focal * size / self.size, size=size)

    def project(self, vertices: Tensor) -> tuple[Tensor, Tensor]:
        """Where points in the world are seen.

        Args:
            vertices: (..., 3), world.

        Returns:
            (..., 2) pixels, and (...) depth: the distance from the camera along its axis, in the model's unit. Points
            at depth 0 or behind the camera have no meaningful pixel; the renderer drops their triangles.
        """
        depth = self.distance - vertices[..., 2]
        scale = self.focal / depth
        x = self.centre_px + vertices[..., 0] * scale
        y = self.centre_px - vertices[..., 1] * scale
        return torch.stack([x, y], dim=-1), depth
