"""The face's shape, read off a crop and drawn into it: what SGPN is given beside the degraded picture.

Figure:
    crop (B, 3, S, S) -> view (B, 3, 224, 224): moved and scaled so that the face is as large as the camera expects
    -> regressor: 257 coefficients -> mesh -> picture of 224 pixels -> back into the crop (B, 3, S, S), background -1.

Source:
    Zhu et al. 2022 and the released code: bilinear both ways, the colours clamped to 0..255, picture and mask warped
    back each for itself and then multiplied.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from vidrestore.geometry import compose, invert, scale_about_pixel_edges
from vidrestore.morphable.align import CROP_SIZE, d3dfr_from_crop, warp
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.model import Face, MorphableModel
from vidrestore.morphable.render import render

__all__ = ["ShapePrior"]


class ShapePrior(nn.Module):
    """Regressor, morphable model and camera.

    Args:
        regressor: (B, 3, view, view) RGB in [0, 1] -> (B, 257).
        model: the mesh; it has buffers and no parameters.
        camera: its size is the view's; the default is the published one.
    """

    def __init__(self, regressor: nn.Module, model: MorphableModel, camera: Camera | None = None) -> None:
        super().__init__()
        self.regressor = regressor
        self.model = model
        self.camera = camera or Camera()

    def maps(self, points: ArrayLike, size: int) -> Tensor:
        """Where the regressor looks: (B, 2, 3) float64 view_from_crop.

        Args:
            points: (B, 5, 2) eyes, nose and mouth corners in pixels of crops of side ``size``.
            size: S.

        Raises:
            ValueError: points that coincide.
        """
        view = scale_about_pixel_edges(self.camera.size / CROP_SIZE)
        maps = [compose(view, d3dfr_from_crop(face, size)) for face in np.asarray(points, np.float64)]
        return torch.from_numpy(np.stack(maps))

    def read(self, images: Tensor, maps: Tensor) -> Tensor:
        """Coefficients of the faces in crops, (B, 3, S, S) RGB in [-1, 1] -> (B, 257) float32."""
        view = warp(images.float(), maps, self.camera.size)
        coefficients: Tensor = self.regressor(view * 0.5 + 0.5)  # beyond the crop: mid-grey, as published
        return coefficients.float()

    def draw(self, coefficients: Tensor, maps: Tensor, size: int) -> Tensor:
        """The faces of (B, 257) coefficients, drawn into crops: (B, 3, size, size) RGB in [-1, 1], background -1."""
        return self.draw_face(self.model(coefficients.float(), self.camera), maps, size)

    def draw_face(self, face: Face, maps: Tensor, size: int) -> Tensor:
        """As :meth:`draw`, of meshes that are there already."""
        picture, mask = render(face.points_px, face.depth, self.model.triangles, face.colours, self.camera.size)
        layers = torch.cat([picture.clamp(0.0, 255.0) / 255.0, mask[:, None].to(picture)], 1)
        back = warp(layers, _inverses(maps), size)
        return back[:, :3] * back[:, 3:] * 2.0 - 1.0

    def points_in_crop(self, face: Face, maps: Tensor) -> Tensor:
        """The 68 landmarks of meshes in crop pixels, (B, 68, 2)."""
        points = self.model.landmarks3d(face.points_px)
        back = _inverses(maps).to(points)
        return points @ back[:, :, :2].transpose(1, 2) + back[:, None, :, 2]


def _inverses(maps: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([invert(m) for m in maps.numpy()]))
