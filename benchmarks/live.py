"""The live path under overload: does the latency stay flat, is the order kept, what does the ladder bring?

    python benchmarks/live.py --minutes 10 --clip tests/clips/faces.mkv

A camera thread offers the frames of a clip, decoded beforehand, again and again, at twice the rate that the machine
managed in a first short run. Two runs: dropping alone (``adapts = false``), and with the ladder. For each: the slope of
latency over time by least squares, and that of the part of it that is waiting (what would grow where frames queue; the
rest is work, which is slower while others use the machine too), percentiles per stage, frames shown and dropped, and
whether a frame ever came out of order. A first tenth of each run is left out of the slopes: the ladder settles there.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import common
import numpy as np

from vidrestore.config import load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.live.capture import Captured
from vidrestore.live.engine import Engine, LiveFrame
from vidrestore.live.slot import LatestSlot
from vidrestore.pipeline import load_finder
from vidrestore.restoration.restorer import load_restorer
from vidrestore.types import Frame, StreamInfo

METHOD = " ".join((__doc__ or "").split("\n\n", 2)[2].split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=Path(__file__).parent.parent / "tests" / "clips" / "faces.mkv")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of each of the two runs")
    parser.add_argument("--network", default=None)
    parser.add_argument("--budget", type=float, default=90.0, help="latency budget in ms of the second run")
    parser.add_argument("--overload", type=float, default=2.0)
    arguments = parser.parse_args()
    chosen = {"restore": {"network": arguments.network}} if arguments.network else {}
    config = load_config(preset="live", overrides={**chosen, "live": {"latency_budget_ms": arguments.budget}})
    with VideoReader(arguments.clip) as reader:
        info, frames = reader.info, list(islice(reader.decode(), 250))
    restorer = load_restorer(config.restore)
    capacity = measure_capacity(config, restorer, frames, info)
    rate = arguments.overload * capacity
    print(f"alone: {capacity:.1f} frames/s; the camera gives {rate:.1f}")
    results = []
    for name, adapts in (("dropping alone", False), ("with the ladder", True)):
        run_config = replace(config, live=replace(config.live, adapts=adapts))
        engine = Engine(run_config, [restorer], load_finder(config))
        done, dropped, order = run(engine, frames, info, rate, arguments.minutes * 60)
        results.append(describe(name, engine, done, dropped, order, rate))
        engine.close()
        print(results[-1])
    path = common.write_report(
        "live",
        METHOD,
        results,
        clip=arguments.clip.name,
        size=f"{info.width}x{info.height}",
        network=config.restore.network,
        capacity_per_s=round(capacity, 2),
        camera_per_s=round(rate, 2),
        budget_ms=arguments.budget,
    )
    print(path)


def measure_capacity(config: Any, restorer: Any, frames: list[Frame], info: StreamInfo, seconds: float = 8.0) -> float:
    """Frames per second at full quality when the next frame is always there."""
    engine = Engine(replace(config, live=replace(config.live, adapts=False)), [restorer], load_finder(config))
    engine.warm_up(info)
    number, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        engine.process(Captured(number, time.monotonic(), 0.0, again(frames, number), info))
        number += 1
    elapsed = time.monotonic() - begin
    engine.close()
    return number / elapsed


def again(frames: list[Frame], number: int) -> Frame:
    """The frame of an endless clip; each repetition is a new shot."""
    turn, place = divmod(number, len(frames))
    frame = frames[place]
    return replace(frame, shot=frame.shot + turn * (frames[-1].shot + 1))


def run(
    engine: Engine, frames: list[Frame], info: StreamInfo, rate: float, seconds: float
) -> tuple[list[tuple[float, float, float, int]], int, bool]:
    """(time in s, latency in ms, of it waiting in ms, rung) of every frame shown; drops; whether order was kept."""
    slot: LatestSlot[Captured] = LatestSlot()
    stop = threading.Event()
    begin = time.monotonic()

    def camera() -> None:
        number = 0
        while not stop.is_set():
            due = begin + number / rate
            wait = due - time.monotonic()
            if wait > 0:
                stop.wait(wait)
            slot.put(Captured(number, max(due, time.monotonic() - 1 / rate), 0.0, again(frames, number), info))
            number += 1

    thread = threading.Thread(target=camera, daemon=True)
    thread.start()
    done: list[tuple[float, float, float, int]] = []
    last = -1
    is_ordered = True
    while time.monotonic() - begin < seconds:
        item = slot.get(0.5)
        if item is None:
            continue
        waited = time.monotonic() - item.arrived_s
        frame: LiveFrame = engine.process(item)
        is_ordered = is_ordered and frame.sequence > last
        last = frame.sequence
        done.append((frame.done_s - begin, frame.latency_ms, waited * 1e3, frame.rung))
    stop.set()
    thread.join()
    return done, slot.num_dropped, is_ordered


def describe(
    name: str, engine: Engine, done: list[tuple[float, float, float, int]], dropped: int, is_ordered: bool, rate: float
) -> dict[str, Any]:
    """The figures of one run."""
    times, latency = np.array([d[0] for d in done]), np.array([d[1] for d in done])
    settled = times > times[-1] / 10
    waiting = np.array([d[2] for d in done])
    rungs, counts = np.unique([d[3] for d in done], return_counts=True)
    return {
        "name": name,
        "minutes": round(float(times[-1]) / 60, 2),
        "slope_of_latency_ms_per_minute": slope(times[settled], latency[settled]),
        "slope_of_waiting_ms_per_minute": slope(times[settled], waiting[settled]),
        "waiting_ms": {p: round(float(np.percentile(waiting[settled], p)), 1) for p in (5, 50, 95, 99)},
        "latency_ms": {p: round(float(np.percentile(latency[settled], p)), 1) for p in (5, 50, 95, 99)},
        "shown_per_s": round(len(done) / float(times[-1]), 2),
        "camera_per_s": round(rate, 2),
        "shown": len(done),
        "dropped": dropped,
        "is_ordered": is_ordered,
        "share_of_frames_on_rung": {
            engine.ladder.rungs[int(r)].name: round(int(c) / len(done), 3) for r, c in zip(rungs, counts, strict=True)
        },
        "stages_ms": {k: {"p50": round(s.p50, 1), "p95": round(s.p95, 1)} for k, s in engine.meter.spreads().items()},
    }


def slope(times_s: Any, values_ms: Any) -> dict[str, float]:
    """Rise per minute by least squares, and its standard error (of independent residuals)."""
    minutes = times_s / 60
    line = np.polyfit(minutes, values_ms, 1)
    residual = values_ms - np.polyval(line, minutes)
    error = residual.std() / (minutes.std() * np.sqrt(len(minutes)))
    return {"value": round(float(line[0]), 2), "standard_error": round(float(error), 2)}


if __name__ == "__main__":
    main()
