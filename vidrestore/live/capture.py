"""Where pictures come from: devices and streams through PyAV, files at their own pace, and the thread that reads them.

A camera is never waited for and never makes anybody wait: each frame goes into a latest-frame slot with a sequence
number and the time at which it arrived. A camera that is lost is opened again, with pauses that double.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, Protocol

import av
import av.error
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vidrestore.config import DecodeOptions, LiveOptions
from vidrestore.decode.display import display_geometry
from vidrestore.decode.formats import native_layout, pixel_format, planes_of, repack
from vidrestore.decode.reader import VideoReader
from vidrestore.decode.shots import ShotDetector
from vidrestore.decode.source import MAX_PIXELS, check_size, video_stream
from vidrestore.errors import DecodeError
from vidrestore.live.address import STREAMS, CameraAddress
from vidrestore.live.meter import Rate
from vidrestore.live.orient import Upright
from vidrestore.live.slot import LatestSlot
from vidrestore.types import Frame, StreamInfo

__all__ = [
    "LIVE_TIME_BASE",
    "Arrival",
    "Camera",
    "CameraState",
    "Capture",
    "Captured",
    "FileCamera",
    "StreamCamera",
    "open_attempts",
    "open_camera",
]

log = logging.getLogger(__name__)

Clock = Callable[[], float]
"""Seconds that only go forward."""
Pause = Callable[[float], object]
"""Waits for so many seconds, or less where everything is to stop."""

LIVE_TIME_BASE = Fraction(1, 90_000)
"""Ticks of a live frame's pts, those of MPEG transport streams."""

# Seconds that opening a stream, and waiting for its next packet, may take before the camera counts as lost
_OPEN_S, _READ_S = 8.0, 3.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
# Packets in a row that cannot be decoded: a stream that is joined in its middle shows nothing up to a key frame
_MAX_BAD_PACKETS = 300


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame as a camera gives it."""

    at_s: float
    """When it arrived, on the session's clock."""
    decode_s: float
    """Seconds that decoding took."""
    frame: Frame


@dataclass(frozen=True, slots=True)
class Captured:
    """A frame on its way into the engine."""

    sequence: int
    """From 0, one higher with each frame that came from the camera, also across reconnections."""
    arrived_s: float
    """On the session's clock."""
    decode_s: float
    frame: Frame
    """Upright; its pts are ticks of ``LIVE_TIME_BASE`` since the session's start."""
    info: StreamInfo
    """Of the stream that it belongs to."""


class Camera(Protocol):
    """An open source of frames."""

    @property
    def info(self) -> StreamInfo:
        """What the frames are like."""
        ...

    @property
    def description(self) -> str:
        """What was agreed on, for people: size, rate, format."""
        ...

    @property
    def has_end(self) -> bool:
        """An end of the frames is no fault: a file, and not a device."""
        ...

    def frames(self) -> Iterator[Arrival]:
        """Frames as they arrive.

        Raises:
            DecodeError: the camera was lost.
        """
        ...

    def close(self) -> None:
        """Gives the device or file back."""
        ...


class FileCamera:
    """A video file that plays at its own pace: the stand-in camera.

    A frame arrives when its time has come. Where the file cannot be decoded at its pace, it plays slower, as a camera
    would that delivers fewer frames.

    Args:
        path: a local video file.
        options: of the reader.
        loops: begin again after the end.
        clock: seconds.
        pause: waits.

    Raises:
        DecodeError: as :class:`VideoReader`.
    """

    def __init__(
        self,
        path: str,
        options: DecodeOptions | None = None,
        *,
        loops: bool = True,
        clock: Clock = time.monotonic,
        pause: Pause = time.sleep,
    ) -> None:
        self._path, self._options, self._loops = path, options, loops
        self._clock, self._pause = clock, pause
        self._reader = VideoReader(path, options)
        self.info = self._reader.info
        self.has_end = True

    @property
    def description(self) -> str:
        """Size, rate and codec."""
        return _describe(self.info, self.info.codec) + (", looped" if self._loops else "")

    def frames(self) -> Iterator[Arrival]:
        """See :class:`Camera`."""
        step_s = float(1 / self.info.average_rate) if self.info.average_rate else 0.04
        next_s, shots = self._clock(), 0
        while True:
            shot, first_s = 0, None
            begin = self._clock()
            for frame in self._reader.decode():
                decode_s = self._clock() - begin
                if first_s is None:
                    origin_s, first_s = next_s - frame.time_s, frame.time_s
                due_s = origin_s + frame.time_s
                late_s = self._clock() - due_s
                if late_s > step_s:
                    origin_s, due_s = origin_s + late_s, due_s + late_s
                elif late_s < 0.0:
                    self._pause(-late_s)
                shot = frame.shot
                yield Arrival(due_s, decode_s, replace(frame, shot=shots + shot))
                next_s = due_s + step_s
                begin = self._clock()
            if not self._loops or first_s is None:
                return
            shots += shot + 1
            self._reader.close()
            self._reader = VideoReader(self._path, self._options)

    def close(self) -> None:
        """See :class:`Camera`."""
        self._reader.close()


class StreamCamera:
    """A device or a network stream, with as little buffering as FFmpeg allows.

    Args:
        container: opened for reading.
        name: for messages.
        options: of the shot detector.
        clock: seconds.

    Raises:
        DecodeError: no video in it, or nothing that can be decoded.
    """

    def __init__(
        self,
        container: InputContainer,
        name: str,
        options: DecodeOptions | None = None,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._container, self._name, self._clock = container, name, clock
        self._threshold = (options or DecodeOptions()).cut_threshold
        self.has_end = False
        try:
            self._stream = video_stream(container, name)
            context: Any = self._stream.codec_context
            context.thread_type = "SLICE"  # threads that work on several frames would hold that many back
            context.options = {**context.options, "max_pixels": str(MAX_PIXELS), "flags": "low_delay"}
            self._pictures = self._raw()
            self._first = next(self._pictures, None)
            if self._first is None:
                raise DecodeError(f"{name}: it ended before its first picture", path=name)
            self.info = _info_of(self._first[2], container, self._stream, name)
        except (av.error.FFmpegError, ValueError) as error:
            container.close()
            raise DecodeError(f"{name}: {_reason(error)}", path=name) from error
        except BaseException:
            container.close()
            raise

    @property
    def description(self) -> str:
        """Size, rate and codec."""
        return _describe(self.info, self.info.codec)

    def frames(self) -> Iterator[Arrival]:
        """See :class:`Camera`."""
        shots, shot, index = ShotDetector(self._threshold), 0, 0
        layout = native_layout(self.info.format.name)
        assert layout is not None
        assert self._first is not None
        expected = _shape(self._first[2])
        reformatter = VideoReformatter()
        # what was read to learn the format has waited since then; it counts from now on
        pending, self._first = [(self._clock(), *self._first[1:])], None
        while True:
            arrived = pending.pop() if pending else next(self._pictures, None)
            if arrived is None:
                return
            at_s, decode_s, raw = arrived
            if _shape(raw) != expected:
                was, now = (f"{w}x{h} {form}" for w, h, form in (expected, _shape(raw)))
                raise DecodeError(f"{self._name}: the picture changed from {was} to {now}", path=self._name)
            carrier = repack(raw, reformatter)
            frame = Frame(index, index, LIVE_TIME_BASE, planes_of(carrier, layout), self.info.format, carrier=carrier)
            shot += shots.update(frame)
            yield Arrival(at_s, decode_s, replace(frame, shot=shot))
            index += 1

    def close(self) -> None:
        """See :class:`Camera`."""
        self._pictures.close()
        self._container.close()

    def _raw(self) -> Any:
        num_bad = 0
        try:
            for packet in self._container.demux(self._stream):
                at_s = self._clock()
                if packet.size == 0:
                    continue
                try:
                    pictures = packet.decode()
                    num_bad = 0
                except av.error.InvalidDataError as error:
                    num_bad += 1
                    if num_bad > _MAX_BAD_PACKETS:
                        raise DecodeError(f"{self._name}: {num_bad} packets in a row are damaged") from error
                    continue
                for picture in pictures:
                    yield at_s, self._clock() - at_s, picture
        except av.error.FFmpegError as error:
            raise DecodeError(f"{self._name}: {_reason(error)}", path=self._name) from error


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to ask FFmpeg for a device or an address."""

    file: str
    format: str | None
    options: dict[str, str]


def open_attempts(address: CameraAddress, options: LiveOptions, *, platform: str = sys.platform) -> list[Attempt]:
    """The ways to open a device or a stream, best first.

    A device is asked for the wanted size and rate in Motion JPEG (the only format in which most webcams reach
    1280x720 at 30 over USB 2), then in its own format, then for whatever it gives.
    """
    if address.kind == "stream":
        rules = STREAMS[address.name.partition("://")[0].lower()]
        asked = {
            "format_whitelist": rules.demuxers,
            "protocol_whitelist": rules.protocols,
            "fflags": "nobuffer",
            "max_streams": "32",
        }
        if address.name.lower().startswith("rtsp"):
            asked["rtsp_transport"] = "tcp"  # lost packets of UDP would be smeared pictures
        return [Attempt(address.name, None, asked)]
    size = {"video_size": f"{options.width}x{options.height}", "framerate": f"{options.rate:g}"}
    if platform.startswith("linux"):
        wanted = [{**size, "input_format": "mjpeg"}, size, {}]
        return [Attempt(address.name, "v4l2", one) for one in wanted]
    if platform == "darwin":  # it has no sound of ours to open: "N:none"
        return [Attempt(f"{address.name}:none", "avfoundation", one) for one in (size, {"framerate": "30"}, {})]
    if platform == "win32":
        wanted = [{**size, "vcodec": "mjpeg"}, size, {}]
        return [Attempt(address.name, "dshow", {**one, "rtbufsize": "64M"}) for one in wanted]
    raise DecodeError(f"{address.shown}: cameras of this system are not known; use a stream or a file")


def open_camera(
    address: CameraAddress,
    live: LiveOptions,
    decode: DecodeOptions | None = None,
    *,
    loops: bool = True,
    clock: Clock = time.monotonic,
    pause: Pause = time.sleep,
    opener: Callable[..., Any] = av.open,
) -> Camera:
    """Opens what the user named.

    Args:
        address: out of :func:`vidrestore.live.address.parse_camera`.
        live: size and rate to ask for.
        decode: options of reader and shot detector.
        loops: a file begins again after its end.
        clock: seconds.
        pause: waits, for a file's pace.
        opener: ``av.open`` or what stands for it.

    Raises:
        DecodeError: it is not there, or gives no picture.
    """
    if address.kind == "file":
        return FileCamera(address.name, decode, loops=loops, clock=clock, pause=pause)
    problem: Exception | None = None
    for attempt in open_attempts(address, live):
        try:
            container = opener(
                attempt.file, "r", format=attempt.format, container_options=attempt.options, timeout=(_OPEN_S, _READ_S)
            )
            return StreamCamera(container, address.shown, decode, clock=clock)
        except (av.error.FFmpegError, ValueError, OSError, DecodeError) as error:
            problem = problem or error
            if isinstance(error, FileNotFoundError):
                break
    assert problem is not None
    if isinstance(problem, DecodeError):
        raise problem
    advice = "; is another program using it?" if address.kind == "device" else ""
    raise DecodeError(
        f"{address.shown}: cannot be opened ({_reason(problem)}){advice}", path=address.shown
    ) from problem


@dataclass(frozen=True, slots=True)
class CameraState:
    """How the camera is doing."""

    status: Literal["connecting", "live", "lost", "ended"]
    description: str = ""
    """What was agreed on with the camera."""
    message: str = ""
    """Why it was lost."""
    since_s: float = 0.0
    """When this began, on the session's clock."""
    num_frames: int = 0
    """Delivered by the camera since the start."""
    num_losses: int = 0
    """How often it was lost."""


class Capture:
    """The thread that reads a camera into a slot, for as long as the session lasts.

    Args:
        opener: opens the camera; called again after it was lost.
        slot: takes the frames.
        mirror: asked before each frame.
        clock: seconds.

    Attributes:
        error: what ended the thread, if anything did.
        state: how the camera is doing.
        rate: frames per second that it delivers.
    """

    def __init__(
        self,
        opener: Callable[[], Camera],
        slot: LatestSlot[Captured],
        *,
        mirror: Callable[[], bool] = lambda: False,
        clock: Clock = time.monotonic,
    ) -> None:
        self._opener, self._slot, self._mirror, self._clock = opener, slot, mirror, clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vidrestore-capture", daemon=True)
        self._start_s = clock()
        self._last_pts = -1
        self._shot = self._first_shot = -1
        self._camera: Camera | None = None
        self.state = CameraState("connecting", since_s=self._start_s)
        self.rate = Rate()
        self.error: BaseException | None = None

    def open(self) -> StreamInfo:
        """Opens the camera, in the caller's thread; what its frames will be like.

        Raises:
            DecodeError: the camera is not there; only later losses are waited out.
        """
        self._camera = self._opener()
        self.state = replace(self.state, description=self._camera.description)
        return Upright(self._camera.info, mirror=self._mirror()).info

    def start(self) -> None:
        """Begins to read the camera, which is opened first if it was not."""
        if self._camera is None:
            self.open()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a camera that does not answer is left behind after a few seconds."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_OPEN_S + 1.0)
        elif self._camera is not None:
            self._camera.close()
            self._camera = None

    def pts_at(self, at_s: float) -> int:
        """Ticks of ``LIVE_TIME_BASE`` since the start."""
        return round((at_s - self._start_s) / LIVE_TIME_BASE)

    def pause(self, seconds: float) -> None:
        """Waits, unless the session ends."""
        self._stopped.wait(seconds)

    def _run(self) -> None:
        wait_s = _FIRST_PAUSE_S
        try:
            while not self._stopped.is_set():
                try:
                    camera = self._camera or self._opener()
                    self._camera = None
                    num_before = self.state.num_frames
                    self._read(camera)
                    if self._stopped.is_set():
                        return
                    if camera.has_end:
                        self._tell("ended", "the file is over")
                        return
                    problem = "it gives no more pictures"
                    wait_s = _FIRST_PAUSE_S if self.state.num_frames > num_before else wait_s
                except DecodeError as error:
                    problem = str(error)
                    if self.state.status == "live":
                        wait_s = _FIRST_PAUSE_S
                if self._stopped.is_set():
                    return
                log.warning("camera lost: %s; the next try in %.1f s", problem, wait_s)
                self._tell("lost", problem)
                self._stopped.wait(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_PAUSE_S)
        except BaseException as error:  # noqa: BLE001, the session raises it again in its own thread
            self.error = error
        finally:
            self._slot.close()

    def _read(self, camera: Camera) -> None:
        try:
            is_mirrored = self._mirror()
            upright = Upright(camera.info, mirror=is_mirrored)
            self._first_shot = self._shot + 1  # who was there before a loss need not be there after it
            for arrival in camera.frames():
                if self._stopped.is_set():
                    return
                if self.state.status != "live":
                    self.state = replace(
                        self.state, status="live", description=camera.description, message="", since_s=self._clock()
                    )
                if self._mirror() != is_mirrored:
                    is_mirrored = not is_mirrored
                    upright = Upright(camera.info, mirror=is_mirrored)
                self._deliver(arrival, upright)
        finally:
            camera.close()

    def _deliver(self, arrival: Arrival, upright: Upright) -> None:
        sequence = self.state.num_frames
        self.rate.tick(arrival.at_s)
        self.state = replace(self.state, num_frames=sequence + 1)
        pts = max(self.pts_at(arrival.at_s), self._last_pts + 1)
        self._last_pts = pts
        self._shot = self._first_shot + arrival.frame.shot
        frame = replace(upright.turn(arrival.frame), pts=pts, time_base=LIVE_TIME_BASE, duration=None, shot=self._shot)
        self._slot.put(Captured(sequence, arrival.at_s, arrival.decode_s, frame, upright.info))

    def _tell(self, status: Literal["lost", "ended"], message: str) -> None:
        losses = self.state.num_losses
        if self.state.status == "live":
            self.state = replace(
                self.state,
                status=status,
                message=message,
                since_s=self._clock(),
                num_losses=losses + (status == "lost"),
            )
        else:
            self.state = replace(self.state, status=status, message=message)


def _info_of(first: av.VideoFrame, container: InputContainer, stream: VideoStream, name: str) -> StreamInfo:
    check_size(first.width, first.height, name)
    geometry = display_geometry(first, stream)
    rate = stream.average_rate or stream.guessed_rate
    return StreamInfo(
        path=name,
        frame_width=first.width,
        frame_height=first.height,
        width=geometry.width,
        height=geometry.height,
        display_from_frame=geometry.display_from_frame,
        rotation=geometry.rotation,
        sample_aspect_ratio=geometry.sample_aspect_ratio,
        time_base=LIVE_TIME_BASE,
        average_rate=Fraction(rate) if rate else None,
        num_frames=None,
        duration_s=None,
        format=pixel_format(first, stream.codec_context),
        codec=stream.codec_context.codec.canonical_name,
        bit_rate=None,
        has_audio=bool(container.streams.audio),
    )


def _shape(picture: av.VideoFrame) -> tuple[int, int, str]:
    return picture.width, picture.height, picture.format.name


def _describe(info: StreamInfo, codec: str) -> str:
    rate = f", {float(info.average_rate):.4g} frames/s" if info.average_rate else ""
    return f"{info.width}x{info.height}{rate}, {codec} {info.format.name}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
