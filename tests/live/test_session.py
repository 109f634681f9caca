from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from stamps import number_in
from stand_ins import FakeCamera, FakeClock, OneFace, TimedRestorer, live_config

from vidrestore.config import load_config
from vidrestore.errors import ConfigError, DecodeError, EncodeError, WeightsError
from vidrestore.live.capture import Arrival, Camera
from vidrestore.live.engine import LiveFrame
from vidrestore.live.session import LiveSession, network_names, preset_text_of
from vidrestore.live.sinks import ConsumerGoneError


class EnoughError(Exception):
    """Ends a session from within a test."""


class Paced(FakeCamera):
    """A made-up camera in real time, 100 frames a second."""

    def frames(self):  # type: ignore[no-untyped-def]
        for arrival in super().frames():
            time.sleep(0.01)
            yield Arrival(time.monotonic(), 0.0, arrival.frame)


class Collected:
    """A sink that keeps what it is given."""

    def __init__(self, name: str = "browser") -> None:
        self.name, self.frames, self.is_closed = name, [], False

    def write(self, frame: LiveFrame) -> None:
        self.frames.append(frame)

    def close(self) -> None:
        self.is_closed = True


def session_of(
    tmp_path: Path, cameras: list[Camera], sinks: list[Collected] | None = None, **live: object
) -> tuple[LiveSession, list[Collected]]:
    sinks = sinks if sinks is not None else [Collected()]

    def opener(pause: Callable[[float], object]) -> Camera:
        if not cameras:
            raise DecodeError("unplugged")
        return cameras.pop(0)

    session = LiveSession(
        live_config(**live), opener, sinks, folder=tmp_path / "kept", networks=[TimedRestorer()], finder=OneFace()
    )
    return session, sinks


def running(session: LiveSession) -> tuple[threading.Thread, threading.Event]:
    """The session in a thread, and what ends it."""
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise EnoughError

    def run() -> None:
        with contextlib.suppress(EnoughError):
            session.run(check)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, stop


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_camera_that_ends_ends_the_session_and_every_picture_was_restored_in_order(tmp_path: Path) -> None:
    camera = Paced(FakeClock(), 0, 40, has_end=True, breaks=False)
    session, (sink,) = session_of(tmp_path, [camera], adapts=False)
    session.run()
    assert sink.is_closed
    numbers = [number_in(frame.frame.planes[0]) for frame in sink.frames]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 3
    changed = [f for f in sink.frames if not np.array_equal(f.frame.planes[0], f.source.planes[0])]
    assert len(changed) == len(numbers)
    figures = session.figures()
    assert figures["camera"]["status"] == "ended"
    assert figures["camera"]["num_frames"] == 40
    assert figures["restored"] >= len(numbers)
    assert threading.active_count() < 20


def test_a_lost_camera_holds_the_picture_then_shows_a_slate_and_comes_back(tmp_path: Path) -> None:
    cameras: list[Camera] = [Paced(FakeClock(), 0, 5)]
    session, (sink,) = session_of(tmp_path, cameras, hold_s=0.6)
    thread, stop = running(session)
    try:
        until(lambda: any(frame.kind == "slate" for frame in sink.frames))
        cameras.append(Paced(FakeClock(), 5, 10_000))
        until(lambda: sink.frames[-1].kind == "live" and sink.frames[-1].sequence >= 5)
    finally:
        stop.set()
        thread.join(20)
    kinds = [frame.kind for frame in sink.frames]
    assert kinds.index("live") < kinds.index("held") < kinds.index("slate")
    times = [frame.frame.pts for frame in sink.frames]
    assert times == sorted(set(times))
    slate = next(frame for frame in sink.frames if frame.kind == "slate")
    assert (slate.frame.width, slate.frame.height) == (160, 120)
    assert session.figures()["camera"]["num_losses"] == 1


def test_snapshot_recording_and_preset_get_names_of_ours(tmp_path: Path) -> None:
    session, (sink,) = session_of(tmp_path, [Paced(FakeClock(), 0, 10_000)], adapts=False)
    with pytest.raises(EncodeError, match="no picture yet"):
        session.snapshot()
    thread, stop = running(session)
    try:
        until(lambda: len(sink.frames) > 3)
        picture = session.snapshot()
        with pytest.raises(EncodeError, match="just now"):
            session.snapshot()
        name = session.record(on=True)
        with pytest.raises(EncodeError, match="on already"):
            session.record(on=True)
        until(lambda: session.figures()["recording"]["written"] > 10)
        session.set("strength", 0.5)
        assert session.record(on=False) == name
        with pytest.raises(EncodeError, match="no recording"):
            session.record(on=False)
        preset = session.save_preset()
    finally:
        stop.set()
        thread.join(20)
    folder = tmp_path / "kept"
    assert sorted(path.name for path in folder.iterdir()) == sorted([picture, name, preset])
    image = cv2.imread(str(folder / picture), cv2.IMREAD_GRAYSCALE)
    assert image.shape == (120, 160)
    assert number_in(image) in {frame.sequence for frame in sink.frames}
    with av.open(str(folder / name)) as container:
        numbers = [number_in(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 10
    assert load_config(file=folder / preset) == session.config
    assert session.config.blend.strength == 0.5


def test_a_consumer_that_leaves_ends_the_session_and_a_full_disk_is_an_error(tmp_path: Path) -> None:
    class Failing(Collected):
        def __init__(self, error: Exception) -> None:
            super().__init__("pipe")
            self.error = error

        def write(self, frame: LiveFrame) -> None:
            raise self.error

    gone, _ = session_of(tmp_path, [Paced(FakeClock(), 0, 10_000)], [Failing(ConsumerGoneError("nobody"))])
    gone.run()
    full, sinks = session_of(tmp_path, [Paced(FakeClock(), 0, 10_000)], [Failing(EncodeError("the disk is full"))])
    with pytest.raises(EncodeError, match="disk is full"):
        full.run()
    assert sinks[0].is_closed


def test_a_camera_that_is_not_there_is_an_error_and_closes_the_sinks(tmp_path: Path) -> None:
    session, (sink,) = session_of(tmp_path, [])
    with pytest.raises(DecodeError, match="unplugged"):
        session.run()
    assert sink.is_closed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", 1.5),
        ("strength", "1"),
        ("strength", True),
        ("w", float("nan")),
        ("mirror", 1),
        ("network", "../../etc/passwd"),
        ("folder", "/etc"),
    ],
)
def test_a_control_out_of_its_bounds_is_refused(tmp_path: Path, name: str, value: object) -> None:
    session, _ = session_of(tmp_path, [])
    before = session.config
    with pytest.raises(ConfigError):
        session.set(name, value)
    assert session.config == before
    session._engine.close()


def test_the_network_is_changed_while_the_picture_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidrestore.live import session as module

    other = TimedRestorer()
    monkeypatch.setattr(module, "_load_networks", lambda options: [other])
    session, (sink,) = session_of(tmp_path, [Paced(FakeClock(), 0, 10_000)])
    thread, stop = running(session)
    name = next(name for name in network_names() if name != session.config.restore.network)
    try:
        until(lambda: len(sink.frames) > 3)
        session.set("network", name)
        until(lambda: other.calls > 0)
        assert session.figures()["network"] == name
    finally:
        stop.set()
        thread.join(20)


def test_a_network_whose_weights_are_missing_is_told_and_the_old_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidrestore.live import session as module

    def missing(options: object) -> list[TimedRestorer]:
        raise WeightsError("codeformer.safetensors is not here; see `models convert`")

    monkeypatch.setattr(module, "_load_networks", missing)
    session, (sink,) = session_of(tmp_path, [Paced(FakeClock(), 0, 10_000)])
    thread, stop = running(session)
    try:
        until(lambda: len(sink.frames) > 3)
        session.set("network", "codeformer")
        until(lambda: session.figures()["message"] != "")
        count = len(sink.frames)
        until(lambda: len(sink.frames) > count + 3)
    finally:
        stop.set()
        thread.join(20)
    assert session.figures()["message"].startswith("codeformer: ")
    assert session.figures()["network"] == session.config.restore.network == "compact"


def test_a_saved_preset_leads_to_the_same_settings(tmp_path: Path) -> None:
    config = load_config(
        preset="live",
        overrides={
            "blend": {"strength": 0.35},
            "restore": {"w": 0.125, "w_of_track": {3: 0.5}, "network": "codeformer"},
            "live": {"mirror": True, "latency_budget_ms": 120.5},
        },
    )
    path = tmp_path / "saved.toml"
    path.write_text(preset_text_of(config), "utf-8")
    assert load_config(file=path) == config
