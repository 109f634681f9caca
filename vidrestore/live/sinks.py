"""Where restored pictures go: files, pipes, the network, virtual cameras; each in a thread of its own that never holds
the engine up. A sink that is too slow loses frames, oldest first, and counts them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from vidrestore.config import EncodeOptions
from vidrestore.encode.picture import Painter, colour_tags
from vidrestore.errors import EncodeError, printable
from vidrestore.live.address import SinkAddress
from vidrestore.live.capture import LIVE_TIME_BASE
from vidrestore.live.engine import LiveFrame
from vidrestore.live.slot import LatestSlot
from vidrestore.live.v4l2 import Device, LoopbackCamera, SystemDevice
from vidrestore.types import PixelFormat

__all__ = [
    "ConsumerGoneError",
    "EncodedSink",
    "Fitter",
    "LoopbackSink",
    "Output",
    "PipeWriter",
    "Sink",
    "VirtualCameraSink",
    "create_new",
    "make_sink",
]

log = logging.getLogger(__name__)

_USUAL_RATE = Fraction(30)
_KEY_FRAME_S = 2  # a fragment of a recording, and what somebody who joins a stream waits at most
_LONGEST_GAP_S = 1  # of a constant-rate stream that is filled with copies; a longer one is a pause
_TS_PACKETS = 1316  # bytes of a datagram: seven packets of a transport stream, below every usual MTU


class ConsumerGoneError(EncodeError):
    """Who read the pictures has closed its end; no fault of ours."""


class Sink(Protocol):
    """Takes pictures."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def write(self, frame: LiveFrame) -> None:
        """Shows or stores a picture. Raises EncodeError where that fails, ConsumerGoneError where nobody reads."""
        ...

    def close(self) -> None:
        """Ends; what was written so far is whole."""
        ...


class Fitter:
    """Brings frames into one pixel format and one size, whatever they come in.

    Args:
        pix_fmt: FFmpeg's name.
        width: columns.
        height: rows.
    """

    def __init__(self, pix_fmt: str, width: int, height: int) -> None:
        self.pix_fmt, self.width, self.height = pix_fmt, width, height
        self._painters: dict[PixelFormat, Painter] = {}
        self._scaler = VideoReformatter()

    def fit(self, frame: LiveFrame) -> av.VideoFrame:
        """A picture for the encoder, with the frame's time."""
        source = frame.frame.format
        painter = self._painters.get(source)
        if painter is None:
            tags = colour_tags(source, self.pix_fmt, "h264")
            painter = self._painters[source] = Painter(source, self.pix_fmt, tags, Fraction(1))
        picture = painter.paint(frame.frame)
        if (picture.width, picture.height) == (self.width, self.height):
            return picture
        fitted = self._scaler.reformat(
            picture, self.width, self.height, self.pix_fmt, interpolation=Interpolation.BICUBIC, threads=1
        )
        fitted.pts, fitted.time_base = picture.pts, picture.time_base
        return fitted


class PipeWriter:
    """A file descriptor as a file to write, which gives up when asked to, also while the reader is stuck.

    Args:
        descriptor: open for writing; it is closed at the end.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_stopped = False
        os.set_blocking(descriptor, False)

    def stop(self) -> None:
        """Lets a write that waits give up."""
        self._is_stopped = True

    def write(self, data: bytes) -> int:
        """Writes everything; raises BrokenPipeError where the reader is gone or :meth:`stop` was called."""
        view = memoryview(data)
        while view:
            if self._is_stopped:
                raise BrokenPipeError(errno.EPIPE, "stopped")
            _, ready, _ = select.select([], [self._descriptor], [], 0.1)
            if ready:
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(self._descriptor, view) :]
        return len(data)

    def close(self) -> None:
        """Closes the descriptor; a second call does nothing."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


class EncodedSink:
    """A container that FFmpeg writes: a recording, a stream, a pipe.

    Args:
        target: file, address or an object with ``write``.
        container: FFmpeg's muxer.
        name: for people.
        codec: FFmpeg's encoder; ``rawvideo`` leaves the pictures as they are.
        codec_options: of the encoder.
        container_options: of the muxer.
        threads: of the encoder.
        is_constant: the container keeps no times: pictures are repeated or left out to hold the camera's rate.
    """

    def __init__(
        self,
        target: Any,
        container: str,
        name: str,
        *,
        codec: str = "libx264",
        codec_options: Mapping[str, str] | None = None,
        container_options: Mapping[str, str] | None = None,
        threads: int = 0,
        is_constant: bool = False,
    ) -> None:
        self.name = name
        self._target, self._format, self._codec = target, container, codec
        self._codec_options, self._container_options = dict(codec_options or {}), dict(container_options or {})
        self._threads = threads
        self._is_constant = is_constant
        self._container: OutputContainer | None = None
        self._stream: Any = None
        self._fitter: Fitter | None = None
        self._tick = -1
        self.num_pictures = 0

    def write(self, frame: LiveFrame) -> None:
        """See :class:`Sink`; the first frame decides on size and rate."""
        try:
            if self._container is None:
                self._open(frame)
            assert self._fitter is not None
            picture = self._fitter.fit(frame)
            if self._is_constant:
                self._write_at_rate(picture, frame)
            else:
                self._encode(picture)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """See :class:`Sink`."""
        container, self._container = self._container, None
        try:
            if container is not None:
                with contextlib.suppress(av.error.FFmpegError, OSError):
                    container.mux(self._stream.encode(None))
                with contextlib.suppress(av.error.FFmpegError, OSError):
                    container.close()
        finally:
            if hasattr(self._target, "close"):
                self._target.close()

    def stop(self) -> None:
        """Lets a write that waits give up."""
        if isinstance(self._target, PipeWriter):
            self._target.stop()

    def _open(self, frame: LiveFrame) -> None:
        info = frame.info
        width, height = max(2, info.width & ~1), max(2, info.height & ~1)
        self._fitter = Fitter("yuv420p", width, height)
        self._rate = rate = Fraction(info.average_rate or _USUAL_RATE).limit_denominator(1001)
        self._container = av.open(self._target, "w", format=self._format, container_options=self._container_options)
        self._stream = stream = self._container.add_stream(self._codec, rate=rate, options=self._codec_options)
        assert isinstance(stream, VideoStream)
        context: Any = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = stream.time_base = 1 / rate if self._is_constant else LIVE_TIME_BASE
        context.gop_size = max(1, round(_KEY_FRAME_S * rate))
        context.thread_count = self._threads
        tags = colour_tags(frame.frame.format, "yuv420p", "h264")
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer

    def _write_at_rate(self, picture: av.VideoFrame, frame: LiveFrame) -> None:
        tick = round(frame.frame.pts * frame.frame.time_base * self._rate)
        if self._tick < 0 or tick - self._tick > _LONGEST_GAP_S * self._rate:
            self._tick = tick - 1
        while self._tick < tick:
            self._tick += 1
            picture.pts, picture.time_base = self.num_pictures, 1 / self._rate
            self._encode(picture)

    def _encode(self, picture: av.VideoFrame) -> None:
        assert self._container is not None
        for packet in self._stream.encode(picture):
            self._container.mux_one(packet)
        self.num_pictures += 1

    def _refusal(self, error: Exception) -> EncodeError:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, BrokenPipeError) or getattr(error, "errno", None) == errno.EPIPE:
            return ConsumerGoneError(f"{self.name}: nobody reads it any more")
        return EncodeError(f"{self.name}: writing failed: {reason}")


class LoopbackSink:
    """A v4l2loopback device: the virtual camera of Linux.

    Args:
        path: of the device.
        opener: opens it; tests put a made-up device in its place.
    """

    def __init__(self, path: str, opener: Callable[[str], Device] = SystemDevice) -> None:
        self.name = f"v4l2:{path}"
        self._path, self._opener = path, opener
        self._device: Device | None = opener(path)  # that it is missing is told at the start, not at the first frame
        self._camera: LoopbackCamera | None = None
        self._fitter: Fitter | None = None

    @property
    def description(self) -> str:
        """What was agreed on with the device; empty before the first frame."""
        if self._camera is None:
            return ""
        agreed = self._camera.agreement
        return f"{agreed.width}x{agreed.height} {agreed.pix_fmt}"

    def write(self, frame: LiveFrame) -> None:
        """See :class:`Sink`."""
        if self._camera is None:
            self._open(frame)
        assert self._camera is not None
        assert self._fitter is not None
        agreed = self._camera.agreement
        self._camera.write(_packed(self._fitter.fit(frame), agreed.bytes_per_line, agreed.num_bytes))

    def close(self) -> None:
        """See :class:`Sink`."""
        if self._camera is not None:
            self._camera.close()
        elif self._device is not None:
            self._device.close()
        self._camera = self._device = None

    def _open(self, frame: LiveFrame) -> None:
        info = frame.info
        device, self._device = self._device or self._opener(self._path), None
        is_hd = frame.frame.format.matrix == "bt709"
        self._camera = LoopbackCamera(device, self._path, info.width & ~1, info.height & ~1, is_hd=is_hd)
        rate = Fraction(info.average_rate or _USUAL_RATE).limit_denominator(1001)
        self._camera.set_rate(rate.numerator, rate.denominator)
        agreed = self._camera.agreement
        self._fitter = Fitter(agreed.pix_fmt, agreed.width, agreed.height)
        log.info("%s: %s", self.name, self.description)


class VirtualCameraSink:
    """A virtual camera through the package pyvirtualcam (GPL-2.0, installed by the user): Windows and macOS."""

    def __init__(self) -> None:
        """Raises EncodeError where the package is missing."""
        self.name = "virtualcam"
        try:
            import pyvirtualcam
        except ImportError as error:
            raise EncodeError("--sink virtualcam wants a package that is not here: pip install pyvirtualcam") from error
        self._module: Any = pyvirtualcam
        self._camera: Any = None
        self._fitter: Fitter | None = None

    def write(self, frame: LiveFrame) -> None:
        """See :class:`Sink`."""
        if self._camera is None:
            width, height = frame.info.width & ~1, frame.info.height & ~1
            rate = float(frame.info.average_rate or _USUAL_RATE)
            try:
                self._camera = self._module.Camera(width=width, height=height, fps=rate, print_fps=False)
            except (RuntimeError, OSError) as error:
                raise EncodeError(f"no virtual camera answers: {printable(error)}") from error
            self._fitter = Fitter("rgb24", width, height)
        assert self._fitter is not None
        self._camera.send(self._fitter.fit(frame).to_ndarray())

    def close(self) -> None:
        """See :class:`Sink`."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None


class Output:
    """The thread of one sink, and its slot.

    Args:
        sink: what is written to; closed in its thread.
        size: frames that may wait; 1 for what is watched, some more for what is kept.
        clock: seconds.

    Attributes:
        error: what ended it, if anything did.
        num_written: frames handed to the sink.
        write_ms: how long the last one took.
        age_ms: of the last frame when the sink had taken it.
    """

    def __init__(self, sink: Sink, size: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.sink = sink
        self._slot: LatestSlot[LiveFrame] = LatestSlot(size)
        self._clock = clock
        self.error: BaseException | None = None
        self.num_written = 0
        self.write_ms = self.age_ms = 0.0
        self._thread = threading.Thread(target=self._run, name=f"vidrestore-sink-{sink.name}", daemon=True)
        self._thread.start()

    @property
    def num_dropped(self) -> int:
        """Frames that the sink was too slow for."""
        return self._slot.num_dropped

    def put(self, frame: LiveFrame) -> None:
        """Offers a frame; never waits."""
        self._slot.put(frame)

    def close(self, timeout_s: float = 5.0) -> None:
        """Lets the sink finish what waits; one that is stuck is told to give up, then left behind."""
        self._slot.close()
        self._thread.join(timeout_s / 2)
        if self._thread.is_alive() and hasattr(self.sink, "stop"):
            self.sink.stop()
        self._thread.join(timeout_s / 2)

    def _run(self) -> None:
        try:
            while True:
                frame = self._slot.get()
                if frame is None:
                    break
                begin = self._clock()
                self.sink.write(frame)
                end = self._clock()
                self.write_ms, self.age_ms = (end - begin) * 1e3, (end - frame.arrived_s) * 1e3
                self.num_written += 1
        except BaseException as error:  # noqa: BLE001, the session looks at it and decides
            self.error = error
            self._slot.close()
        finally:
            try:
                self.sink.close()
            except BaseException as error:  # noqa: BLE001, likewise
                self.error = self.error or error


def create_new(path: Path) -> None:
    """Makes an empty file that was not there before.

    Raises:
        EncodeError: it was there, or its folder refuses.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError as error:
        raise EncodeError(f"{printable(path)}: exists already; choose another name", path=path) from error
    except OSError as error:
        raise EncodeError(f"{printable(path)}: cannot be made ({error.strerror})", path=path) from error


def recording(path: Path, options: EncodeOptions) -> EncodedSink:
    """A sink that records H.264 into a new .mp4 or .mkv which can be played, and survives a crash, at any time.

    Raises:
        EncodeError: the file is there already, or cannot be made.
    """
    create_new(path)
    is_mp4 = path.suffix.lower() == ".mp4"
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if is_mp4 else {}
    return EncodedSink(
        f"file:{path.absolute()}",
        "mp4" if is_mp4 else "matroska",
        printable(path.name),
        codec_options=_x264_options(options),
        container_options={**flags, "flush_packets": "1"},
        threads=_encoder_threads(options),
    )


def make_sink(address: SinkAddress, options: EncodeOptions, *, pipe: PipeWriter | None = None) -> Sink | None:
    """The sink that the user named; None for the browser, which the server serves.

    Args:
        address: out of :func:`vidrestore.live.address.parse_sink`.
        options: quality of what is encoded.
        pipe: what ``pipe:`` writes to.

    Raises:
        EncodeError: it cannot be made.
    """
    if address.kind == "browser":
        return None
    if address.kind == "v4l2":
        return LoopbackSink(address.name)
    if address.kind == "virtualcam":
        return VirtualCameraSink()
    if address.kind == "file":
        return recording(Path(address.name), options)
    if address.kind == "udp":
        return EncodedSink(
            f"{address.name}?pkt_size={_TS_PACKETS}",
            "mpegts",
            address.shown,
            codec_options={**_x264_options(options), "tune": "zerolatency"},
            container_options={"flush_packets": "1", "muxdelay": "0"},
            threads=_encoder_threads(options),
        )
    if pipe is None:
        raise EncodeError("--sink pipe: there is no standard output to write to")
    return EncodedSink(pipe, address.name, "pipe", codec="rawvideo", is_constant=address.name == "yuv4mpegpipe")


def _x264_options(options: EncodeOptions) -> dict[str, str]:
    return {"preset": options.speed, "crf": str(20 if options.crf is None else options.crf), "tune": "zerolatency"}


def _encoder_threads(options: EncodeOptions) -> int:
    """Half of the cores, four at most: the rest is the network's."""
    return options.threads or min(4, max(1, (os.cpu_count() or 2) // 2))


def _packed(picture: av.VideoFrame, bytes_per_line: int, num_bytes: int) -> bytes:
    """The planes of a picture one after the other, with the lines as long as the device wants them."""
    out = bytearray(num_bytes)
    at = 0
    for index, plane in enumerate(picture.planes):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
        is_half = index > 0 and picture.format.name == "yuv420p"
        line = -(-bytes_per_line // 2) if is_half else bytes_per_line
        used = min(line, rows.shape[1])
        target = np.frombuffer(memoryview(out)[at : at + line * plane.height], np.uint8)
        target.reshape(plane.height, line)[:, :used] = rows[:, :used]
        at += line * plane.height
    return bytes(out)
