"""A camera that writes a number into every picture, networks and faces that take a known time, and a clock to match."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from stamps import write_number

from vidrestore.config import RestoreConfig, load_config
from vidrestore.errors import DecodeError
from vidrestore.geometry import identity
from vidrestore.live.capture import LIVE_TIME_BASE, Arrival, Captured
from vidrestore.live.engine import Engine, LiveFrame
from vidrestore.live.slot import LatestSlot
from vidrestore.restoration.align import template
from vidrestore.types import CropContext, Detections, Frame, PixelFormat, Restoration, StreamInfo

YUV420 = PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5), matrix="bt601")
WIDTH, HEIGHT = 160, 120


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def info_of(width: int = WIDTH, height: int = HEIGHT, rate: int = 25) -> StreamInfo:
    return StreamInfo(
        path="synthetic",
        frame_width=width,
        frame_height=height,
        width=width,
        height=height,
        display_from_frame=identity(),
        rotation=0,
        sample_aspect_ratio=Fraction(1),
        time_base=LIVE_TIME_BASE,
        average_rate=Fraction(rate),
        num_frames=None,
        duration_s=None,
        format=YUV420,
        codec="rawvideo",
        bit_rate=None,
        has_audio=False,
    )


def stamped(number: int, *, shot: int = 0) -> Frame:
    """A soft picture with a number in it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    luma = (110 + 40 * np.sin(x / 9) + 30 * np.cos(y / 7)).astype(np.uint8)
    write_number(luma, number)
    chroma = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    return Frame(number, number, LIVE_TIME_BASE, (luma, chroma, chroma.copy()), YUV420, shot)


class OneFace:
    """Finds the same face in every picture; ``places`` moves it."""

    def __init__(self, places: Callable[[int], tuple[float, float]] = lambda look: (0.0, 0.0), count: int = 1) -> None:
        self.places, self.count, self.looks = places, count, 0

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        scale = picture.shape[1] / WIDTH
        boxes, points = [], []
        for i in range(self.count):
            side = 60.0 - 20.0 * i
            shift = np.add(self.places(self.looks), (45.0 + 62.0 * i, 40.0))
            points.append((template(512) / 512 * side + shift) * scale)
            boxes.append(np.concatenate([shift, shift + side]) * scale)
        self.looks += 1
        return Detections(
            np.array(boxes, np.float32), np.array(points, np.float32), np.full(self.count, 0.9, np.float32)
        )


class TimedRestorer:
    """Brightens stripes, and takes so many seconds for it on a made-up clock.

    They are finer than eyes and mouth: coarser ones would be taken for something that covers the face.
    """

    size = 32
    device = torch.device("cpu")

    def __init__(self, clock: FakeClock | None = None, seconds: float = 0.0) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        self.calls += 1
        if self.clock is not None:
            self.clock.now += self.seconds
        stripes = torch.linspace(-1, 1, images.shape[-1]).mul(25.13).sin()
        return images + 0.3 * stripes


class FakeAside:
    """The network's own thread, on the made-up clock."""

    def __init__(self, restorer: TimedRestorer) -> None:
        self._restorer = restorer
        self._result: list[Restoration] | None = None
        self._ready_s = 0.0

    @property
    def is_busy(self) -> bool:
        return self._result is not None

    def submit(self, job: Callable[[], list[Restoration]]) -> None:
        assert not self.is_busy
        clock = self._restorer.clock
        assert clock is not None
        now = clock.now
        self._result = job()  # its time passes beside that of the picture
        self._ready_s, clock.now = clock.now, now

    def take(self) -> list[Restoration] | None:
        assert self._restorer.clock is not None
        if self._result is None or self._restorer.clock.now < self._ready_s:
            return None
        result, self._result = self._result, None
        return result

    def wait(self) -> None:
        self._result = None

    def close(self) -> None:
        self._result = None


def live_config(**live: object) -> RestoreConfig:
    """The stand-in's faces are in no picture: there is nothing that a 3D face could be read from or held still by."""
    stages: dict[str, dict[str, object]] = {
        "live": live,
        "detect": {"min_face_px": 8},
        "track": {"min_hits": 1, "method": "points"},
        "restore": {"steady": 0.0},
    }
    return load_config(preset="live", overrides=stages)


def captured(number: int, at_s: float, info: StreamInfo | None = None) -> Captured:
    frame = replace(stamped(number), pts=round(at_s / LIVE_TIME_BASE))
    return Captured(number, at_s, 0.0, frame, info or info_of())


def timed_engine(
    seconds: float, *, adapts: bool = False, budget_ms: float = 90.0, finder: OneFace | None = None
) -> tuple[Engine, FakeClock, TimedRestorer]:
    """An engine whose network takes so many seconds of made-up time; everything else takes none."""
    clock = FakeClock()
    restorer = TimedRestorer(clock, seconds)
    config = live_config(adapts=adapts, latency_budget_ms=budget_ms)
    engine = Engine(config, [restorer], finder or OneFace(), clock=clock, aside=FakeAside(restorer))
    return engine, clock, restorer


def drive(engine: Engine, clock: FakeClock, rate: float, seconds: float) -> tuple[list[LiveFrame], int]:
    """Feeds a camera's frames through a slot at their times; what came out, and how many were dropped."""
    slot: LatestSlot[Captured] = LatestSlot()
    number, done = 0, []
    while True:
        while number / rate <= min(clock.now, seconds) + 1e-9:
            slot.put(captured(number, number / rate))
            number += 1
        item = slot.get(0)
        if item is not None:
            done.append(engine.process(item))
        elif number / rate > seconds:
            return done, slot.num_dropped
        else:
            clock.now = number / rate


class FakeCamera:
    """A camera of stamped frames that breaks where it is told to."""

    def __init__(self, clock: FakeClock, first: int, count: int, *, has_end: bool = False, breaks: bool = True) -> None:
        self.info = info_of()
        self.description = "a made-up camera"
        self.has_end = has_end
        self.is_closed = False
        self._clock, self._numbers, self._breaks = clock, range(first, first + count), breaks

    def frames(self) -> Iterator[Arrival]:
        for number in self._numbers:
            self._clock.now += 0.04
            yield Arrival(self._clock.now, 0.001, stamped(number))
        if self._breaks:
            raise DecodeError("unplugged")

    def close(self) -> None:
        self.is_closed = True
