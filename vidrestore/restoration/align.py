"""Where a face lies in the network's square: the templates and the maps they give."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore.geometry import Affine, estimate_similarity, scale_about_pixel_edges
from vidrestore.geometry import apply as apply_map

__all__ = ["FFHQ_TEMPLATE_512", "crop_from_display", "template"]

FFHQ_TEMPLATE_512: NDArray[np.float64] = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
"""Left eye, right eye, nose, left and right mouth corner in a 512-pixel crop aligned as the FFHQ data set is; the
published template of the blind face restoration tools (FaceRestoreHelper), so that their networks fit too."""


def template(size: int) -> NDArray[np.float64]:
    """The five points in a crop of ``size`` pixels, (5, 2)."""
    return apply_map(scale_about_pixel_edges(size / 512), FFHQ_TEMPLATE_512)


def crop_from_display(landmarks: ArrayLike, size: int) -> Affine:
    """The similarity that brings a face's five points onto the template.

    Args:
        landmarks: (5, 2) in display pixels.
        size: side of the crop in pixels.

    Raises:
        ValueError: the points coincide.
    """
    return estimate_similarity(landmarks, template(size))
