from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from stamps import number_in
from stand_ins import (
    FakeAside,
    FakeClock,
    OneFace,
    TimedRestorer,
    captured,
    drive,
    info_of,
    live_config,
    timed_engine,
)

from vidrestore.config import load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.detect.yunet import YuNet
from vidrestore.live.capture import Captured
from vidrestore.live.engine import Background, Engine
from vidrestore.pipeline import restore_frames
from vidrestore.restoration.restorer import Restorer, load_restorer
from vidrestore.types import CropContext, Restoration

RATE = 5.0  # few frames make a long time on a made-up clock


def slope_ms_per_minute(times_s: list[float], latencies_ms: list[float]) -> float:
    return float(np.polyfit(np.array(times_s) / 60.0, latencies_ms, 1)[0])


@pytest.mark.parametrize("load", [1, 2, 4])
def test_order_drops_and_latency_under_load(load: int) -> None:
    engine, clock, _ = timed_engine(load / RATE)
    done, num_dropped = drive(engine, clock, RATE, 16.0)
    sequence = [frame.sequence for frame in done]
    assert sequence == sorted(set(sequence))
    assert [number_in(frame.frame.planes[0]) for frame in done] == sequence  # the picture that it says it is
    assert len(done) + num_dropped == pytest.approx(16.0 * RATE, abs=2)
    assert len(done) == pytest.approx(16.0 * RATE / load, rel=0.08)
    latency = [frame.latency_ms for frame in done]
    # a frame waits for at most one other, and no longer than the camera's interval, since then a newer one is there
    assert max(latency) <= (load + 1) / RATE * 1e3 + 1e-6
    assert abs(slope_ms_per_minute([frame.done_s for frame in done], latency)) < 1.0


def test_the_ladder_brings_an_overloaded_machine_under_the_budget_and_the_change_stays_visible() -> None:
    engine, clock, restorer = timed_engine(0.8, adapts=True)
    done, _ = drive(engine, clock, RATE, 16.0)
    late = [frame for frame in done if frame.arrived_s > 9.0]
    assert max(frame.latency_ms for frame in late) <= 90.0
    assert engine.ladder.rung.restores == "behind"
    changed = [not np.array_equal(frame.frame.planes[0], frame.source.planes[0]) for frame in late]
    assert all(changed)
    assert len(late) == pytest.approx(36, abs=2)  # every frame is shown, although the network manages one in four
    assert restorer.calls < 30
    spreads = engine.meter.spreads()
    assert {"wait", "detect", "track", "restore", "blend", "latency"} <= set(spreads)


def test_the_quality_comes_back_when_the_load_is_gone() -> None:
    engine, clock, restorer = timed_engine(0.8, adapts=True)
    drive(engine, clock, RATE, 8.0)
    assert engine.ladder.index > 0
    restorer.seconds = 0.001
    slot_start = clock.now
    for i in range(int(24 * RATE)):
        clock.now = max(clock.now, slot_start + i / RATE)
        engine.process(captured(1000 + i, clock.now))
    assert engine.ladder.index == 0


def test_every_second_frame_carries_the_change_at_its_own_pose() -> None:
    moving = OneFace(lambda look: (0.5 * look, 0.0))
    engine, _, restorer = timed_engine(0.0, finder=moving)
    engine.ladder = type(engine.ladder)((replace(engine.ladder.rungs[2], detect_every=1),), 90.0)
    places = []
    for i in range(12):
        frame = engine.process(captured(i, i / RATE))
        change = np.abs(frame.frame.planes[0].astype(int) - frame.source.planes[0]).sum(0)
        places.append(float((change * np.arange(change.size)).sum() / max(change.sum(), 1)))
    assert restorer.calls == 6
    # the change moves with the face in every frame, also in those that the network never saw
    assert np.diff(places[4:]) == pytest.approx(0.5, abs=0.25)


def test_faces_beyond_the_limit_are_left_alone_the_largest_stays() -> None:
    engine, _, _ = timed_engine(0.0, finder=OneFace(count=2))
    both = engine.process(captured(0, 0.0))
    assert len(both.tracks) == 2
    engine.ladder = type(engine.ladder)((replace(engine.ladder.rungs[0], max_faces=1),), 90.0)
    one = engine.process(captured(1, 0.04))
    assert len(one.tracks) == 2  # still tracked, so that they come back at once
    left, right = slice(40, 105), slice(110, 160)
    change = np.abs(one.frame.planes[0].astype(int) - one.source.planes[0])[20:]
    assert change[:, left].max() > 0
    assert change[:, right].max() == 0


def test_a_frame_that_is_not_newer_is_refused() -> None:
    engine, _, _ = timed_engine(0.0)
    engine.process(captured(5, 0.0))
    with pytest.raises(ValueError, match="frame 5 came after frame 5"):
        engine.process(captured(5, 0.1))


def test_controls_take_effect_in_the_next_frame() -> None:
    engine, _, _ = timed_engine(0.0)
    full = engine.process(captured(0, 0.0))
    engine.controls = replace(engine.controls, strength=0.0)
    none = engine.process(captured(1, 0.04))
    assert not np.array_equal(full.frame.planes[0], full.source.planes[0])
    assert none.frame is none.source


def test_another_format_begins_anew_without_an_error() -> None:
    engine, _, _ = timed_engine(0.0)
    engine.process(captured(0, 0.0))
    other = replace(info_of(), width=320)
    assert engine.process(captured(1, 0.04, other)).info is other


def test_warming_up_leaves_no_trace() -> None:
    engine, _, restorer = timed_engine(0.0)
    engine.warm_up(info_of())
    assert restorer.calls == 1
    assert engine.num_restored == 0
    assert engine.process(captured(0, 0.0)).tracks[0].id == 0


class TestBackground:
    def test_one_job_at_a_time_and_its_result_once(self) -> None:
        aside = Background()
        try:
            aside.submit(lambda: [])
            with pytest.raises(ValueError, match="one job"):
                aside.submit(lambda: [])
            end = time.monotonic() + 5.0
            result: list[Restoration] | None = None
            while result is None and time.monotonic() < end:
                result = aside.take()
            assert result == []
            assert aside.take() is None
            assert not aside.is_busy
        finally:
            aside.close()

    def test_a_failure_is_raised_where_the_result_is_taken(self) -> None:
        def fail() -> list[Restoration]:
            raise MemoryError("full")

        aside = Background()
        try:
            aside.submit(fail)
            with pytest.raises(MemoryError, match="full"):
                aside.wait()
            assert not aside.is_busy
        finally:
            aside.close()


@pytest.mark.parametrize("network", ["stripes", "compact"])
def test_the_pixels_are_those_of_the_file_path(face_clip: Path, network: str) -> None:
    """E4: at the top of the ladder, frame by frame, across a cut."""
    overrides = {"restore": {"batch_size": 1, "device": "cpu", "precision": "float32"}}
    config = load_config(preset="live", overrides=overrides)
    restorer: Restorer = TimedRestorer() if network == "stripes" else load_restorer(config.restore)
    with VideoReader(face_clip, config.decode) as reader:
        info = reader.info
        first, last = (19, 32) if network == "stripes" else (0, 4)
        frames = [replace(frame, index=i) for i, frame in enumerate(islice(reader.decode(), first, last))]
    by_file = list(restore_frames(frames, info, config, restorer=restorer))
    clock = FakeClock()
    timed = TimedRestorer(clock)
    engine = Engine(config, [restorer], YuNet(config.detect.score_threshold), clock=clock, aside=FakeAside(timed))
    num_changed = 0
    for i, (frame, expected) in enumerate(zip(frames, by_file, strict=True)):
        live = engine.process(Captured(3 * i, i / 25, 0.0, frame, info))
        assert [track.id for track in live.tracks] == [track.id for track in expected.tracks]
        for got, wanted in zip(live.frame.planes, expected.frame.planes, strict=True):
            assert np.array_equal(got, wanted)
        num_changed += live.frame is not live.source
    assert num_changed >= (9 if network == "stripes" else 3)


def test_a_result_that_is_not_finite_is_counted_and_the_face_left_as_it_was() -> None:
    class Broken(TimedRestorer):
        def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
            return images * float("nan")

    clock = FakeClock()
    broken = Broken(clock)
    engine = Engine(live_config(), [broken], OneFace(), clock=clock, aside=FakeAside(broken))
    frame = engine.process(captured(0, 0.0))
    assert frame.frame is frame.source
    assert (engine.num_restored, engine.num_kept) == (0, 1)
