"""The machine's video encoders, chosen by trying them: NVENC, Quick Sync, VA-API, VideoToolbox.

They are fast and need more bits for the same picture than x264 and x265, so they are never taken unasked. FFmpeg lists
what it was built with, not what works: only an encoded picture tells.
"""

from __future__ import annotations

import functools
import logging
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.codec.codec import UnknownCodecError

from vidrestore.config import EncodeOptions

__all__ = ["hardware_encoder", "hardware_options"]

log = logging.getLogger(__name__)

_SUFFIXES = {"cuda": "nvenc", "qsv": "qsv", "vaapi": "vaapi", "videotoolbox": "videotoolbox"}
_CODECS = ("h264", "hevc", "av1")
# x264's words -> NVENC's seven presets, and Quick Sync's own words
_NVENC = {"ultrafast": "p1", "veryfast": "p2", "fast": "p3", "medium": "p4", "slow": "p6", "veryslow": "p7"}
_QSV = {"ultrafast": "veryfast", "veryfast": "veryfast", "fast": "fast", "medium": "medium", "slow": "slow"}
_DEFAULT_QUALITY = {"h264": 19, "hevc": 22, "av1": 28}
_TRIAL_SIDE = 256  # NVENC refuses pictures below 145 pixels


def hardware_encoder(options: EncodeOptions, pix_fmt: str) -> str | None:
    """FFmpeg's name of an encoder in hardware that takes the options' codec in this pixel format, and works here.

    Args:
        options: codec, and which kind of hardware: ``none``, ``auto`` or a name.
        pix_fmt: of the pictures to be written.

    Returns:
        None where nothing was asked for, or nothing works; the latter is logged.
    """
    if options.hardware == "none":
        return None
    kinds = tuple(_SUFFIXES) if options.hardware == "auto" else (options.hardware,)
    for kind in kinds if options.codec in _CODECS else ():
        name = f"{options.codec}_{_SUFFIXES[kind]}"
        if _works(name, pix_fmt):
            log.info("encoding with %s", name)
            return name
    asked = options.hardware, options.codec, pix_fmt
    log.warning("no encoder in hardware (%s) takes %s in %s here, going on in software", *asked)
    return None


def hardware_options(name: str, options: EncodeOptions) -> dict[str, str]:
    """Private options of such an encoder: constant quality on its own scale, and its effort."""
    quality = str(options.crf if options.crf is not None else _DEFAULT_QUALITY[options.codec])
    if name.endswith("nvenc"):
        return {"preset": _NVENC[options.speed], "rc": "vbr", "cq": quality, "b": "0", "tune": "hq"}
    if name.endswith("qsv"):
        return {"preset": _QSV.get(options.speed, "veryslow"), "global_quality": quality}
    if name.endswith("vaapi"):
        return {"rc_mode": "CQP", "qp": quality}
    # VideoToolbox counts quality up, from 1 to 100
    return {"q": str(max(1, 100 - 2 * int(quality)))}


@functools.cache
def _works(name: str, pix_fmt: str) -> bool:
    """One picture comes out as a packet."""
    try:
        codec = av.codec.Codec(name, "w")
        if pix_fmt not in {fmt.name for fmt in codec.video_formats or ()}:
            return False
        context: Any = av.codec.CodecContext.create(codec, "w")
        context.width = context.height = _TRIAL_SIDE
        context.pix_fmt = pix_fmt
        context.time_base = Fraction(1, 25)
        grey = np.full((_TRIAL_SIDE, _TRIAL_SIDE, 3), 128, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pix_fmt)
        frame.pts = 0
        return bool([*context.encode(frame), *context.encode(None)])
    except (UnknownCodecError, av.error.FFmpegError, OSError, ValueError) as error:
        log.debug("%s in %s: %s", name, pix_fmt, error)
        return False
