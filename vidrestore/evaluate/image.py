"""PSNR and SSIM of pictures."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["psnr", "ssim"]


def psnr(picture: NDArray[np.generic], reference: NDArray[np.generic], *, peak: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all samples and channels together.

    Args:
        picture: any shape; uint8, or float.
        reference: the same shape and type.
        peak: the span of the values; None is 255 for uint8 and 1 for float.

    Returns:
        ``10 log10(peak^2 / mean((a - b)^2))``; infinity for equal pictures.

    Raises:
        ValueError: shapes or types differ.
    """
    a, b, span = _prepare(picture, reference, peak)
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0.0 else 10.0 * math.log10(span * span / error)


def ssim(picture: NDArray[np.generic], reference: NDArray[np.generic], *, peak: float | None = None) -> float:
    """Structural similarity, the mean over pixels and channels; 1 for equal pictures.

    Gaussian window of 11 x 11 with deviation 1.5, K1 = 0.01, K2 = 0.03, population covariance, each colour channel
    on its own, only places where the window lies wholly inside.

    Args:
        picture: (H, W) or (H, W, C); uint8, or float; sides of at least 11.
        reference: the same shape and type.
        peak: the span of the values; None is 255 for uint8 and 1 for float.

    Raises:
        ValueError: shapes or types differ, or the pictures are smaller than the window.

    Source:
        Wang et al. 2004, equations 13 to 16.
    """
    a, b, span = _prepare(picture, reference, peak)
    if a.ndim not in (2, 3) or min(a.shape[:2]) < 11:
        raise ValueError(f"expected pictures of at least 11 x 11 pixels, got {a.shape}")
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_a, mean_b = _window(a), _window(b)
    var_a, var_b = _window(a * a) - mean_a**2, _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float(np.mean(top / bottom))


def _window(x: NDArray[np.float64]) -> NDArray[np.float64]:
    blurred = cv2.GaussianBlur(x, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred[5:-5, 5:-5])


def _prepare(
    picture: NDArray[np.generic], reference: NDArray[np.generic], peak: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    if picture.shape != reference.shape or picture.dtype != reference.dtype:
        raise ValueError(
            f"expected two pictures of one shape and type, got {picture.shape} {picture.dtype} "
            f"and {reference.shape} {reference.dtype}"
        )
    span = peak if peak is not None else (255.0 if picture.dtype == np.uint8 else 1.0)
    return picture.astype(np.float64), reference.astype(np.float64), span
