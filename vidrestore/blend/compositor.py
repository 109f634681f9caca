"""The blend stage: restored crops go back into the planes they were cut from, as differences.

frame + restorations -> per crop: difference -> colour guard -> mask -> one call of the compositing kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vidrestore.blend.mask import LUMA, blur, border_mask, coarse_agreement, grow, shrink
from vidrestore.blend.occluders import CropPlace, OccluderMemory
from vidrestore.blend.outline import crop_outline
from vidrestore.config import BlendOptions
from vidrestore.kernels import composite, signal_delta
from vidrestore.types import Frame, Restoration

__all__ = ["Compositor", "damp_colour", "guard_colour"]

GUARD_SIGMA = 0.15  # of the side, one and a half eye widths: shading stays, a patch's colour does not pass


class Compositor:
    """Puts restored faces back into their frames.

    Attributes:
        options: strength of the whole effect and width of the mask's edge.
        colour_guard: share of the low-frequency colour shift between restored and degraded crop that is taken out, in
            [0, 1]. Networks drift in colour and brightness, which shows as a patch that flickers; the frame's own
            colours are the truth. 0 trusts the network.
        lowers_disagreement: lower the mask where the two differ at large scale (hands, microphones).

    It remembers along tracks what covered a face, so one object serves one stream of frames, in order.
    """

    def __init__(self, options: BlendOptions, *, colour_guard: float = 1.0, lowers_disagreement: bool = True) -> None:
        """Raises ValueError where colour_guard is outside [0, 1]."""
        if not 0.0 <= colour_guard <= 1.0:
            raise ValueError(f"colour_guard must lie in [0, 1], got {colour_guard}")
        self.options = options
        self.colour_guard = colour_guard
        self.lowers_disagreement = lowers_disagreement
        self._occluders: OccluderMemory[NDArray[np.float32]] = OccluderMemory(options.occluder_frames, np.minimum)

    def forget(self) -> None:
        """Drops what is remembered: frames of another stream come."""
        self._occluders.forget()

    def composite(self, frame: Frame, restorations: Sequence[Restoration]) -> Frame:
        """Gives the frame with its restorations in place.

        Args:
            frame: any format; its planes are not written.
            restorations: of crops of this frame, all of one size, in any order: where faces overlap, the larger lies on
                top. Each is applied by its crop's strength times the options' strength.

        Returns:
            A frame that shares everything but the planes that changed; the same object where nothing does.

        Raises:
            ValueError: a restoration of another frame, or crops of different sizes.
            KernelError: values that are not finite, a singular map.
        """
        active = [r for r in restorations if self._strength(r) > 0.0 and not np.array_equal(r.image, r.crop.image)]
        for restoration in active:
            if restoration.crop.frame_index != frame.index:
                raise ValueError(f"{restoration.crop!r} does not belong to frame {frame.index}")
        if not active:
            return frame
        masks = [self._mask(frame, r) for r in active]
        deltas = [self._delta(frame, r, mask) for r, mask in zip(active, masks, strict=True)]
        planes = composite(
            frame.planes,
            frame.format,
            _stack(deltas),
            _stack(masks),
            np.stack([r.crop.crop_from_frame for r in active]),
            np.array([self._strength(r) for r in active], np.float32),
        )
        if all(new is old for new, old in zip(planes, frame.planes, strict=True)):
            return frame
        return replace(frame, planes=planes)

    def _strength(self, restoration: Restoration) -> float:
        return self.options.strength * restoration.crop.strength

    def _mask(self, frame: Frame, restoration: Restoration) -> NDArray[np.float32]:
        crop = restoration.crop
        size = crop.image.shape[-1]
        mask = crop_outline(crop, self.options)
        mask = mask * border_mask(size, crop.crop_from_frame, frame.height, frame.width, mask)
        if self.lowers_disagreement:
            place = CropPlace(crop.track_id, frame.shot, frame.index)
            share = self._occluders.hold(place, coarse_agreement(crop.image, restoration.image))
            if not (share == 1.0).all():
                mask = mask * grow(share[None], size)[0].clip(0.0, 1.0)
        return mask

    def _delta(self, frame: Frame, restoration: Restoration, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        degraded, restored = restoration.crop.image, restoration.image
        if self.colour_guard > 0.0 or self.options.colour < 1.0:
            delta = damp_colour(restored - degraded, self.options.colour)
            if self.colour_guard > 0.0:
                delta = guard_colour(delta, mask, self.colour_guard)
            restored = degraded + delta
        return signal_delta(degraded, restored, frame.format)


def damp_colour(delta: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Keeps the change of luma and ``share`` of the change of colour: luma + share * (delta - luma).

    Args:
        delta: (3, S, S) in R'G'B'.
        share: in [0, 1]; 0 leaves a grey difference, so that chroma planes do not change at all.

    Returns:
        (3, S, S).
    """
    luma = np.tensordot(LUMA, delta, 1)
    return np.asarray(luma + np.float32(share) * (delta - luma), np.float32)


def guard_colour(delta: NDArray[np.float32], mask: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Takes ``share`` of the low frequencies out of a difference: delta - share * G[mask delta] / G[mask].

    G is a Gaussian of 0.15 S. Dividing by the blurred mask makes it an average over the masked part alone, so that a
    hand or the background do not tint the face; a constant shift goes out whole, fine detail stays.

    Args:
        delta: (3, S, S).
        mask: (S, S) in [0, 1].
        share: in [0, 1].

    Returns:
        (3, S, S); 0 where delta is 0 everywhere.
    """
    blurred = blur(shrink(np.concatenate([delta * mask, mask[None]])), GUARD_SIGMA)
    average = np.divide(blurred[:3], np.maximum(blurred[3:], np.float32(1e-3)), dtype=np.float32)
    shift = grow(average, delta.shape[-1])
    guarded: NDArray[np.float32] = delta - np.float32(share) * shift
    return guarded


def _stack(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    sizes = sorted({array.shape[-1] for array in arrays})
    if len(sizes) > 1:
        raise ValueError(f"the crops of one frame must have one size, got {sizes}")
    return np.stack(arrays)
