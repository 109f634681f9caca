"""Pixel formats: which are taken as they are, which planar twin the others are repacked to, and how to read them.

A frame is never turned into RGB here. Planar formats of 8 to 16 bits come out as views of the decoder's own memory;
packed, semi-planar, palette and big-endian ones are repacked to the planar format of the same depth and subsampling,
sample for sample. Floating-point, Bayer and XYZ pictures have no such twin and are converted to 16 bits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter

from vidrestore.types import Colour, PixelFormat, Plane

__all__ = ["Layout", "native_layout", "pixel_format", "planar_twin", "planes_of", "repack"]

# AVColorSpace -> the words of PixelFormat.matrix (ITU-T H.273 table 4; 10 is constant luminance, read as 9)
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 8: "ycgco", 9: "bt2020", 10: "bt2020"}
_SUBSAMPLINGS = {(0, 0): "444", (1, 0): "422", (0, 1): "440", (1, 1): "420", (2, 0): "411", (2, 2): "410"}
_SMALL_RGB = tuple(f"{order}{bits}" for order in ("rgb", "bgr") for bits in ("444", "555", "565"))
_BT2020_PRIMARIES = 9
_UNSPECIFIED = 2
_FULL = 2
_LIMITED = 1
# Codecs whose chroma samples lie between the luma samples in both directions (MPEG-1 and JPEG put them there)
_CENTRED_CHROMA = frozenset({"mpeg1video", "mjpeg", "mjpegb", "ljpeg", "jpegls"})
# Grey without a range tag: these follow their standards (limited); pictures and lossless codecs mean the full range
_LIMITED_GREY = frozenset({"h264", "hevc", "vvc", "av1", "libdav1d", "vp8", "vp9", "mpeg2video", "mpeg4", "prores"})


@dataclass(frozen=True, slots=True)
class Layout:
    """What the name of a planar pixel format says."""

    name: str
    colour: Colour
    depth: int
    chroma_shift: tuple[int, int]
    has_alpha: bool


@functools.cache
def native_layout(name: str) -> Layout | None:
    """The layout of a planar format that is used as it is, or None where frames must be repacked.

    Args:
        name: FFmpeg's name, such as ``yuv420p10le``.
    """
    fmt = VideoFormat(name, 64, 64)
    parts = fmt.components
    depths = {part.bits for part in parts}
    is_odd = fmt.has_palette or fmt.is_bit_stream or fmt.is_bayer or fmt.is_big_endian or _is_inexact(name)
    is_planar = sorted(part.plane for part in parts) == list(range(len(parts)))
    if is_odd or not is_planar or "msb" in name or len(depths) != 1 or not 8 <= min(depths) <= 16:
        return None
    colour: Colour = "rgb" if fmt.is_rgb else "gray" if len(parts) < 3 else "yuv"
    return Layout(name, colour, depths.pop(), _chroma_shift(fmt), any(part.is_alpha for part in parts))


def _chroma_shift(fmt: VideoFormat) -> tuple[int, int]:
    """log2 of the chroma subsampling of a format described for 64 x 64 pixels."""
    parts = fmt.components
    if len(parts) < 3 or fmt.is_rgb:
        return 0, 0
    return (64 // parts[1].width).bit_length() - 1, (64 // parts[1].height).bit_length() - 1


def _is_inexact(name: str) -> bool:
    """Float, XYZ: formats that no integer planar format holds."""
    return name.startswith("xyz") or any(word in name for word in ("f16", "f32"))


@functools.cache
def planar_twin(name: str) -> Layout:
    """The planar layout that frames of a format are given in: itself, or what they are repacked to.

    Raises:
        ValueError: FFmpeg does not know the name, or there is no software format behind it.
    """
    native = native_layout(name)
    if native is not None:
        return native
    fmt = VideoFormat(name, 64, 64)
    parts = fmt.components
    if not parts:
        raise ValueError(f"pixel format {name} holds no samples in memory")
    alpha = "a" if fmt.has_palette or any(part.is_alpha for part in parts) else ""
    bits = 16 if _is_inexact(name) or (fmt.is_bayer and "16" in name) else max([8, *(part.bits for part in parts)])
    if fmt.is_rgb or fmt.is_bayer or fmt.has_palette or name.startswith("xyz"):
        stem = f"gbr{alpha}p"
    elif len(parts) - len(alpha) < 3:
        stem = "gray"
    else:
        stem = f"yuv{alpha}{_SUBSAMPLINGS[_chroma_shift(fmt)]}p"
    return _nearest_depth(stem, bits)


def _nearest_depth(stem: str, bits: int) -> Layout:
    """The layout of that family with the fewest bits that hold ``bits``."""
    for depth in range(bits, 17):
        name = stem if depth == 8 else f"{stem}{depth}le"
        try:
            layout = native_layout(name)
        except ValueError:
            continue
        if layout is not None:
            return layout
    raise ValueError(f"there is no planar {stem} format of {bits} bits")


def repack(frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    """The frame in its planar twin: the same object where it is planar already, else a new one with its side data."""
    twin = planar_twin(frame.format.name)
    if twin.name == frame.format.name:
        return frame
    flags = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP
    packed = frame.format
    made = reformatter.reformat(frame, format=twin.name, interpolation=flags, threads=1)
    if packed.name.startswith(_SMALL_RGB):
        _fill_low_bits(made, packed)
    return made


def _fill_low_bits(made: av.VideoFrame, packed: VideoFormat) -> None:
    """Spreads 4 to 6 bits over 8, so that white is 255; FFmpeg leaves the low bits at zero."""
    red_green_blue = [part.bits for part in packed.components]
    for plane, bits in zip(made.planes, (red_green_blue[1], red_green_blue[2], red_green_blue[0]), strict=True):
        samples = np.frombuffer(memoryview(plane), np.uint8)
        samples |= samples >> bits


def planes_of(frame: av.VideoFrame, layout: Layout) -> tuple[Plane, ...]:
    """Views of the planes of a frame in a native format, cropped to the picture's width.

    The views keep the frame alive; they are marked read-only.
    """
    return tuple(_view(plane, layout.depth) for plane in frame.planes)


def _view(plane: VideoPlane, depth: int) -> Plane:
    samples: Plane = np.frombuffer(memoryview(plane), np.uint8)
    if depth > 8:
        samples = samples.view(np.uint16)
    rows = samples.reshape(plane.height, -1)[:, : plane.width]
    rows.flags.writeable = False
    return rows[::-1] if plane.line_size < 0 else rows


def pixel_format(frame: av.VideoFrame, context: VideoCodecContext) -> PixelFormat:
    """How to read the frames of a stream, from its first decoded frame and its codec context.

    Args:
        frame: as decoded, before :func:`repack`.
        context: tells the tags of the container where the frame has none.
    """
    name = frame.format.name
    layout = planar_twin(name)
    matrix_tag = _tag(frame.colorspace, context.colorspace)
    primaries = _tag(frame.color_primaries, context.color_primaries)
    range_tag = int(frame.color_range) or int(context.color_range)
    codec = context.codec.canonical_name
    return PixelFormat(
        name=layout.name,
        colour=layout.colour,
        depth=layout.depth,
        chroma_shift=layout.chroma_shift,
        siting=_siting(layout, codec),
        has_alpha=layout.has_alpha,
        matrix=_MATRICES.get(matrix_tag) or guess_matrix(frame.width, frame.height, primaries),
        full_range=_is_full_range(layout, name, range_tag, codec),
        primaries=primaries,
        transfer=_tag(frame.color_trc, context.color_trc),
        matrix_tag=matrix_tag,
        range_tag=range_tag,
    )


def guess_matrix(width: int, height: int, primaries: int = _UNSPECIFIED) -> str:
    """The luma coefficients that an untagged picture most likely has, by its size in pixels."""
    if primaries == _BT2020_PRIMARIES:
        return "bt2020"
    return "bt709" if height >= 720 or width >= 1280 else "bt601"


def _tag(of_frame: int, of_stream: int) -> int:
    return int(of_frame) if int(of_frame) != _UNSPECIFIED else int(of_stream)


def _is_full_range(layout: Layout, name: str, range_tag: int, codec: str) -> bool:
    if range_tag in (_LIMITED, _FULL):
        return range_tag == _FULL
    if layout.colour == "yuv":
        return name.startswith("yuvj")
    return layout.colour == "rgb" or codec not in _LIMITED_GREY


def _siting(layout: Layout, codec: str) -> tuple[float, float]:
    """PyAV does not tell the chroma location of a frame; the codecs' defaults are H.273's type 0 and JPEG's centre."""
    sx, sy = layout.chroma_shift
    centre_x, centre_y = ((1 << sx) - 1) / 2, ((1 << sy) - 1) / 2
    return (centre_x if codec in _CENTRED_CHROMA else 0.0), centre_y
