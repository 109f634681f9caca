"""Frames become a file: :class:`VideoWriter`."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vidrestore.config import EncodeOptions
from vidrestore.encode.codecs import (
    CONTAINERS,
    EXTENSIONS,
    MIN_SIDES,
    choose_pix_fmt,
    encoder_name,
    encoder_options,
    encoder_rate,
    muxer_options,
    quiet_encoder,
)
from vidrestore.encode.hardware import hardware_encoder, hardware_options
from vidrestore.encode.hdr import encoder_params, read_hdr
from vidrestore.encode.picture import Painter, colour_tags
from vidrestore.encode.streams import TAGS_AS_THEY_ARE, StreamCopier
from vidrestore.errors import EncodeError, printable
from vidrestore.types import Frame, StreamInfo

__all__ = ["VideoWriter", "WrittenVideo", "check_target"]

log = logging.getLogger(__name__)

# Containers without times of their own
_COUNTING = (".avi", ".mxf")
# AVFieldOrder: 2 is top field first, what FFmpeg assumes of interlaced video that does not say
_TOP_FIELD_FIRST = 2


@dataclass(frozen=True, slots=True)
class WrittenVideo:
    """What was written."""

    path: str
    num_frames: int
    num_bytes: int
    codec: str
    """FFmpeg's name of the encoder."""
    pix_fmt: str
    copied: Mapping[str, int] = field(default_factory=dict)
    """Streams copied from the source, by type."""
    skipped: tuple[str, ...] = ()
    """Streams of the source that the container cannot hold, one sentence each."""


class VideoWriter:
    """Encodes frames into a hidden file beside the target and moves it there when it is whole."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: StreamInfo,
        options: EncodeOptions | None = None,
        *,
        source: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Checks everything that can be checked before the first frame.

        Args:
            path: the file to be made; its extension names the container.
            info: of the stream that the frames come from.
            options: codec, quality, depth.
            source: the file whose other streams are copied; None copies nothing.
            overwrite: replace a file that is there.

        Raises:
            EncodeError: the target exists or is the source, its folder is missing or not writable, or codec and
                container do not go together.
        """
        self.path = Path(path)
        self.info = info
        self.options = options or EncodeOptions()
        self._source = source
        self.pix_fmt = choose_pix_fmt(
            self.options.codec, info.format, self.options.depth, size=(info.frame_height, info.frame_width)
        )
        self._hardware = hardware_encoder(self.options, self.pix_fmt)
        self._encoder = self._hardware or encoder_name(self.options.codec, self.pix_fmt)
        self.result: WrittenVideo | None = None
        """Set once the file is whole and in its place."""
        self._num_frames = 0
        self._has_packets = False
        self._last_tick: int | None = None
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._copier: StreamCopier | None = None
        self._is_closed = False
        origin = source if source is not None else info.path
        check_target(self.path, self.options, source=origin, overwrite=overwrite)
        self._check_size()
        self._part = self._make_part()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.abort()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Streams of the source that are left out, one sentence each."""
        return self._copier.skipped if self._copier is not None else ()

    def write(self, frame: Frame) -> None:
        """Encodes one frame at its own time.

        Raises:
            EncodeError: the encoder or the disk refuses it; a full disk has an ``OSError`` as its cause.
            ValueError: after the end.
        """
        if self._is_closed:
            raise ValueError("the writer is closed, nothing more can be written")
        with self._failing("writing", frame):
            if self._container is None:
                self._open(frame)
            assert self._stream is not None
            self._check_rate(frame)
            self._mux(self._stream.encode(self._painter.paint(frame)))
        self._num_frames += 1

    def finish(self) -> WrittenVideo:
        """Writes what is still in the encoder, closes the file and moves it to its place.

        Raises:
            EncodeError: no frame was written, or the disk refuses.
        """
        if self.result is not None:
            return self.result
        try:
            if self._container is None or self._stream is None:
                raise EncodeError(f"{printable(self.path)}: not one frame came to be written", path=self.path)
            with self._failing("finishing", None):
                packets = self._stream.encode(None)
                self._mux(packets if self._has_packets else _with_even_dts(packets))
                if self._copier is not None:
                    self._copier.copy_until(None)
                self._container.close()
                self._move()
            self.result = WrittenVideo(
                path=os.fspath(self.path),
                num_frames=self._num_frames,
                num_bytes=self.path.stat().st_size,
                codec=self._encoder,
                pix_fmt=self.pix_fmt,
                copied=self._copier.counts if self._copier is not None else {},
                skipped=self.skipped,
            )
        finally:
            self._release()
        return self.result

    def abort(self) -> None:
        """Drops what was written; nothing stays behind. A second call, or one after the end, does nothing."""
        self._release()

    def _release(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._copier is not None:
            self._copier.close()
        if self._container is not None:
            with contextlib.suppress(av.error.FFmpegError, OSError):
                self._container.close()
        self._container = self._stream = None
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()

    def _check_size(self) -> None:
        width, height = self.info.frame_width, self.info.frame_height
        least = MIN_SIDES.get(self.options.codec, (1, 1))
        if width < least[0] or height < least[1]:
            raise EncodeError(
                f"{printable(self.path)}: {self.options.codec} needs pictures of {least[0]}x{least[1]} or more, "
                f"these have {width}x{height}; use h264 or ffv1",
                path=self.path,
            )

    def _make_part(self) -> Path:
        part = self.path.with_name(f".{self.path.stem}.part-{os.getpid()}-{secrets.token_hex(4)}{self.path.suffix}")
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            folder = printable(self.path.parent)
            message = f"{printable(self.path)}: cannot create a file in {folder} ({error.strerror})"
            raise EncodeError(message, path=self.path) from error
        return part

    def _open(self, frame: Frame) -> None:
        """Opens container and encoder; waits for the first frame, which carries the HDR metadata."""
        extension = self.path.suffix.lower()
        time_base = self._time_base(frame)
        self._container = av.open(
            f"file:{self._part.absolute()}",
            "w",
            format=EXTENSIONS[extension],
            container_options=muxer_options(extension, time_base, frame.pts),
            **TAGS_AS_THEY_ARE,
        )
        self._stream = stream = self._add_video(self._container, frame, time_base)
        tags = colour_tags(frame.format, self.pix_fmt, self.options.codec)
        context: Any = stream.codec_context
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        self._set_rotation(stream)
        if extension in (".mkv", ".webm") and self.options.codec not in ("h264", "hevc"):
            self._warn_of_aspect()
        self._painter = Painter(frame.format, self.pix_fmt, tags, self.info.sample_aspect_ratio)
        if self._source is not None and self.options.copy_streams:
            self._copier = StreamCopier(self._source, self._container, extension)
            if frame.carrier is not None and frame.carrier.interlaced_frame:
                self._set_interlaced(context, self._copier.field_order)
        with quiet_encoder(self.options.codec):
            self._container.start_encoding()

    def _add_video(self, container: OutputContainer, frame: Frame, time_base: Fraction) -> VideoStream:
        hdr = encoder_params(read_hdr(frame.carrier), self.options.codec)
        options = encoder_options(self.options, self.pix_fmt, size=(frame.height, frame.width), hdr=hdr)
        if self._hardware is not None:
            options = hardware_options(self._hardware, self.options)
        rate = encoder_rate(self.options.codec, self.info.average_rate)
        stream: Any = container.add_stream(self._encoder, rate=rate, options=options)
        context = stream.codec_context
        context.width, context.height = frame.width, frame.height
        context.pix_fmt = self.pix_fmt
        context.time_base = stream.time_base = time_base
        context.thread_count = self.options.threads
        context.sample_aspect_ratio = self.info.sample_aspect_ratio
        context.flags |= int(Flags.frame_duration)
        return stream  # type: ignore[no-any-return]

    def _time_base(self, frame: Frame) -> Fraction:
        """The frames' own; AVI counts frames and has no times at all, MXF knows a few rates."""
        if self.path.suffix.lower() in _COUNTING and self.info.average_rate is not None:
            return 1 / self.info.average_rate
        return frame.time_base

    def _check_rate(self, frame: Frame) -> None:
        """Refuses times that a container which only counts frames cannot keep."""
        extension = self.path.suffix.lower()
        if extension not in _COUNTING:
            return
        assert self._stream is not None
        tick = round(frame.pts * frame.time_base / Fraction(self._stream.codec_context.time_base))
        last, self._last_tick = self._last_tick, tick
        if last is not None and tick != last + 1:
            raise EncodeError(
                f"{printable(self.path)}: {extension} holds a constant rate only and frame {frame.index} is out "
                f"of step; use .mkv or .mov",
                path=self.path,
                frame_index=frame.index,
                pts=frame.pts,
            )

    def _set_rotation(self, stream: VideoStream) -> None:
        linear = np.sign(np.round(self.info.display_from_frame[:, :2], 6))
        if not np.array_equal(linear, np.eye(2)):
            # rows of FFmpeg's matrix are (a, b, u), (c, d, v), (x, y, w) with x' = a x + c y; 16.16, and 2.30 for w
            (a, c), (b, d) = (linear * (1 << 16)).astype(int)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])

    def _warn_of_aspect(self) -> None:
        """PyAV cannot set the display size of a Matroska track, and only H.264 and HEVC tell all players themselves."""
        if self.info.sample_aspect_ratio != 1:
            ratio = self.info.sample_aspect_ratio
            log.warning("%s: not every player will see its pixels as %s wide", printable(self.path), ratio)

    def _set_interlaced(self, context: Any, field_order: int) -> None:
        """Fields stay fields: x264 and ProRes code them as such, the others only say so."""
        context.field_order = field_order or _TOP_FIELD_FIRST
        if self.options.codec in ("h264", "prores"):
            context.flags |= int(Flags.interlaced_dct)

    def _mux(self, packets: list[Packet[Any]]) -> None:
        assert self._container is not None
        for packet in packets:
            self._has_packets = True
            if self._copier is not None and packet.dts is not None:
                self._copier.copy_until(packet.dts * Fraction(packet.time_base))
            self._container.mux_one(packet)

    def _move(self) -> None:
        descriptor = os.open(self._part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(self._part, self.path)

    @contextlib.contextmanager
    def _failing(self, doing: str, frame: Frame | None) -> Iterator[None]:
        """Turns what FFmpeg and the system raise into an EncodeError that says where."""
        try:
            yield
        except EncodeError:
            self._release()
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._release()
            number = getattr(error, "errno", None)
            cause: BaseException = error
            reason = getattr(error, "strerror", None) or str(error)
            if number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                cause = OSError(number, os.strerror(number), os.fspath(self.path))
                reason = f"the disk is full ({os.strerror(number)})"
            index, pts = (None, None) if frame is None else (frame.index, frame.pts)
            message = f"{printable(self.path)}: {doing} failed: {reason}"
            raise EncodeError(message, path=self.path, frame_index=index, pts=pts) from cause


def _with_even_dts(packets: list[Packet[Any]]) -> list[Packet[Any]]:
    """Decoding times for a clip that came out of the encoder in one piece.

    x265 4.1 leaves them undefined where the clip has no more frames than its B-frame delay. In the order of decoding,
    the k-th packet is decoded when the k-th picture is shown, all earlier by the same delay.
    """
    pts = [packet.pts for packet in packets if packet.pts is not None]
    if len(pts) < len(packets):
        return packets
    shown = sorted(pts)
    delay = max((late - own for late, own in zip(shown, pts, strict=True)), default=0)
    for packet, time in zip(packets, shown, strict=True):
        packet.dts = time - delay
    return packets


def check_target(
    path: str | os.PathLike[str],
    options: EncodeOptions,
    *,
    source: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Whether a file of that name can be made, as far as its name and place tell; before any work is done.

    Args:
        path: the file to be made.
        options: the codec has to go with the container.
        source: the input, which must not be the output.
        overwrite: a file that is there may be replaced.

    Raises:
        EncodeError: it exists, is the source or a folder, its folder is missing, or codec and container do not fit.
    """
    target = Path(path)
    name, folder, extension = printable(target), target.parent, target.suffix.lower()
    if extension not in EXTENSIONS:
        known = ", ".join(EXTENSIONS)
        raise EncodeError(f"{name}: unknown kind of file {extension!r}, use one of {known}", path=path)
    fitting = CONTAINERS[options.codec]
    if extension not in fitting:
        raise EncodeError(
            f"{name}: {options.codec} cannot be written to {extension}, use {' or '.join(fitting[:3])}", path=path
        )
    if source is not None and _is_same_file(source, target):
        raise EncodeError(f"{name}: is the input itself, choose another name for the output", path=path)
    if target.is_dir():
        raise EncodeError(f"{name}: is a folder, expected a file name", path=path)
    if os.path.lexists(target) and not overwrite:
        raise EncodeError(f"{name}: exists already, choose another name or allow overwriting (--overwrite)", path=path)
    if not folder.is_dir():
        raise EncodeError(f"{name}: there is no folder {printable(folder)}, create it first", path=path)


def _is_same_file(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    """Whether two names lead to one file, through links too; False where one is not there."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return False
