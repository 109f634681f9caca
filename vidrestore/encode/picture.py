"""A :class:`Frame` becomes an ``av.VideoFrame`` in the encoder's pixel format, without touching the original."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.video.plane import VideoPlane
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from vidrestore.types import Frame, PixelFormat, Plane

__all__ = ["ColourTags", "Painter", "colour_tags"]

_LIMITED, _FULL = 1, 2
_TAGS = {"bt709": 1, "fcc": 4, "bt601": 6, "smpte240m": 7, "ycgco": 8, "bt2020": 9}
_SWS = {
    "bt709": Colorspace.ITU709,
    "fcc": Colorspace.FCC,
    "bt601": Colorspace.ITU601,
    "smpte240m": Colorspace.SMPTE240M,
    "bt2020": Colorspace.BT2020,
}


class ColourTags:
    """The four colour numbers that are written into stream and frames."""

    __slots__ = ("matrix", "primaries", "range", "transfer")

    def __init__(self, matrix: int, range_: int, primaries: int, transfer: int) -> None:
        self.matrix, self.range, self.primaries, self.transfer = matrix, range_, primaries, transfer


def colour_tags(source: PixelFormat, pix_fmt: str, codec: str) -> ColourTags:
    """What to write for frames of a format in an encoder's pixel format.

    The source's tags stay as they are; a range or matrix that is only known here (full range without a tag, a
    conversion from RGB) is told, since a player would guess otherwise. ProRes knows the limited range alone.
    """
    target = av.VideoFormat(pix_fmt, 64, 64)
    matrix = source.matrix_tag
    if target.is_rgb:
        matrix = 0
    elif source.colour == "rgb":
        matrix = _TAGS[source.matrix]
    range_ = source.range_tag or (_FULL if source.full_range else 0)
    if codec == "prores" or (source.colour == "rgb" and not target.is_rgb):
        range_ = _LIMITED
    return ColourTags(matrix, range_, source.primaries, source.transfer)


class Painter:
    """Makes the encoder's frames; holds the filter graph and the scaler that do it."""

    def __init__(self, source: PixelFormat, pix_fmt: str, tags: ColourTags, sample_aspect_ratio: Fraction) -> None:
        """
        Args:
            source: format of the frames that will come.
            pix_fmt: the encoder's.
            tags: colour tags of the frames that will be made.
            sample_aspect_ratio: of the frames that will be made; FFV1 writes it into every picture.
        """
        self._sample_aspect_ratio = sample_aspect_ratio
        self._source = source
        self._pix_fmt = pix_fmt
        self._tags = tags
        self._reformatter = VideoReformatter()
        self._graph: Graph | None = None
        self._graph_key: tuple[object, ...] = ()

    def paint(self, frame: Frame) -> av.VideoFrame:
        """A new frame with the pixels, time and side data of ``frame``; shares memory with it only where unchanged."""
        made = self._converted(self._filled(frame))
        made.pts = frame.pts
        made.time_base = frame.time_base
        made.duration = frame.duration or 0
        made.pict_type = 0
        tags = self._tags
        made.colorspace, made.color_range = tags.matrix, tags.range
        made.color_primaries, made.color_trc = tags.primaries, tags.transfer
        return made

    def _filled(self, frame: Frame) -> av.VideoFrame:
        carrier = frame.carrier
        name = frame.format.name
        if isinstance(carrier, av.VideoFrame) and (carrier.format.name, carrier.width, carrier.height) == (
            name,
            frame.width,
            frame.height,
        ):
            made = self._clone(carrier, frame.time_base)
            changed = [i for i, p in enumerate(frame.planes) if not _is_view_of(p, carrier.planes[i])]
            if changed:
                made.make_writable()
        else:
            blank = av.VideoFrame(frame.width, frame.height, name)
            made = self._clone(blank, frame.time_base)
            del blank
            changed = list(range(len(frame.planes)))
        for i in changed:
            _copy_plane(frame.planes[i], made.planes[i])
        return made

    def _clone(self, carrier: av.VideoFrame, time_base: Fraction) -> av.VideoFrame:
        """A second frame on the same buffers with its own times, tags and reference to the side data.

        PyAV has no call for it; a filter graph does just that, and sets the aspect ratio on its way.
        """
        key = carrier.width, carrier.height, carrier.format.name, int(carrier.colorspace), int(carrier.color_range)
        if self._graph is None or key != self._graph_key:
            self._graph = Graph()
            source = self._graph.add(
                "buffer",
                f"video_size={carrier.width}x{carrier.height}:pix_fmt={carrier.format.name}"
                f":time_base={time_base.numerator}/{time_base.denominator}"
                f":colorspace={int(carrier.colorspace)}:range={int(carrier.color_range)}",
            )
            sink = self._graph.add("buffersink")
            ratio = self._sample_aspect_ratio
            aspect = self._graph.add("setsar", f"sar={ratio.numerator}/{ratio.denominator}:max={2**31 - 1}")
            source.link_to(aspect)
            aspect.link_to(sink)
            self._graph.configure()
            self._graph_key = key
        self._graph.push(carrier)
        made = self._graph.pull()
        assert isinstance(made, av.VideoFrame)
        return made

    def _converted(self, made: av.VideoFrame) -> av.VideoFrame:
        source = self._source
        range_ = _FULL if source.full_range else _LIMITED
        wanted = self._tags.range or _LIMITED
        if made.format.name.replace("yuvj", "yuv") == self._pix_fmt and (range_ == wanted or source.colour == "rgb"):
            return made
        if source.colour == "gray" and not self._pix_fmt.startswith("gray"):
            made = _with_neutral_chroma(made, source)
        matrix = _SWS.get(source.matrix, Colorspace.ITU601)
        return self._reformatter.reformat(
            made,
            format=self._pix_fmt,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=range_,
            dst_color_range=wanted,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
            threads=1,
        )


def _is_view_of(plane: Plane, original: VideoPlane) -> bool:
    """Whether an array is the very memory of a decoder's plane, unchanged by the rule that frames are not edited."""
    if original.line_size < 0:
        return False
    interface = plane.__array_interface__
    return bool(interface["data"][0] == original.buffer_ptr and plane.strides[0] == original.line_size)


def _copy_plane(plane: Plane, target: VideoPlane) -> None:
    rows = np.frombuffer(memoryview(target), np.uint8).view(plane.dtype).reshape(target.height, -1)
    rows = rows[::-1] if target.line_size < 0 else rows
    rows[:, : plane.shape[1]] = plane


def _with_neutral_chroma(grey: av.VideoFrame, source: PixelFormat) -> av.VideoFrame:
    """The same samples as luma of a 4:4:4 frame without colour; exact, where the scaler would change the range."""
    suffix = "" if source.depth == 8 else f"{source.depth}le"
    made = av.VideoFrame(grey.width, grey.height, f"yuv444p{suffix}")
    dtype = source.dtype
    samples = np.frombuffer(memoryview(grey.planes[0]), np.uint8).view(dtype)
    luma = samples.reshape(grey.height, -1)[:, : grey.width]
    neutral = np.full((grey.height, grey.width), 1 << (source.depth - 1), dtype)
    for plane, target in zip((luma, neutral, neutral), made.planes, strict=True):
        _copy_plane(plane, target)
    return made
