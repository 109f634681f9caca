"""The blend stage for missing parts: only samples under a hole and within a face change, every other stays as it is.

Before detection the holes are closed by their surroundings (:func:`close_holes`), so that a scratch does not hide a
face, and crops are cut from that. Afterwards the drawn face is composited into the closed frame and taken over under
the holes alone. A difference against the *source* would leave a ghost of each scratch's edge, as the crop does not
resolve it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.blend.compositor import Compositor
from vidrestore.blend.mask import blur, border_mask, grow, shrink
from vidrestore.blend.outline import crop_outline
from vidrestore.config import BlendOptions
from vidrestore.geometry import apply, invert
from vidrestore.kernels import signal_delta
from vidrestore.types import Frame, PixelFormat, Plane, Restoration

__all__ = ["HoleCompositor", "close_holes"]

_N = TypeVar("_N", np.uint8, np.float32)

_GUARD_SIGMA = 0.15  # of the side, as the compositor's colour guard
_KNOWN_LEAST = 1e-3  # weight of known pixels around a point from which its shift can be told


def close_holes(frame: Frame, hole: NDArray[np.uint8]) -> Frame:
    """The frame with its holes closed by a smooth continuation of what is around them.

    Args:
        frame: its planes are not written.
        hole: (height, width), not 0 where the picture is missing.

    Returns:
        A frame that shares everything but the planes; the same object where there is no hole.
    """
    if not hole.any():
        return frame
    planes = tuple(
        plane if _is_alpha(frame.format, index) else _closed(plane, _at_plane(hole, plane), frame.format.depth)
        for index, plane in enumerate(frame.planes)
    )
    return replace(frame, planes=planes)


class HoleCompositor(Compositor):
    """Takes drawn faces over under holes.

    Usage: each frame is announced by :meth:`expect` before it is composited; one that was not comes back as it is.
    """

    def __init__(self, options: BlendOptions) -> None:
        super().__init__(options, lowers_disagreement=False)
        self._expected: dict[int, tuple[Frame, NDArray[np.uint8]]] = {}

    def expect(self, source: Frame, hole: NDArray[np.uint8]) -> None:
        """Notes the frame as it was decoded, and its holes, until it is composited."""
        self._expected[source.index] = source, hole

    def hole(self, frame_index: int) -> NDArray[np.uint8] | None:
        """Holes of an expected frame."""
        expected = self._expected.get(frame_index)
        return None if expected is None else expected[1]

    def composite(self, frame: Frame, restorations: Sequence[Restoration]) -> Frame:
        """Gives the frame as it was decoded, with its holes within faces filled.

        Args:
            frame: with its holes closed.
            restorations: of crops of that frame.
        """
        if frame.index not in self._expected:
            return frame
        source, hole = self._expected.pop(frame.index)
        touched = [r for r in restorations if r.crop.holes is not None and r.crop.holes.any()]
        shares = _face_shares(frame, touched, self.options)
        if shares is None:
            return source
        whole = [replace(r, crop=replace(r.crop, strength=1.0)) for r in touched]  # strength is in the shares
        drawn = super().composite(frame, whole)
        shares[hole == 0] = 0.0
        planes = [
            old if _is_alpha(frame.format, index) else _mixed(old, new, shares)
            for index, (old, new) in enumerate(zip(source.planes, drawn.planes, strict=True))
        ]
        return replace(source, planes=tuple(planes))

    def _strength(self, restoration: Restoration) -> float:
        return restoration.crop.strength

    def _mask(self, frame: Frame, restoration: Restoration) -> NDArray[np.float32]:
        crop = restoration.crop
        size = crop.image.shape[-1]
        mask = crop_outline(crop, self.options)
        return mask * border_mask(size, crop.crop_from_frame, frame.height, frame.width, mask)

    def _delta(self, frame: Frame, restoration: Restoration, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """The drawn face less the crop; what it is lighter or darker around the holes is taken off in them."""
        crop = restoration.crop
        assert crop.holes is not None
        delta = np.subtract(restoration.image, crop.image, dtype=np.float32)
        known = np.multiply(mask, 1.0 - np.ceil(crop.holes), dtype=np.float32)
        blurred = blur(shrink(np.concatenate([delta * known, known[None]])), _GUARD_SIGMA)
        average = np.divide(blurred[:3], np.maximum(blurred[3:], np.float32(_KNOWN_LEAST)), dtype=np.float32)
        delta -= np.float32(self.colour_guard) * grow(average, delta.shape[-1])
        return signal_delta(crop.image, crop.image + delta, frame.format)


def _face_shares(
    frame: Frame, restorations: Sequence[Restoration], options: BlendOptions
) -> NDArray[np.float32] | None:
    """(height, width) in [0, 1]: how far each pixel is taken over if it is missing; None where no face is touched."""
    shares: NDArray[np.float32] | None = None
    for restoration in restorations:
        crop = restoration.crop
        size = crop.image.shape[-1]
        corners = apply(invert(crop.crop_from_frame), [[x, y] for x in (0, size - 1) for y in (0, size - 1)])
        left, top = np.maximum(np.floor(corners.min(0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, (frame.width, frame.height))
        strength = options.strength * crop.strength
        if right <= left or bottom <= top or strength <= 0.0:
            continue
        crop_from_part = crop.crop_from_frame @ np.array([[1.0, 0.0, left], [0.0, 1.0, top], [0.0, 0.0, 1.0]])
        mask = crop_outline(crop, options)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(mask, crop_from_part, (int(right - left), int(bottom - top)), flags=flags)
        if shares is None:
            shares = np.zeros((frame.height, frame.width), np.float32)
        part = shares[top:bottom, left:right]
        np.maximum(part, np.float32(strength) * warped, out=part)
    return shares


def _mixed(old: Plane, new: Plane, shares: NDArray[np.float32]) -> Plane:
    """old + share * (new - old), rounded; chroma takes the largest share of the pixels that it covers."""
    share = shares if shares.shape == old.shape else _largest(shares, old.shape)
    rows, columns = np.flatnonzero(share.any(1)), np.flatnonzero(share.any(0))
    if not len(rows):
        return old
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    before = old[part].astype(np.float32)
    mixed = np.rint(before + share[part] * (new[part] - before)).astype(old.dtype)  # a mean of two legal values
    out = old.copy()
    out[part] = mixed
    return out


def _is_alpha(pixel_format: PixelFormat, index: int) -> bool:
    return pixel_format.has_alpha and index == pixel_format.num_planes - 1


def _at_plane(hole: NDArray[np.uint8], plane: Plane) -> NDArray[np.uint8]:
    return hole if hole.shape == plane.shape else _largest(hole, plane.shape)


def _largest(values: NDArray[_N], shape: tuple[int, ...]) -> NDArray[_N]:
    """The largest of each block of pixels that one chroma sample covers; blocks start at the first pixel."""
    height, width = shape
    step_y, step_x = -(-values.shape[0] // height), -(-values.shape[1] // width)
    padding = (0, height * step_y - values.shape[0]), (0, width * step_x - values.shape[1])
    padded = np.pad(values, padding, mode="edge")
    largest: NDArray[_N] = padded.reshape(height, step_y, width, step_x).max((1, 3))
    return largest


def _closed(plane: Plane, hole: NDArray[np.uint8], depth: int) -> Plane:
    missing = hole != 0
    filled = _pulled_and_pushed(plane.astype(np.float32), (~missing).astype(np.float32))
    top = (1 << depth) - 1
    closed = plane.copy()
    closed[missing] = np.rint(np.clip(filled[missing], 0, top)).astype(plane.dtype)
    return closed


def _pulled_and_pushed(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Missing values from ever coarser means of the known ones (push-pull: Gortler et al. 1996, section 3.4).

    Args:
        values: (H, W); looked at where the weight is above 0.
        weights: (H, W) in [0, 1].
    """
    height, width = values.shape
    if weights.min() >= 1.0 or max(height, width) <= 2:
        known = float(weights.sum())
        mean = float((values * weights).sum()) / known if known > 0.0 else 0.0
        return weights * values + (1.0 - weights) * mean
    size = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
    coarse_weights = cv2.resize(weights, size, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(values * weights, size, interpolation=cv2.INTER_AREA)
    coarse = np.divide(sums, coarse_weights, out=np.zeros_like(sums), where=coarse_weights > 0.0)
    # two known pixels of four tell as much as four: otherwise thin scratches would be closed from afar
    pushed = _pulled_and_pushed(coarse, np.minimum(2.0 * coarse_weights, np.float32(1.0)))
    back = cv2.resize(pushed, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(weights * values + (1.0 - weights) * back, np.float32)
