"""One frame in, one frame out: detection, tracking, restoration and blending as the file path does them, and the
ladder that gives up quality where the machine is too slow.

At the top of the ladder a frame's pixels are those that ``restore`` writes for the same frames and settings; a test
compares them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import numpy as np

from vidrestore import kernels
from vidrestore.blend.compositor import Compositor
from vidrestore.config import RestoreConfig
from vidrestore.detect.detector import Detector, FaceFinder
from vidrestore.live.capture import Captured
from vidrestore.live.carry import CarriedChanges
from vidrestore.live.ladder import Ladder, Rung, rungs_for
from vidrestore.live.meter import Meter
from vidrestore.pipeline import load_bfm
from vidrestore.restoration.align import template
from vidrestore.restoration.restorer import FaceRestorer, Restorer
from vidrestore.track.rules import FaceRules
from vidrestore.track.tracker import Tracker, make_tracker
from vidrestore.types import Detections, Frame, Restoration, StreamInfo, Track, TrackedFrame

__all__ = ["Aside", "Background", "Controls", "Engine", "LiveFrame"]

log = logging.getLogger(__name__)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Controls:
    """What may be changed while the picture runs; a new value replaces the old one as a whole."""

    strength: float = 1.0
    """How much of the change is shown, [0, 1]."""
    w: float = 0.5
    """Fidelity weight, [0, 1], of networks that have one."""
    mirror: bool = False
    """Left and right exchanged."""


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """A frame on its way to the sinks."""

    sequence: int
    """Of the captured frame; held pictures and slates have that of the last one."""
    arrived_s: float
    """When the camera gave it, on the session's clock."""
    done_s: float
    """When it was handed on."""
    source: Frame
    """As captured."""
    frame: Frame
    """Restored."""
    info: StreamInfo
    tracks: tuple[Track, ...] = ()
    kind: Literal["live", "held", "slate"] = "live"
    rung: int = 0
    """Where the ladder stood."""

    @property
    def latency_ms(self) -> float:
        """Age when it was handed on."""
        return (self.done_s - self.arrived_s) * 1e3


class Aside(Protocol):
    """A place where one job at a time is done beside the picture."""

    @property
    def is_busy(self) -> bool:
        """A job is under way, or its result waits to be taken."""
        ...

    def submit(self, job: Callable[[], list[Restoration]]) -> None:
        """Begins a job. Raises ValueError while busy."""
        ...

    def take(self) -> list[Restoration] | None:
        """The result of a finished job, once; None while there is none. Raises what the job raised."""
        ...

    def wait(self) -> None:
        """Waits for the job and drops its result."""
        ...

    def close(self) -> None:
        """Waits for the job and ends."""
        ...


class Background:
    """A thread that does one job at a time: :class:`Aside` in real life."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._job: Callable[[], list[Restoration]] | None = None
        self._result: list[Restoration] | BaseException | None = None
        self._is_busy = self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="vidrestore-network", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """See :class:`Aside`."""
        return self._is_busy

    def submit(self, job: Callable[[], list[Restoration]]) -> None:
        """See :class:`Aside`."""
        with self._condition:
            if self._is_busy:
                raise ValueError("one job at a time")
            self._job, self._is_busy = job, True
            self._condition.notify()

    def take(self) -> list[Restoration] | None:
        """See :class:`Aside`."""
        with self._condition:
            result, self._result = self._result, None
            if result is not None:
                self._is_busy = False
        if isinstance(result, BaseException):
            raise result
        return result

    def wait(self) -> None:
        """See :class:`Aside`."""
        with self._condition:
            self._condition.wait_for(lambda: not self._is_busy or self._result is not None)
        self.take()

    def close(self) -> None:
        """See :class:`Aside`."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._job is not None or self._is_closed)
                if self._is_closed:
                    return
                job, self._job = self._job, None
            assert job is not None
            result: list[Restoration] | BaseException
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001, it is raised again where the result is taken
                result = error
            with self._condition:
                self._result = result
                self._condition.notify_all()


@dataclass(slots=True)
class _Stream:
    """The stages of one stream of frames; made anew where the camera's format changes."""

    info: StreamInfo
    detector: Detector
    tracker: Tracker
    rules: FaceRules
    faces: FaceRestorer
    network_index: int


class Engine:
    """Restores captured frames one by one, in the caller's thread.

    Args:
        config: of the stages; ``track.lookahead`` is taken as 0, since nothing can be known of frames to come.
        networks: the chosen one and, where there is one, a smaller one for slow moments.
        finder: finds faces.
        clock: seconds, the same as the capture's.
        aside: where the network works on the rung "behind the picture".

    Attributes:
        meter: milliseconds per stage: decode, wait, detect, track, restore, blend, latency.
        ladder: where it stands.
        controls: set a new value at any time.
        num_restored: faces restored by the network.
        num_kept: faces left as they were because the result was not finite.

    Raises:
        WeightsError: the options want a face model whose files are missing or damaged.
    """

    def __init__(
        self,
        config: RestoreConfig,
        networks: Sequence[Restorer],
        finder: FaceFinder,
        *,
        clock: Callable[[], float] = time.monotonic,
        aside: Aside | None = None,
    ) -> None:
        self._config = replace(config, track=replace(config.track, lookahead=0))
        self._networks = list(networks)
        self._finder = finder
        self._bfm = load_bfm(config)
        self._clock = clock
        self._aside: Aside = aside or Background()
        self._compositor = Compositor(config.blend)
        self._stream: _Stream | None = None
        self._carried = CarriedChanges()
        self._index = self._since_restoration = 0
        self._shot = -1
        self._last_sequence = -1
        self._num_before = (0, 0)
        self._network_ms: float | None = None
        self.meter = Meter()
        self.ladder = Ladder(rungs_for(has_smaller_network=len(networks) > 1), config.live.latency_budget_ms)
        self.controls = Controls(config.blend.strength, config.restore.w, config.live.mirror)

    @property
    def num_restored(self) -> int:
        """Faces that the network restored."""
        return self._num_before[0] + (self._stream.faces.num_restored if self._stream else 0)

    @property
    def num_kept(self) -> int:
        """Faces left as they were because the network's result was not finite."""
        return self._num_before[1] + (self._stream.faces.num_kept if self._stream else 0)

    @property
    def network_device(self) -> str:
        """Where the chosen network runs."""
        return str(self._networks[0].device)

    def use_networks(self, networks: Sequence[Restorer]) -> None:
        """Takes other networks, from the next frame on; in the thread that calls :meth:`process`."""
        self._aside.wait()
        self._networks = list(networks)
        rungs = rungs_for(has_smaller_network=len(networks) > 1)
        self.ladder = Ladder(rungs, self.ladder.budget_ms)
        if self._stream is not None:
            self._use(self._stream, 0)
        self._carried.forget()

    def warm_up(self, info: StreamInfo) -> None:
        """Runs every stage once on a grey picture with a made-up face, so that compiling does not delay real frames."""
        stream = self._stream_of(info)
        kernels.warm_up(info.format)
        planes = tuple(
            np.full(info.format.plane_size(i, info.frame_height, info.frame_width), 1 << (info.format.depth - 1), dtype)
            for i, dtype in enumerate([info.format.dtype] * info.format.num_planes)
        )
        frame = Frame(0, 0, info.time_base, planes, info.format)
        side = min(info.width, info.height) / 2
        points = (template(512) / 512 * side).astype(np.float32)
        box = np.array([0, 0, side, side], np.float32)
        stream.detector.detect(frame)
        for network in self._networks:
            faces = FaceRestorer(self._config.restore, info, network)
            for restoration in faces.restore([TrackedFrame(frame, (Track(0, box, points, 1.0),))])[0]:
                stripes = np.linspace(-0.2, 0.2, restoration.image.shape[-1], dtype=np.float32)
                self._compositor.composite(frame, [replace(restoration, image=restoration.crop.image + stripes)])

    def close(self) -> None:
        """Waits for the network's thread and ends it."""
        self._aside.close()

    def process(self, captured: Captured) -> LiveFrame:
        """Restores one frame.

        Raises:
            ValueError: a frame that is not newer than the last one.
            DeviceError: the device is lost or out of memory.
        """
        if captured.sequence <= self._last_sequence:
            raise ValueError(f"frame {captured.sequence} came after frame {self._last_sequence}")
        self._last_sequence = captured.sequence
        begin = self._clock()
        self.meter.add("decode", captured.decode_s * 1e3)
        self.meter.add("wait", max(0.0, begin - captured.arrived_s - captured.decode_s) * 1e3)
        stream = self._stream_of(captured.info)
        rung = self.ladder.rung
        index = self.ladder.index
        frame = replace(captured.frame, index=self._index)
        self._index += 1
        is_new_shot = frame.shot != self._shot
        self._shot = frame.shot
        tracks = self._track(stream, frame, rung)
        shown = _largest(tuple(track for track in tracks if track.strength > 0.0), rung.max_faces)
        restorations = self._restore(stream, TrackedFrame(frame, shown), rung, is_new_shot=is_new_shot)
        blend_begin = self._clock()
        restored = self._compositor.composite(frame, restorations)
        done = self._clock()
        self.meter.add("blend", (done - blend_begin) * 1e3)
        self.meter.add("latency", (done - captured.arrived_s) * 1e3)
        latency_ms = (done - captured.arrived_s) * 1e3
        network_ms = self._network_ms if rung.restores == "behind" else None
        if self._config.live.adapts and self.ladder.observe(done, latency_ms, network_ms):
            log.info("latency: now %s", self.ladder.rung.name)
        return LiveFrame(
            captured.sequence, captured.arrived_s, done, frame, restored, captured.info, tracks, "live", index
        )

    def _stream_of(self, info: StreamInfo) -> _Stream:
        """The stages for frames of this kind; kept across frames, made anew after another format."""
        if self._stream is None or not _is_same(self._stream.info, info):
            if self._stream is not None:
                self._aside.wait()
                self._count_faces(self._stream)
            config = self._config
            self._stream = _Stream(
                info,
                Detector(config.detect, info, self._finder),
                make_tracker(
                    config.track,
                    info,
                    every=config.detect.every,
                    device=self._networks[0].device,
                    bfm=self._bfm,
                ),
                FaceRules(config.track, info),
                FaceRestorer(config.restore, info, self._networks[0]),
                0,
            )
            self._carried.forget()
            self._compositor.forget()
            self._shot = -1
        return self._stream

    def _track(self, stream: _Stream, frame: Frame, rung: Rung) -> tuple[Track, ...]:
        detect_s = 0.0

        def look(seen: Frame) -> Detections:
            nonlocal detect_s
            begin = self._clock()
            found = stream.detector.detect(seen)
            detect_s += self._clock() - begin
            self.meter.add("detect", (self._clock() - begin) * 1e3)
            return found

        begin = self._clock()
        tracked = stream.tracker.update(frame, look, spacing=rung.detect_every)
        self.meter.add("track", (self._clock() - begin - detect_s) * 1e3)
        return stream.rules.apply(tracked[-1]).tracks

    def _restore(
        self, stream: _Stream, tracked: TrackedFrame, rung: Rung, *, is_new_shot: bool
    ) -> Sequence[Restoration]:
        begin = self._clock()
        if is_new_shot:
            self._carried.forget()
        finished = self._aside.take()
        if finished is not None and not is_new_shot:
            self._carried.keep(finished)
        self._obey(stream, rung)
        self._since_restoration += 1
        restorations: Sequence[Restoration]
        if not tracked.tracks:
            restorations = []
        elif rung.restores == "behind":
            restorations = self._restore_behind(stream, tracked)
        elif self._aside.is_busy or (rung.restores == "second" and self._since_restoration < 2 and len(self._carried)):
            restorations = self._carried.carry(stream.faces.sample(tracked))
        else:
            restorations = stream.faces.restore([tracked])[0]
            self._since_restoration = 0
            self._carried.keep(restorations)
        self._carried.forget(all_but=[track.id for track in tracked.tracks])
        self.meter.add("restore", (self._clock() - begin) * 1e3)
        return restorations

    def _restore_behind(self, stream: _Stream, tracked: TrackedFrame) -> Sequence[Restoration]:
        """Shows the newest change that is ready and, where the network is free, gives it this frame."""
        crops = stream.faces.sample(tracked)
        if not self._aside.is_busy:
            faces = stream.faces

            def job() -> list[Restoration]:
                begin = self._clock()
                result = faces.restore([tracked])[0]
                self._network_ms = (self._clock() - begin) * 1e3
                self.meter.add("network behind", self._network_ms)
                return result

            self._aside.submit(job)
        return self._carried.carry(crops)

    def _use(self, stream: _Stream, network_index: int) -> None:
        self._count_faces(stream)
        stream.faces = FaceRestorer(self._config.restore, stream.info, self._networks[network_index])
        stream.network_index = network_index

    def _count_faces(self, stream: _Stream) -> None:
        restored, kept = self._num_before
        self._num_before = restored + stream.faces.num_restored, kept + stream.faces.num_kept

    def _obey(self, stream: _Stream, rung: Rung) -> None:
        """What was asked for since the last frame; a network that is at work is left in peace until it is done."""
        controls = self.controls
        if self._compositor.options.strength != controls.strength:
            self._compositor.options = replace(self._compositor.options, strength=controls.strength)
        if self._aside.is_busy:
            return
        if self._config.restore.w != controls.w:
            self._config = replace(self._config, restore=replace(self._config.restore, w=controls.w))
            self._use(stream, stream.network_index)
        if rung.network_index != stream.network_index:
            self._use(stream, rung.network_index)
            self._carried.forget()


def _is_same(a: StreamInfo, b: StreamInfo) -> bool:
    """Frames of both may go through the same stages."""
    return (a.frame_width, a.frame_height, a.width, a.height, a.format, a.path) == (
        b.frame_width,
        b.frame_height,
        b.width,
        b.height,
        b.format,
        b.path,
    )


def _largest(tracks: tuple[Track, ...], max_faces: int | None) -> tuple[Track, ...]:
    """At most so many of the largest faces, in the order in which they came."""
    if max_faces is None or len(tracks) <= max_faces:
        return tracks
    areas = {t.id: float((t.box[2] - t.box[0]) * (t.box[3] - t.box[1])) for t in tracks}
    chosen = sorted(areas, key=lambda track_id: (-areas[track_id], track_id))[:max_faces]
    return tuple(t for t in tracks if t.id in chosen)
