"""Which encoder, pixel format and container go together, as tables that the tests read too."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from av.video.format import VideoFormat

from vidrestore.config import EncodeOptions
from vidrestore.encode.scheduling import ordinary_scheduling
from vidrestore.types import Colour, PixelFormat

__all__ = [
    "CONTAINERS",
    "ENCODERS",
    "EXTENSIONS",
    "MIN_SIDES",
    "choose_pix_fmt",
    "encoder_name",
    "encoder_options",
    "encoder_rate",
    "muxer_options",
    "profile_of",
    "quiet_encoder",
]

EXTENSIONS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
    ".mxf": "mxf",
}
"""FFmpeg's muxer for a file name extension."""

CONTAINERS: dict[str, tuple[str, ...]] = {
    "h264": (".mp4", ".mov", ".mkv", ".m4v", ".ts", ".mts", ".m2ts"),
    "hevc": (".mp4", ".mov", ".mkv", ".m4v", ".ts", ".mts", ".m2ts"),
    "av1": (".mp4", ".mkv", ".webm", ".m4v"),
    "ffv1": (".mkv", ".avi"),
    "prores": (".mov", ".mkv", ".mxf"),
    "dnxhr": (".mov", ".mxf"),
}
"""Extensions that a codec can be written to, the most usual one first."""

_YUV8 = ("yuv420p", "yuv422p", "yuv444p")
_YUV10 = ("yuv420p10le", "yuv422p10le", "yuv444p10le")
_YUV12 = ("yuv420p12le", "yuv422p12le", "yuv444p12le")
_PIX_FMTS: dict[str, tuple[str, ...]] = {
    "h264": (*_YUV8, *_YUV10, "gray", "gray10le", "bgr0"),
    "hevc": (*_YUV8, *_YUV10, *_YUV12, "gray", "gray10le", "gray12le", "gbrp", "gbrp10le", "gbrp12le"),
    "av1": ("yuv420p", "yuv420p10le"),
    "ffv1": (
        *("yuv410p", "yuv411p", "yuv440p", "yuv440p10le", "yuv440p12le"),
        *(f"yuv{s}p{bits}" for s in ("420", "422", "444") for bits in ("", "9le", "10le", "12le", "14le", "16le")),
        *(f"yuva{s}p{bits}" for s in ("420", "422", "444") for bits in ("", "9le", "10le", "16le")),
        *("yuva422p12le", "yuva444p12le"),
        *(f"gray{bits}" for bits in ("", "9le", "10le", "12le", "14le", "16le")),
        *("bgr0", "bgra", "gbrp9le"),
        *(f"gbr{a}p{bits}le" for a in ("", "a") for bits in (10, 12, 14, 16)),
    ),
    "prores": ("yuv422p10le", "yuv444p10le", "yuva444p10le"),
    "dnxhr": ("yuv422p", "yuv422p10le", "yuv444p10le", "gbrp10le"),
}
# These code 4:2:0 and 4:2:2 in even sizes only: the cropping unit of their bitstreams is a chroma sample
_EVEN_ONLY = frozenset({"h264", "hevc"})
ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "ffv1": "ffv1",
    "prores": "prores_ks",
    "dnxhr": "dnxhd",
}
"""Our word for a codec -> FFmpeg's encoder."""
MIN_SIDES = {"hevc": (64, 64), "av1": (16, 16), "dnxhr": (256, 120)}
"""(width, height) that an encoder needs. Below 64 pixels x265 4.1 writes past its buffers; SVT-AV1 and DNxHR refuse."""
# FFV1's slices lie on a grid: with small pictures, or coarse chroma that a slice's edge would cut, there is one slice
_FFV1_SLICES, _FFV1_MIN_SIDE = 4, 64
# FFmpeg's muxer doubles the ticks of a video track up to this many a second
_MOV_LEAST_SCALE = 10_000
# Constant quality without visible loss; config.py gives the figures
_DEFAULT_CRF = {"h264": 17, "hevc": 20, "av1": 24}
# x264 and x265 end at 51
_MAX_CRF = {"h264": 51, "hevc": 51}
# SVT-AV1 counts its presets down; above 10 it warns of artefacts
_SVT_PRESETS = {"ultrafast": 10, "veryfast": 9, "fast": 8, "medium": 6, "slow": 4, "veryslow": 2}


@dataclass(frozen=True, slots=True)
class _Layout:
    colour: Colour
    depth: int
    shift: tuple[int, int]
    has_alpha: bool


@functools.cache
def _layout(name: str) -> _Layout:
    fmt = VideoFormat(name, 64, 64)
    parts = fmt.components
    colour: Colour = "rgb" if fmt.is_rgb else "gray" if len(parts) < 3 else "yuv"
    shift = (0, 0)
    if colour == "yuv":
        shift = (64 // parts[1].width).bit_length() - 1, (64 // parts[1].height).bit_length() - 1
    return _Layout(colour, parts[0].bits, shift, any(part.is_alpha for part in parts))


def choose_pix_fmt(codec: str, source: PixelFormat, depth: str = "source", *, size: tuple[int, int] = (2, 2)) -> str:
    """The pixel format of a codec that loses least of a source.

    In this order: no chroma resolution is lost, no bit of depth, no change between RGB, YUV and grey, no alpha; among
    equals the smallest. 8-bit 4:2:0 stays 8-bit 4:2:0 wherever the codec has it.

    Args:
        codec: a codec of :class:`vidrestore.config.EncodeOptions`.
        source: format of the frames to be written.
        depth: ``source``, or the bits per sample that are wanted: ``8``, ``10``.
        size: (height, width); H.264 and HEVC hold odd sizes only without chroma subsampling.
    """
    wanted = source.depth if depth == "source" else int(depth)
    is_odd = size[0] % 2 == 1, size[1] % 2 == 1

    def cost(name: str) -> tuple[int, ...]:
        made = _layout(name)
        is_cut = (is_odd[1] and made.shift[0] > 0) or (is_odd[0] and made.shift[1] > 0)
        return (
            codec in _EVEN_ONLY and is_cut,
            _lost_chroma(made, source),
            max(0, wanted - made.depth),
            made.colour != source.colour,
            source.has_alpha and not made.has_alpha,
            abs(made.depth - wanted),
            sum(max(0, s - m) for m, s in zip(made.shift, _shift_wanted(source), strict=True)),
            made.has_alpha and not source.has_alpha,
        )

    return min(_PIX_FMTS[codec], key=cost)


def _lost_chroma(made: _Layout, source: PixelFormat) -> int:
    """Halvings of chroma resolution; losing colour altogether is worse than any."""
    if source.colour == "gray":
        return 0
    if made.colour == "gray":
        return 9
    return sum(max(0, m - s) for m, s in zip(made.shift, source.chroma_shift, strict=True))


def _shift_wanted(source: PixelFormat) -> tuple[int, int]:
    """Grey has no chroma to keep: the coarser, the better."""
    return (2, 2) if source.colour == "gray" else source.chroma_shift


def encoder_name(codec: str, pix_fmt: str) -> str:
    """FFmpeg's encoder; x264 has a second one for RGB."""
    return "libx264rgb" if codec == "h264" and pix_fmt.startswith("bgr") else ENCODERS[codec]


def encoder_options(
    options: EncodeOptions, pix_fmt: str, *, size: tuple[int, int], hdr: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """Private options of the encoder, as FFmpeg spells them.

    Args:
        options: quality and speed.
        pix_fmt: out of :func:`choose_pix_fmt`.
        size: (height, width).
        hdr: (key, value) pairs in the encoder's own words for HDR metadata.
    """
    codec = options.codec
    quality = options.crf if options.crf is not None else _DEFAULT_CRF.get(codec, 0)
    crf = str(min(quality, _MAX_CRF.get(codec, 63)))
    extra = ":".join(f"{key}={value}" for key, value in hdr)
    made: dict[str, str]
    if codec == "h264":
        return {"crf": crf, "preset": options.speed} | ({"x264-params": extra} if extra else {})
    if codec == "hevc":
        pools = f":pools={options.threads}" if options.threads else ""
        params = "log-level=none" + pools + (f":{extra}" if extra else "")
        return {"crf": crf, "preset": options.speed, "x265-params": params}
    if codec == "av1":
        made = {"crf": crf, "preset": str(_SVT_PRESETS[options.speed])}
        params = ":".join(part for part in (f"lp={options.threads}" if options.threads else "", extra) if part)
        return made | ({"svtav1-params": params} if params else {})
    if codec == "ffv1":
        # version 3 with a checksum per slice is what archives ask for (RFC 9043); context 1 packs a little better
        is_cut = min(size) >= _FFV1_MIN_SIDE and "410" not in pix_fmt and "411" not in pix_fmt
        is_cut = is_cut and all(side % 4 != 3 for side in size)  # an edge through a chroma sample: FFmpeg refuses
        slices = str(_FFV1_SLICES if is_cut else 1)
        return {"level": "3", "slices": slices, "slicecrc": "1", "coder": "1", "context": "1", "g": "1"}
    return {"profile": profile_of(codec, pix_fmt)} | ({"vendor": "apl0"} if codec == "prores" else {})


def profile_of(codec: str, pix_fmt: str) -> str:
    """The intermediate profile that holds a pixel format: ProRes 422 HQ or 4444, DNxHR HQ, HQX or 444."""
    if codec == "prores":
        return "4444" if "444" in pix_fmt else "hq"
    if pix_fmt == "yuv422p":
        return "dnxhr_hq"
    return "dnxhr_hqx" if pix_fmt == "yuv422p10le" else "dnxhr_444"


def muxer_options(extension: str, time_base: Fraction, first_pts: int = 0) -> dict[str, str]:
    """Options of the muxer.

    MP4 and MOV write the start of a track in ticks of the *movie*, 1 ms by default; with the video's own ticks every
    time comes back exactly. Matroska has no times before zero; FFmpeg would move all streams because of the run-in of
    an audio encoder, which Matroska carries in a field of its own.
    """
    if extension in (".mkv", ".webm"):
        return {"avoid_negative_ts": "disabled"} if first_pts >= 0 else {}
    if extension not in (".mp4", ".m4v", ".mov"):
        return {}
    scale = time_base.denominator
    while scale < _MOV_LEAST_SCALE:
        scale *= 2
    return {"movie_timescale": str(scale)} | ({"movflags": "+use_metadata_tags"} if extension == ".mov" else {})


@contextlib.contextmanager
def quiet_encoder(codec: str) -> Iterator[None]:
    """Keeps SVT-AV1, while it starts, from the terminal (its environment variable is its only switch) and from
    :mod:`real-time scheduling <vidrestore.encode.scheduling>`."""
    if codec != "av1":
        yield
        return
    is_ours = "SVT_LOG" not in os.environ
    if is_ours:
        os.environ["SVT_LOG"] = "0"
    try:
        with ordinary_scheduling():
            yield
    finally:
        if is_ours:
            del os.environ["SVT_LOG"]


def encoder_rate(codec: str, rate: Fraction | None) -> Fraction:
    """Frames per second to tell the encoder: its rate control and level need one, the times do not depend on it."""
    limit = 240 if codec == "av1" else 1000
    return min(max(rate or Fraction(25), Fraction(1)), Fraction(limit)).limit_denominator(100_000)
