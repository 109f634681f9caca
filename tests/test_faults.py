"""A fault or a stop in any stage ends all of them, soon, with the first cause and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from vidrestore import pipeline
from vidrestore.blend.compositor import Compositor
from vidrestore.config import load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.encode.writer import VideoWriter
from vidrestore.kernels import warm_up
from vidrestore.pipeline import Progress, RestoredVideo, restore
from vidrestore.track.points import PointTracker
from vidrestore.types import CropContext, Detections, PixelFormat

SOON_S = 1.0
"""Of processor time, all threads together: this suite also runs beside others, where wall time says little."""
HANG_S = 30.0
"""Of wall time, even then."""
CONFIG = load_config(
    overrides={"encode": {"speed": "ultrafast"}, "restore": {"device": "cpu"}, "track": {"method": "points"}}
)


class FaultError(Exception):
    """What a stage may run into."""


class Stop(BaseException):
    """What a signal's check raises: no ordinary exception."""


class Alarm:
    """Raises at the n-th call, and notes when."""

    def __init__(self, at: int, error: BaseException) -> None:
        self._left, self._error = at, error
        self._rang_at: tuple[float, float] | None = None

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._rang_at = time.process_time(), time.perf_counter()
            raise self._error

    def assert_it_ended_soon(self) -> None:
        assert self._rang_at is not None, "the stage was never reached"
        processor, wall = self._rang_at
        assert time.process_time() - processor < SOON_S
        assert time.perf_counter() - wall < HANG_S


class Pattern:
    """A network that costs nothing."""

    size = 32
    device = torch.device("cpu")

    def __init__(self, alarm: Alarm | None = None) -> None:
        self._alarm = alarm

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        if self._alarm is not None:
            self._alarm()
        return images + 0.2 * torch.linspace(-1, 1, images.shape[-1])


class OneFace:
    """The same face in the middle of every picture."""

    def __init__(self, alarm: Alarm | None = None) -> None:
        self._alarm = alarm

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        if self._alarm is not None:
            self._alarm()
        height, width = picture.shape[:2]
        side, middle = height / 3, np.array([width / 2, height / 2])
        points = np.array([[-0.16, -0.04], [0.16, -0.04], [0.0, 0.14], [-0.13, 0.32], [0.13, 0.32]])
        box = np.concatenate([middle - side / 2, middle + side / 2])[None]
        return Detections(box.astype(np.float32), (middle + side * points)[None].astype(np.float32), np.ones(1, "f4"))


@pytest.fixture(autouse=True, scope="module")
def _kernels_are_compiled() -> None:
    """Reading them from the cache, once in a process, is not what is timed here."""
    warm_up(PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5)))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    descriptors = psutil.Process().num_fds()
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("vidrestore-")]
    assert [name for name in left if not name.startswith("vidrestore-kernel")] == []  # the kernels' pool stays
    assert psutil.Process().num_fds() <= descriptors


def run(folder: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    finder = parts.pop("finder", OneFace())
    monkeypatch.setattr(pipeline, "load_finder", lambda *_: finder)
    restore(clip, folder / "out.mkv", CONFIG, **{"restorer": Pattern(), **parts})


def alarmed(monkeypatch: pytest.MonkeyPatch, kind: type, method: str, alarm: Alarm) -> None:
    """The method rings before each call."""
    own = getattr(kind, method)

    def called(self: Any, *values: Any, **options: Any) -> Any:
        alarm()
        return own(self, *values, **options)

    monkeypatch.setattr(kind, method, called)


@pytest.mark.parametrize("stage", ["decode", "detect", "track", "restore", "composite", "encode", "progress", "finish"])
@pytest.mark.parametrize("at", [1, 30])
def test_the_first_cause_comes_out_and_all_ends(
    stage: str, at: int, face_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stage in ("finish", "restore") and at > 1:
        at = {"finish": 1, "restore": 5}[stage]  # there are fewer of them
    fault = FaultError(stage)
    alarm = Alarm(at, fault)
    parts: dict[str, Any] = {}
    if stage == "decode":
        alarmed(monkeypatch, VideoReader, "_make_frame", alarm)
    elif stage == "detect":
        parts["finder"] = OneFace(alarm)
    elif stage == "track":
        alarmed(monkeypatch, PointTracker, "update", alarm)
    elif stage == "restore":
        parts["restorer"] = Pattern(alarm)
    elif stage == "composite":
        alarmed(monkeypatch, Compositor, "composite", alarm)
    elif stage == "encode":
        alarmed(monkeypatch, VideoWriter, "write", alarm)
    elif stage == "finish":
        alarmed(monkeypatch, VideoWriter, "finish", alarm)
    else:
        parts["progress"] = lambda _: alarm()
    with pytest.raises(FaultError) as raised:
        run(tmp_path, face_clip, monkeypatch, **parts)
    assert raised.value is fault
    alarm.assert_it_ended_soon()
    assert list(tmp_path.iterdir()) == []


def test_of_two_faults_the_one_that_ends_the_run_comes_out(
    face_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later = FaultError("encoder"), FaultError("decoder, frames further on")
    alarmed(monkeypatch, VideoReader, "_make_frame", Alarm(40, later))
    alarmed(monkeypatch, VideoWriter, "write", Alarm(2, first))
    with pytest.raises(FaultError) as raised:
        run(tmp_path, face_clip, monkeypatch)
    assert raised.value is first


@pytest.mark.parametrize("at", [1, 20])
def test_a_stop_is_asked_for_between_frames(
    at: int, face_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm = Alarm(at, Stop())
    with pytest.raises(Stop):
        run(tmp_path, face_clip, monkeypatch, check=alarm)
    alarm.assert_it_ended_soon()
    assert list(tmp_path.iterdir()) == []


def test_a_stop_is_noticed_while_the_network_is_busy(
    face_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Pattern):
        def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
            time.sleep(0.3)
            return images

    alarm = Alarm(5, Stop())  # asked ten times a second while the network sleeps
    with pytest.raises(Stop):
        run(tmp_path, face_clip, monkeypatch, restorer=Slow(), check=alarm)
    alarm.assert_it_ended_soon()


def test_closing_wakes_stages_that_wait_for_room(face_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load_finder", lambda *_: OneFace())
    with RestoredVideo(face_clip, CONFIG, restorer=Pattern()) as video:
        next(iter(video))
        deadline = time.perf_counter() + 20.0
        while video.stage_times()["decode"].blocked_s < 0.3 and time.perf_counter() < deadline:
            time.sleep(0.05)  # nobody takes frames: every queue fills up to the decoder
        assert video.stage_times()["decode"].blocked_s >= 0.3
        alarm = Alarm(1, Stop())
        with pytest.raises(Stop):
            alarm()  # the clock starts
    alarm.assert_it_ended_soon()


def test_the_account_tells_which_stage_holds_the_others_up(
    face_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Pattern):
        def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
            time.sleep(0.02 * len(images))
            return images

    monkeypatch.setattr(pipeline, "load_finder", lambda *_: OneFace())
    seen: list[Progress] = []
    result = restore(face_clip, tmp_path / "out.mkv", CONFIG, restorer=Slow(), progress=seen.append)
    stages = result.stages
    assert list(stages) == ["decode", "track", "restore", "encode"]
    slept = 0.02 * result.num_faces
    assert stages["restore"].busy_s >= slept
    assert stages["restore"].blocked_s < 0.3 * slept
    assert stages["encode"].starved_s > 0.5 * slept, "the writer waits for the network"
    assert stages["track"].blocked_s + stages["track"].busy_s > 0.3 * slept, "the tracker waits for room"
    for stage in stages.values():
        assert stage.busy_s + stage.starved_s + stage.blocked_s <= result.elapsed_s + 0.2
    assert [p.num_frames for p in seen] == list(range(1, result.num_frames + 1))
    assert [p.elapsed_s for p in seen] == sorted(p.elapsed_s for p in seen)
