"""Whether a clip is black and white: decided once for all of it, so that a face does not change its mind."""

from __future__ import annotations

import os

import numpy as np

from vidrestore.decode.samples import sample_frames
from vidrestore.picture import small_rgb
from vidrestore.types import Frame, StreamInfo

__all__ = ["clip_is_grey", "colourfulness"]

NUM_SAMPLES = 6
"""Frames that are looked at, spread over the clip: a fade from black or a title alone would mislead."""
GREY_BELOW = 10.0
"""Largest colourfulness of a grey picture; the threshold of the published restoration script."""
_SIDE_PX = 32  # a mean over many pixels: the chroma noise of a tape is no colour


def clip_is_grey(path: str | os.PathLike[str], info: StreamInfo) -> bool:
    """All sampled frames are without colour but for one tint; a grey pixel format says so by itself.

    Raises:
        DecodeError: the file cannot be opened.
    """
    if info.format.colour == "gray":
        return True
    seen = [colourfulness(frame) for frame in sample_frames(path, NUM_SAMPLES)]
    return bool(seen) and max(seen) <= GREY_BELOW


def colourfulness(frame: Frame) -> float:
    """Mean over R - G, G - B and B - R of their variance over the picture, in (0..255) squared; 0 for one tint."""
    rgb = small_rgb(frame, _SIDE_PX).astype(np.float32)
    differences = rgb - np.roll(rgb, -1, axis=-1)
    return float(differences.reshape(-1, 3).var(0).mean())
