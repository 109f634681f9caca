"""A file becomes frames: :class:`VideoReader`."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from types import TracebackType
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vidrestore.config import DecodeOptions
from vidrestore.decode.clock import PresentationClock
from vidrestore.decode.display import display_geometry
from vidrestore.decode.formats import Layout, native_layout, pixel_format, planes_of, repack
from vidrestore.decode.hardware import accelerator, kinds_to_try
from vidrestore.decode.shots import ShotDetector
from vidrestore.decode.source import MAX_PIXELS, check_size, open_container, video_stream
from vidrestore.errors import DecodeError, printable
from vidrestore.types import Frame, StreamInfo

__all__ = ["Loss", "VideoReader"]

log = logging.getLogger(__name__)

# Damage comes in long runs: each kind is listed so many times one by one, the rest as one sum
_MAX_LISTED = 100
# Read errors in a row after which the rest of the file is given up; an MP4 that was cut gives one per missing sample
_MAX_READ_ERRORS = 1000
# The end may be missed by so many frames before it counts as cut: containers round, and B-frames shift the start
_END_TOLERANCE = 3
# Codecs with one shown picture in each packet (VP8 and VP9 hide some); field pairs are left out where they show up
_ONE_TO_ONE = frozenset({"h264", "hevc", "vvc", "av1", "mpeg4", "mpeg2video", "prores", "dnxhd", "mjpeg", "ffv1"})
# Containers that declare a duration of their own; for the others FFmpeg estimates one from the file's size or end
_DECLARING = frozenset({"mov", "mp4", "matroska", "webm", "avi", "flv", "asf", "mxf", "nut", "wtv", "gxf"})


@dataclass(frozen=True, slots=True)
class Loss:
    """Something of the input that did not come through whole."""

    kind: str
    """``packet`` (could not be decoded), ``corrupt`` (decoded with concealed damage), ``pts`` (time made up),
    ``truncated`` (the file ends early) or ``format`` (the picture's size or format changed, the rest is left out)."""
    message: str
    """One sentence."""
    pts: int | None = None
    """Where, in ticks of the stream's time base, if known."""
    time_s: float | None = None
    """Where, in seconds, if known."""


class VideoReader:
    """Decodes the best video stream of a file, once, from its first to its last frame."""

    def __init__(self, path: str | os.PathLike[str], options: DecodeOptions | None = None) -> None:
        """Opens the file and decodes its first frame, which tells format and rotation.

        Args:
            path: a local file.
            options: threads and the threshold of the shot detector.

        Raises:
            DecodeError: the file is missing or unreadable, has no video stream, or nothing in it can be decoded.
        """
        self._path = path
        self._options = options or DecodeOptions()
        self._is_started = False
        for kind in kinds_to_try(self._options.hardware):
            if self._opens_on(kind):
                return
        self._open(None)

    def _opens_on(self, kind: str) -> bool:
        """Whether the machine's own decoder gives the first frame; the file is then open."""
        try:
            self._open(accelerator(kind))
            if self._stream.codec_context.is_hwaccel:
                log.info("%s: decoded by %s", printable(self._path), kind)
                return True
            reason = "it does not know this codec or format"
        except (DecodeError, av.error.FFmpegError, OSError, RuntimeError, ValueError) as error:
            reason = str(error.__cause__ or error)
        self.close()
        level = logging.INFO if self._options.hardware == "auto" else logging.WARNING
        log.log(level, "%s: not decoded by %s (%s)", printable(self._path), kind, printable(reason))
        return False

    def _open(self, hardware: HWAccel | None) -> None:
        """Opens the file and decodes its first frame."""
        self._losses: list[Loss] = []
        self._counts: Counter[str] = Counter()
        self._end_s: float | None = None
        self._early_pts: list[int | None] = []
        self._num_packets: int | None = None
        self._has_fields = False
        self._container: InputContainer | None = None
        self._container = open_container(self._path, hardware)
        try:
            self._stream = video_stream(self._container, self._path)
            self._open_decoder()
            self._time_base = Fraction(self._stream.time_base or Fraction(1, 90000))
            self._raw = self._raw_frames(self._container, self._stream)
            self._first: av.VideoFrame | None = self._first_frame()
            self.info = self._describe(self._container, self._first)
        except BaseException:
            self.close()
            raise

    info: StreamInfo
    """What is known before the first frame is shown to anybody."""

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What did not come through so far; complete once :meth:`decode` has ended."""
        more = tuple(
            Loss(kind, f"{count - _MAX_LISTED} more of kind {kind} are not listed one by one")
            for kind, count in sorted(self._counts.items())
            if count > _MAX_LISTED
        )
        return tuple(self._losses) + more

    def close(self) -> None:
        """Gives the file and the decoder back; a second call does nothing."""
        raw, self._raw = getattr(self, "_raw", None), iter(())
        if raw is not None and hasattr(raw, "close"):
            raw.close()
        self._first = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def decode(self) -> Iterator[Frame]:
        """Yields the frames in presentation order, each with the container's own time.

        Damage does not stop it: what cannot be decoded is left out and listed in :attr:`losses`.

        Raises:
            ValueError: called a second time; a reader goes through its file once.
        """
        if self._is_started or self._container is None:
            raise ValueError("a VideoReader decodes once; open the file again")
        self._is_started = True
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        clock = PresentationClock(self._time_base, self.info.average_rate)
        shots = ShotDetector(self._options.cut_threshold)
        layout = native_layout(self.info.format.name)
        assert layout is not None
        reformatter = VideoReformatter()
        shot = 0
        index = -1
        for index, raw in enumerate(self._same_format()):
            frame = self._make_frame(index, raw, clock, layout, reformatter)
            shot += shots.update(frame)
            yield replace(frame, shot=shot)
        if "format" not in self._counts:
            self._check_count(index + 1)
            self._check_end(clock.end)

    def _make_frame(
        self,
        index: int,
        raw: av.VideoFrame,
        clock: PresentationClock,
        layout: Layout,
        reformatter: VideoReformatter,
    ) -> Frame:
        duration = int(raw.duration) or None
        pts, problem = clock.stamp(raw.pts, raw.dts, duration)
        if problem is not None:
            self._lose("pts", f"frame {index} {problem}", pts)
        self._has_fields = self._has_fields or raw.interlaced_frame
        if raw.is_corrupt:
            self._lose("corrupt", f"frame {index} is damaged, the decoder concealed what was missing", pts)
        # PyAV leaves it empty in what comes out at the end of the stream
        raw.time_base = self._time_base
        carrier = repack(raw, reformatter)
        return Frame(
            index=index,
            pts=pts,
            time_base=self._time_base,
            planes=planes_of(carrier, layout),
            format=self.info.format,
            duration=duration,
            carrier=carrier,
        )

    def _same_format(self) -> Iterator[av.VideoFrame]:
        """The decoder's frames up to the first whose size or format differs from the first frame's."""
        first, self._first = self._first, None
        assert first is not None
        expected = first.width, first.height, first.format.name
        yield first
        del first
        for raw in self._raw:
            found = raw.width, raw.height, raw.format.name
            if found != expected:
                was, now = (f"{w}x{h} {name}" for w, h, name in (expected, found))
                self._lose("format", f"the picture changes from {was} to {now}; the rest is left out", raw.pts)
                return
            yield raw

    def _raw_frames(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        for packet in self._packets(container):
            if packet.stream_index != stream.index:
                continue
            if not packet.is_discard:
                self._count(packet)
            yield from self._decode_packet(stream, packet)
        yield from self._decode_packet(stream, None)

    def _decode_packet(self, stream: VideoStream, packet: Packet[Any] | None) -> list[av.VideoFrame]:
        try:
            return list(stream.decode(packet))
        except av.error.EOFError:
            return []
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError as error:
            pts = None if packet is None else packet.pts
            self._lose("packet", f"a packet could not be decoded ({error.strerror})", pts)
            return []

    def _packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """The packets of all streams; read errors are skipped until too many come in a row."""
        num_errors = 0
        while num_errors < _MAX_READ_ERRORS:
            try:
                for packet in container.demux():
                    if packet.size == 0:
                        # PyAV ends with one empty packet per stream; the flush is done by the caller
                        continue
                    num_errors = 0
                    self._note_end(packet)
                    yield packet
                return
            except av.error.FFmpegError as error:
                if isinstance(error, av.error.MemoryError):
                    raise
                num_errors += 1
                if num_errors == 1:
                    self._lose("packet", f"a part of the file could not be read ({error.strerror})", None)

    def _note_end(self, packet: Packet[Any]) -> None:
        start = packet.pts if packet.pts is not None else packet.dts
        if start is not None and packet.time_base:
            end = float((start + (packet.duration or 0)) * Fraction(packet.time_base))
            self._end_s = end if self._end_s is None else max(self._end_s, end)

    def _count(self, packet: Packet[Any]) -> None:
        if self._num_packets is None:
            self._early_pts.append(packet.pts)
        else:
            self._num_packets += 1

    def _check_count(self, num_frames: int) -> None:
        """Compares the pictures that came out of the decoder with the packets that went in."""
        if self._has_fields or self._num_packets is None or self.info.codec not in _ONE_TO_ONE:
            return
        missing = self._num_packets - num_frames - self._counts["packet"]
        if missing > 0:
            self._lose("packet", f"{missing} more packets gave no picture", None)

    def _check_end(self, end: int | None) -> None:
        """Compares where the data ended with what the container declares."""
        container = self._container
        if container is None or end is None or not _DECLARING & set(container.format.name.split(",")):
            return
        frame_s = float(1 / self.info.average_rate) if self.info.average_rate else 0.04
        tolerance_s = _END_TOLERANCE * frame_s
        stream = self._stream
        reached = float(end * self._time_base)
        if container.format.name == "avi" and stream.frames:
            # FFmpeg shortens the duration of an AVI to the file's size; the header's count stays
            declared = stream.frames * frame_s
        elif stream.duration and "matroska" not in container.format.name:
            declared = float(((stream.start_time or 0) + stream.duration) * self._time_base)
        elif container.duration:
            # of the longest stream, which need not be the video
            reached = max(reached, self._end_s or 0.0)
            declared = float(((container.start_time or 0) + container.duration) / av.time_base)
        else:
            return
        if reached < declared - tolerance_s:
            self._lose("truncated", f"the file ends at {reached:.3f} s of {declared:.3f} s, it was cut short", end)

    def _lose(self, kind: str, message: str, pts: int | None) -> None:
        self._counts[kind] += 1
        if self._counts[kind] > _MAX_LISTED:
            return
        time_s = None if pts is None else float(pts * self._time_base)
        log.warning("%s: %s", printable(self._path), message)
        self._losses.append(Loss(kind, message, pts, time_s))

    def _open_decoder(self) -> None:
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = self._options.threads
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}

    def _first_frame(self) -> av.VideoFrame:
        first = next(self._raw, None)
        if first is None:
            raise DecodeError(f"{printable(self._path)}: no frame of its video can be decoded", path=self._path)
        check_size(first.width, first.height, self._path)
        # what comes before it are leading pictures of an open group, whose references are not in the file: no loss
        start = first.pts
        self._num_packets = sum(start is None or pts is None or pts >= start for pts in self._early_pts)
        return first

    def _describe(self, container: InputContainer, first: av.VideoFrame) -> StreamInfo:
        stream = self._stream
        rate = Fraction(stream.average_rate) if stream.average_rate else None
        duration_s = _duration_s(container, stream, self._time_base)
        num_frames = stream.frames or (round(duration_s * rate) if duration_s and rate else None)
        try:
            layout = pixel_format(first, stream.codec_context)
        except ValueError as error:
            raise DecodeError(f"{printable(self._path)}: {error}", path=self._path) from error
        geometry = display_geometry(first, stream)
        return StreamInfo(
            path=os.fspath(self._path),
            frame_width=first.width,
            frame_height=first.height,
            width=geometry.width,
            height=geometry.height,
            display_from_frame=geometry.display_from_frame,
            rotation=geometry.rotation,
            sample_aspect_ratio=geometry.sample_aspect_ratio,
            time_base=self._time_base,
            average_rate=rate,
            num_frames=num_frames,
            duration_s=duration_s,
            format=layout,
            codec=stream.codec_context.codec.canonical_name,
            bit_rate=stream.codec_context.bit_rate or None,
            has_audio=bool(container.streams.audio),
        )


def _duration_s(container: InputContainer, stream: VideoStream, time_base: Fraction) -> float | None:
    if stream.duration:
        return float(stream.duration * time_base)
    return container.duration / av.time_base if container.duration else None
