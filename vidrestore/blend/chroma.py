"""The blend stage for colours: only chroma is written, the luma of every pixel stays what it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidrestore.blend.compositor import Compositor
from vidrestore.blend.mask import border_mask, disagreement_mask
from vidrestore.blend.outline import crop_outline
from vidrestore.config import BlendOptions
from vidrestore.kernels import signal_delta
from vidrestore.kernels.colour import is_hdr, planes_from_rgb
from vidrestore.types import Frame, PixelFormat, Restoration

__all__ = ["ChromaCompositor", "limit_to_gamut"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601, for formats that have no luma of their own


class ChromaCompositor(Compositor):
    """Puts the colours of restored crops into their frames, replacing what colour was there.

    Where the drawn face is not the one in the frame (a hand, a mistaken face), its luma tells, and the mask is lowered.
    """

    def __init__(self, options: BlendOptions) -> None:
        super().__init__(options, colour_guard=0.0)

    def _mask(self, frame: Frame, restoration: Restoration) -> NDArray[np.float32]:
        crop = restoration.crop
        size = crop.image.shape[-1]
        mask = crop_outline(crop, self.options)
        mask = mask * border_mask(size, crop.crop_from_frame, frame.height, frame.width, mask)
        return mask * disagreement_mask(_grey(crop.image, _LUMA), _grey(restoration.image, _LUMA), by_structure=False)

    def _delta(self, frame: Frame, restoration: Restoration, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        weights = _luma_weights(frame.format)
        degraded, drawn = restoration.crop.image, restoration.image
        luma = _grey(degraded, weights)
        coloured = luma + (drawn - _grey(drawn, weights))
        if not is_hdr(frame.format):
            coloured = limit_to_gamut(coloured, luma)
        delta = signal_delta(degraded, coloured, frame.format)
        return delta - _grey(delta, weights)  # exactly no luma, also where the tone curve of HDR bent it


def limit_to_gamut(coloured: NDArray[np.float32], luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Moves each colour towards its luma until R, G and B lie in [-1, 1]: paler where it must be, never lighter.

    Args:
        coloured: (3, S, S).
        luma: (3, S, S) grey, in [-1, 1], the luma of ``coloured``.

    Returns:
        (3, S, S) in [-1, 1].
    """
    chroma = coloured - luma
    room = np.where(chroma > 0.0, 1.0 - luma, 1.0 + luma)
    size = np.abs(chroma)
    share = np.divide(room, size, out=np.ones_like(size), where=size > room).min(0)
    return np.asarray(luma + share * chroma, np.float32)


def _luma_weights(pixel_format: PixelFormat) -> NDArray[np.float32]:
    """(3,) of sum 1: how the format's luma is made."""
    if pixel_format.colour != "yuv":
        return _LUMA
    row = planes_from_rgb(pixel_format)[0][0]
    return np.asarray(row / row.sum(), np.float32)


def _grey(image: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    luma = np.tensordot(weights, image, 1)
    return np.broadcast_to(luma, image.shape).astype(np.float32)
