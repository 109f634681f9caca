"""Ten minutes of overload: memory, threads, descriptors and latency stay where they were."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from stand_ins import FakeClock, OneFace, TimedRestorer, live_config
from test_session import Collected, EnoughError, Paced

from vidrestore.live.engine import LiveFrame
from vidrestore.live.session import LiveSession
from vidrestore.types import CropContext

MINUTES = float(os.environ.get("VIDRESTORE_SOAK_MINUTES", "10"))


class Sleeping(TimedRestorer):
    """A network that takes twice the time that a camera's frame leaves it."""

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        time.sleep(0.02)
        return super().restore(images, context)


class Noted(Collected):
    """Keeps figures and no pictures."""

    def write(self, frame: LiveFrame) -> None:
        self.frames.append((frame.sequence, frame.done_s, frame.latency_ms))


@pytest.mark.slow
def test_ten_minutes_of_overload(tmp_path: Path) -> None:
    sink, process, begin = Noted("file"), psutil.Process(), time.monotonic()
    session = LiveSession(
        live_config(adapts=False),
        lambda pause: Paced(FakeClock(), 0, 10_000_000),
        [sink],
        folder=tmp_path,
        networks=[Sleeping()],
        finder=OneFace(),
    )
    seen: list[tuple[float, int, int, int]] = []

    def check() -> None:
        minutes = (time.monotonic() - begin) / 60
        if not seen or minutes > seen[-1][0] + MINUTES / 60:
            rss = process.memory_info().rss
            seen.append((minutes, rss, threading.active_count(), process.num_fds()))
        if minutes > MINUTES:
            raise EnoughError

    with pytest.raises(EnoughError):
        session.run(check)
    settled = [values for values in seen if values[0] > MINUTES / 5]
    minutes, rss, threads, descriptors = (np.array(column) for column in zip(*settled, strict=True))
    assert len(set(threads)) == 1
    assert len(set(descriptors)) == 1
    assert np.polyfit(minutes, rss, 1)[0] * 10 < 16e6  # bytes in ten minutes
    frames = [frame for frame in sink.frames if frame[1] - begin > MINUTES * 12]
    sequence, done_s, latency = (np.array(column) for column in zip(*frames, strict=True))
    assert (np.diff(sequence) > 0).all()
    assert session.figures()["camera"]["dropped"] > 0.3 * session.figures()["camera"]["num_frames"]
    # Medians of many short stretches: another program's second on this core is none of ours, a queue that grows is.
    windows = np.array_split(np.arange(len(latency)), 40)
    middle = np.array([[np.median(done_s[w]) / 60, np.median(latency[w])] for w in windows])
    (slope, _), covariance = np.polyfit(*middle.T, 1, cov=True)
    assert slope - 2 * np.sqrt(covariance[0, 0]) <= 1.0  # ms a minute
