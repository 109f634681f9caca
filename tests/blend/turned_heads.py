"""The mean face of ``vr468`` at any turn, as a crop's mesh."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.morphable.camera import Camera
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import MorphableModel


@cache
def model() -> MorphableModel:
    return load_vr468()


@cache
def head(yaw: float = 0.0, pitch: float = 0.0, size: int = 256, open_mouth: float = 0.0) -> NDArray[np.float32]:
    """(468, 3) in crop pixels; angles in degrees, ``open_mouth`` as a share of the face's height.

    The head turns about its middle, so that the face stays in the crop as an aligned one does.
    """
    shape = model().mean_shape[None].clone()
    if open_mouth:
        below = shape[..., 1] < -0.42
        shape[..., 1] -= open_mouth * below * (shape[..., 1].max() - shape[..., 1].min())
    angles = torch.tensor([[math.radians(pitch), math.radians(yaw), 0.0]])
    vertices = model().place(shape, angles, torch.tensor([[0.0, 0.03, -1.6]]))
    camera = Camera().scaled(size)
    points, depth = model().project(vertices, camera)
    z = (camera.distance + 1.6 - depth) * camera.focal / (camera.distance + 1.6)
    return torch.cat([points, z[..., None]], -1)[0].numpy().astype(np.float32)
