"""Masks in crop space: where the restored face is shown, and how much of it.

All masks are (S, S) float32 in [0, 1] and smooth; they are multiplied with one another.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrestore import geometry

__all__ = ["border_mask", "coarse_agreement", "disagreement_mask", "face_mask", "rim_mask", "smoothstep"]

# The outline's outer edge as shares of the crop's side, for the FFHQ template (eyes at 0.47, mouth at 0.72 of the
# height): forehead to below the chin, ear to ear, and 2.5 % of the side away from the crop's lower border.
_CENTRE = (0.502, 0.520)
_HALF_AXES = (0.400, 0.455)
_ROUNDNESS = 2.5  # exponent of the superellipse: 2 is an ellipse, which would miss the jaw's corners

DISAGREEMENT_SIGMA = 1.0 / 20.0  # of the side: finer differences are what restoration is for
DISAGREEMENT_LOW, DISAGREEMENT_HIGH = 0.25, 0.60  # of [-1, 1]: a face relit stays below, a hand over a face is above
# What stands in the place of eyes and mouth, as differences of two Gaussians of the luma on the coarse copy, compared
# around each place. Shares of the side: finer detail does not survive a face of 32 px, and is what restoration is for
BAND_FINE, BAND_WIDE, BAND_AROUND = 1.5 / 64, 6.0 / 64, 4.0 / 64
# Root mean square of the difference in that band, of [-1, 1], and the correlation. A perfect restoration of a face of
# 32 px with noise and JPEG stays below 0.048 and above 0.92 in 99 of 100 places; of one of 16 px below 0.14 and above
# 0.47; fingers over a face that is drawn through them lie above 0.07 and below 0.79 in 95 of 100
BAND_LOW, BAND_HIGH = 0.06, 0.12
LIKE_LOW, LIKE_HIGH = 0.40, 0.85
SPREAD, SPREAD_SOFT = 3.0 / 64, 1.5 / 64  # of the side: what is found at a finger's edges holds for its middle too
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601, as everything that networks are trained on
_BORDER_SHARE = 0.06  # of the side: the widest fade at the frame's border
_RIM_BARE, _RIM_FADE = 0.02, 0.06  # of the side: the crop's outermost pixels are never shown, then it fades in
COARSE = 64  # px, low frequencies are computed on a copy of this size


def smoothstep(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """0 for x <= 0, 1 for x >= 1, 3x² - 2x³ between: continuous with its first derivative."""
    t = np.clip(x, 0.0, 1.0)
    result: NDArray[np.float32] = (t * t * (3.0 - 2.0 * t)).astype(np.float32)
    return result


@lru_cache(maxsize=16)
def face_mask(size: int, feather: float) -> NDArray[np.float32]:
    """A rounded outline over forehead, cheeks and chin of the FFHQ template; read-only, computed once per size.

    A superellipse r(x, y) = 1; the depth below its edge is (1 - r) / |∇r|, exact to first order, and the mask is the
    smoothstep of depth over feather * size. So the edge is as wide everywhere, and the mask has a continuous gradient.

    Args:
        size: S, pixels of the crop's side, at least 1.
        feather: width of the soft edge as a share of the side, in (0, 0.5]; from 0.3 on it no longer grows, so
            that a middle remains where the mask is 1.

    Returns:
        (S, S) in [0, 1], exactly 0 on the outer 2 % of the crop and 1 inside.

    Raises:
        ValueError: size or feather out of range.
    """
    if size < 1 or not 0.0 < feather <= 0.5:
        raise ValueError(f"size must be at least 1 and feather in (0, 0.5], got {size} and {feather}")
    axis = (np.arange(size) + 0.5) / size
    x, y = (axis - _CENTRE[0]) / _HALF_AXES[0], ((axis - _CENTRE[1]) / _HALF_AXES[1])[:, None]
    n = _ROUNDNESS
    power = np.abs(x) ** n + np.abs(y) ** n
    r = np.maximum(power, 1e-12) ** (1.0 / n)
    slope = np.maximum(power, 1e-12) ** (1.0 / n - 1.0)
    gradient = slope * np.hypot(np.abs(x) ** (n - 1.0) / _HALF_AXES[0], np.abs(y) ** (n - 1.0) / _HALF_AXES[1])
    depth = (1.0 - r) / np.maximum(gradient, 1e-6)
    mask = smoothstep(depth / min(feather, 0.75 * min(_HALF_AXES)))
    mask.flags.writeable = False
    return mask


@lru_cache(maxsize=16)
def rim_mask(size: int) -> NDArray[np.float32]:
    """Fades every outline out towards the crop's own border; read-only, computed once per size.

    Args:
        size: S.

    Returns:
        (S, S) in [0, 1]: 0 on the outer 2 % of the side, 1 from 8 % on.
    """
    place = (np.arange(size) + 0.5) / size
    axis = smoothstep((np.minimum(place, 1.0 - place) - _RIM_BARE) / _RIM_FADE)
    mask = np.outer(axis, axis)
    mask.flags.writeable = False
    return mask


def shrink(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, S, S) -> (C, s, s), s = min(S, 64), by area averages: the copy that low frequencies are computed on."""
    size = min(image.shape[-1], COARSE)
    planes = [cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in image]
    return np.stack(planes).astype(np.float32, copy=False)


def blur(coarse: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """(C, s, s) blurred by a Gaussian of ``sigma`` * s, borders repeated."""
    width = sigma * coarse.shape[-1]
    planes = [cv2.GaussianBlur(plane, (0, 0), width, borderType=cv2.BORDER_REPLICATE) for plane in coarse]
    return np.stack(planes).astype(np.float32, copy=False)


def grow(coarse: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(C, s, s) -> (C, S, S) by cubic interpolation."""
    planes = [cv2.resize(plane, (size, size), interpolation=cv2.INTER_CUBIC) for plane in coarse]
    return np.stack(planes).astype(np.float32, copy=False)


def disagreement_mask(
    degraded: NDArray[np.float32], restored: NDArray[np.float32], *, by_structure: bool = True
) -> NDArray[np.float32]:
    """Lowers the mask where restored and degraded disagree at large scale: a hand, a microphone, an invented face.

    *Tone*: the difference is blurred by a Gaussian of S / 20, so detail does not count, and its length over the three
    channels (Euclidean, divided by √3) is compared: up to 0.25 of the range [-1, 1] the mask stays 1, from 0.60 on it
    is 0, smoothstep between. A shift of colour that is the same over the whole crop does not count either: the median
    of each channel is taken off first (the compositor's colour guard deals with it).

    *Structure*: a hand before a mouth is of the same tone, so what stands where is compared too, in a band between 1/43
    and 1/11 of the side, where eyes and mouth are: the mask is lowered where the two differ there (0.06 to 0.12) *and*
    do not correlate (0.85 to 0.40). A blurred mouth that was made sharp differs, but correlates. What is found spreads
    by 1/21 of the side: the middle of a finger shows no structure.

    Args:
        degraded: (3, S, S) in [-1, 1].
        restored: (3, S, S) in [-1, 1].
        by_structure: compare structure too; where only colours are taken over, it does not matter.

    Returns:
        (S, S) in [0, 1]; 1 everywhere for equal pictures.

    Raises:
        ValueError: the shapes differ or are no (3, S, S).
    """
    share = coarse_agreement(degraded, restored, by_structure=by_structure)
    size = degraded.shape[-1]
    return np.ones((size, size), np.float32) if (share == 1.0).all() else grow(share[None], size)[0].clip(0.0, 1.0)


def coarse_agreement(
    degraded: NDArray[np.float32], restored: NDArray[np.float32], *, by_structure: bool = True
) -> NDArray[np.float32]:
    """:func:`disagreement_mask` before it is grown to the crop's size: (s, s), s = min(S, 64)."""
    if degraded.shape != restored.shape or degraded.ndim != 3 or len(degraded) != 3:
        raise ValueError(f"expected two (3, S, S) pictures, got {degraded.shape} and {restored.shape}")
    difference = shrink(restored - degraded)
    coarse = blur(difference, DISAGREEMENT_SIGMA)
    coarse -= np.median(coarse, axis=(1, 2), keepdims=True)
    length = np.sqrt(np.mean(coarse * coarse, axis=0))
    tone = smoothstep((DISAGREEMENT_HIGH - length) / (DISAGREEMENT_HIGH - DISAGREEMENT_LOW))
    if not by_structure:
        return tone
    before = shrink(np.tensordot(LUMA, degraded, 1)[None])[0]
    return tone * (1.0 - _other_structure(before, np.tensordot(LUMA, difference, 1)))


def _other_structure(degraded: NDArray[np.float32], difference: NDArray[np.float32]) -> NDArray[np.float32]:
    """(s, s) in [0, 1], 1 where something else stands; both (s, s) luma."""
    pair = np.stack([degraded, difference]).astype(np.float32, copy=False)
    before, change = blur(pair, BAND_FINE) - blur(pair, BAND_WIDE)
    after = before + change
    changed, before_power, after_power, common = blur(
        np.stack([change * change, before * before, after * after, before * after]), BAND_AROUND
    )
    likeness = common / np.sqrt(np.maximum(before_power * after_power, np.float32(1e-12)))
    differs = smoothstep((np.sqrt(changed) - BAND_LOW) / (BAND_HIGH - BAND_LOW))
    other: NDArray[np.float32] = differs * smoothstep((LIKE_HIGH - likeness) / (LIKE_HIGH - LIKE_LOW))
    if not other.any():
        return other
    spread = cv2.dilate(other, np.ones((spread_size(len(other)),) * 2, np.uint8))
    soft: NDArray[np.float32] = blur(spread.astype(np.float32, copy=False)[None], SPREAD_SOFT)[0]
    return soft


def spread_size(coarse: int) -> int:
    """Side of the square over which what covers a face spreads, odd, in pixels of a coarse copy."""
    return 2 * round(SPREAD * coarse) + 1


def is_inside(size: int, crop_from_frame: ArrayLike, frame_height: int, frame_width: int) -> bool:
    """The whole crop lies in the frame, so that :func:`border_mask` is 1 everywhere."""
    frame_from_crop = geometry.invert(crop_from_frame)
    corners = geometry.apply(frame_from_crop, [[i, j] for i in (0, size - 1) for j in (0, size - 1)])
    return bool(corners.min() >= 0.0 and (corners.max(0) <= (frame_width - 1, frame_height - 1)).all())


def border_mask(
    size: int, crop_from_frame: ArrayLike, frame_height: int, frame_width: int, mask: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Fades towards the frame's border as far as it must: the part of a face that the border cuts off was never seen.

    What the network saw beyond the border is the repeated edge, and what it drew beside it leans on that. For each side
    of the frame the fade is a smoothstep over the distance to it, from 0 there to 1 at the width
    0.06 S * √(2 * share) (at most 0.06 S), where share is the part of the mask's weight that lies beyond that side: a
    face that is wholly inside is not touched, and one that leaves the frame is taken back without a jump.

    Args:
        size: S.
        crop_from_frame: (2, 3) map from frame to crop pixels.
        frame_height: rows of the luma plane.
        frame_width: its columns.
        mask: (S, S) that this one will be multiplied with.

    Returns:
        (S, S) in [0, 1]; all 1 where no part of the mask is outside.
    """
    frame_from_crop = geometry.invert(crop_from_frame)
    border = np.ones((size, size), np.float32)
    if is_inside(size, crop_from_frame, frame_height, frame_width):
        return border
    axis = np.arange(size, dtype=np.float64)
    x = frame_from_crop[0, 0] * axis + (frame_from_crop[0, 1] * axis + frame_from_crop[0, 2])[:, None]
    y = frame_from_crop[1, 0] * axis + (frame_from_crop[1, 1] * axis + frame_from_crop[1, 2])[:, None]
    widest = _BORDER_SHARE * size / geometry.mean_scale(crop_from_frame)  # in frame pixels
    total = float(mask.sum())
    for distance in (x + 0.5, frame_width - 0.5 - x, y + 0.5, frame_height - 0.5 - y):
        lost = float(mask[distance < 0.0].sum())
        if lost > 0.0:
            border *= smoothstep(distance / (widest * min(1.0, math.sqrt(2.0 * lost / total))))
    return border
