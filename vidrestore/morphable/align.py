"""Where the published regressor wants a face: its crop of 224 pixels, and pictures warped there and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.geometry import Affine, apply, compose, estimate_similarity
from vidrestore.morphable.template import SGPN_TEMPLATE_512

__all__ = ["CROP_SIZE", "FACE_POINTS_3D", "FIVE_OF_68", "d3dfr_from_crop", "d3dfr_from_display", "warp"]

CROP_SIZE = 224
"""Side of the regressor's picture, px."""

FACE_POINTS_3D: NDArray[np.float64] = np.array(
    [
        (-0.31148657, 0.29036078, 0.13377953),
        (0.30979887, 0.28972036, 0.13179526),
        (0.0032535, -0.04617932, 0.55244243),
        (-0.25216928, -0.38133916, 0.22405732),
        (0.2484662, -0.38128236, 0.22235769),
    ]
)
"""Left eye, right eye, nose, left and right mouth corner of a mean face, y up: the published five of its 68 landmarks
(31, means of 37 and 40 and of 43 and 46, 49, 55, counted from 1)."""

FIVE_OF_68 = ((36, 39), (42, 45), (30,), (48,), (54,))
"""Of the 68 landmarks, counted from 0, those whose means are these five."""

SCALE = 102.0
"""Pixels of the crop per unit of ``FACE_POINTS_3D``, as published."""


def d3dfr_from_crop(landmarks: ArrayLike, size: int = 512) -> Affine:
    """The map from a network's crop to the regressor's: one scale and a shift, no rotation.

    Args:
        landmarks: (5, 2) in pixels of a square crop of ``size``, the centre of the top-left pixel is (0, 0).
        size: side of that crop; 512 is the published one.

    Returns:
        (2, 3), target_from_source.

    Raises:
        ValueError: another shape, or the points coincide.

    Source:
        The published code. A projection without perspective, 3D points to (x, size - 1 - y), is fitted by least
        squares; its shift is where the face's origin is seen, its scale the mean length of its two rows. The crop shows
        the origin 112 pixels from its left column and 112 above its bottom row, plus the up to half a pixel by which
        the published code rounds the size of the scaled picture down; we repeat that.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2):
        raise ValueError(f"landmarks must be (5, 2), got {points.shape}")
    upward = np.column_stack([points[:, 0], size - 1 - points[:, 1]])
    design = np.column_stack([FACE_POINTS_3D, np.ones(5)])
    solution = np.linalg.lstsq(design, upward, rcond=None)[0]  # (4, 2)
    length = np.linalg.norm(solution[:3], axis=0).mean()
    if not length > 1e-6 * size:
        raise ValueError("the landmarks coincide, a crop cannot be found from them")
    scale, (shift_x, shift_y) = SCALE / length, solution[3]
    margin = int(size * scale) / 2 - CROP_SIZE / 2
    offset_x = (size / 2 - shift_x) * scale - margin
    offset_y = (size / 2 - shift_y) * scale - margin  # upwards, from the bottom row
    return np.array([[scale, 0.0, offset_x], [0.0, scale, CROP_SIZE - 1 - (size - 1) * scale - offset_y]])


def d3dfr_from_display(points: ArrayLike) -> Affine:
    """The map from display pixels to the regressor's crop, the way that SGPN takes: its own crop of 512 first.

    Args:
        points: (5, 2) in display pixels.

    Raises:
        ValueError: the points coincide.
    """
    crop_from_display = estimate_similarity(points, SGPN_TEMPLATE_512)
    return compose(d3dfr_from_crop(apply(crop_from_display, points)), crop_from_display)


def warp(images: Tensor, target_from_source: Tensor, size: int) -> Tensor:
    """Warps pictures bilinearly; differentiable.

    Args:
        images: (B, C, H, W).
        target_from_source: (B, 2, 3) maps in pixels, (0, 0) is the centre of the top-left one; on any device.
        size: side of the results.

    Returns:
        (B, C, size, size); beyond a picture's border lies 0, so bring pictures to the range in which 0 is what you want
        there. The published crop is taken of [-1, 1], and is mid-grey beyond the border.
    """
    height, width = images.shape[-2:]
    square = functional.pad(target_from_source.double(), (0, 0, 0, 1))
    square[:, 2, 2] = 1.0
    source_from_target = torch.linalg.inv(square)[:, :2].to(images)
    line = torch.arange(size, dtype=images.dtype, device=images.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (S, S, 3)
    source = torch.einsum("hwk,bck->bhwc", places, source_from_target)
    # grid_sample without aligned corners has the picture's edges at -1 and 1
    edges = torch.tensor([width, height], dtype=images.dtype).to(images.device)
    return functional.grid_sample(images, (2.0 * source + 1.0) / edges - 1.0, align_corners=False)
