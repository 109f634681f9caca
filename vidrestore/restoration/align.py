"""Where a face lies in the network's square: the templates and the maps they give."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.geometry import Affine, estimate_similarity, scale_about_pixel_edges
from vidrestore.geometry import apply as apply_map
from vidrestore.morphable.template import FFHQ_TEMPLATE_512, SGPN_TEMPLATE_512

__all__ = ["FFHQ_TEMPLATE_512", "SGPN_TEMPLATE_512", "crop_from_display", "crop_from_ffhq", "template"]


def template(size: int, points_512: NDArray[np.float64] = FFHQ_TEMPLATE_512) -> NDArray[np.float64]:
    """The five points in a crop of ``size`` pixels, (5, 2)."""
    return apply_map(scale_about_pixel_edges(size / 512), points_512)


def crop_from_display(landmarks: ArrayLike, size: int, points_512: NDArray[np.float64] = FFHQ_TEMPLATE_512) -> Affine:
    """The similarity that brings a face's five points onto the template.

    Args:
        landmarks: (5, 2) in display pixels.
        size: side of the crop in pixels.
        points_512: the network's template.

    Raises:
        ValueError: the points coincide.
    """
    return estimate_similarity(landmarks, template(size, points_512))


def crop_from_ffhq(size: int, points_512: NDArray[np.float64]) -> Affine:
    """The similarity from a crop aligned as FFHQ to one of another template, both of ``size`` pixels."""
    return estimate_similarity(template(size), template(size, points_512))
