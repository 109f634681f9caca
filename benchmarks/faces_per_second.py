"""Faces per second on a CPU (goal P13: at least 5 on two cores): the network alone, then all that a face costs.

    python benchmarks/faces_per_second.py [--network compact] [--clip examples/clip.mp4] [--frames 60] [--quick]

Rows
    network: crops of fresh noise, one by one and in batches, one thread and two.
    with everything, one thread: the clip's frames, decoded before, are tracked and then restored; the time is that of
    detecting, tracking, sampling, network and blending in one thread, shares beside it. Decoding and encoding are left
    out, as they do not depend on faces.
    as a run, two threads: the same clip through ``RestoredVideo``, whose stages work beside each other; with decoding,
    without encoding.

Each is the median of some rounds, the candidates in turn. The clip's faces are counted once per frame.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from common import measure, write_report

from vidrestore import RestoredVideo
from vidrestore.config import RestoreConfig, load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.engine import make_engine
from vidrestore.pipeline import load_finder, track_frames
from vidrestore.restoration.restorer import Restorer, load_restorer

CLIP = Path(__file__).parent.parent / "examples" / "clip.mp4"
BATCHES = (1, 8)


def network_alone(restorer: Restorer, threads: int, rounds: int) -> dict[str, float]:
    """Batch -> faces per second."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(max(BATCHES), 3, restorer.size, restorer.size, generator=generator) * 2 - 1

    def run(batch: int) -> None:
        with torch.inference_mode():
            restorer.restore(pictures[:batch])

    times = measure({str(b): lambda b=b: run(b) for b in BATCHES}, rounds=rounds, warm_up=1)
    return {name: round(int(name) / t["median_ms"] * 1e3, 2) for name, t in times.items()}


def everything(config: RestoreConfig, clip: Path, num_frames: int, rounds: int) -> dict[str, Any]:
    """Milliseconds per face by part, and faces per second, in one thread."""
    torch.set_num_threads(1)
    with VideoReader(clip, config.decode) as reader:
        frames, info = list(itertools.islice(reader.decode(), num_frames)), reader.info
    restorer, finder = load_restorer(config.restore), load_finder(config)
    tracking, restoring, faces = [], [], 0
    for i in range(rounds + 1):  # the first warms up
        begin = time.perf_counter()
        tracked = list(track_frames(frames, info, config, finder=finder))
        middle = time.perf_counter()
        engine = make_engine(config, info, restorer)
        batches = [tracked[k : k + 4] for k in range(0, len(tracked), 4)]
        for _ in engine.run(batches):
            pass
        end = time.perf_counter()
        faces = engine.num_restored
        if i:
            tracking.append(middle - begin)
            restoring.append(end - middle)
    if faces == 0:
        raise SystemExit(f"{clip}: no face was restored")
    track_ms, restore_ms = (sorted(times)[len(times) // 2] / faces * 1e3 for times in (tracking, restoring))
    return {
        "frames": len(frames),
        "faces": faces,
        "detect_and_track_ms_per_face": round(track_ms, 1),
        "sample_restore_blend_ms_per_face": round(restore_ms, 1),
        "faces_per_second": round(1e3 / (track_ms + restore_ms), 2),
    }


def as_a_run(config: RestoreConfig, clip: Path, num_frames: int, rounds: int, threads: int) -> dict[str, Any]:
    """Faces per second of the whole pipeline without an encoder."""
    torch.set_num_threads(threads)
    rates, first_s = [], []
    for _ in range(rounds):
        begin, faces, first = time.perf_counter(), 0, 0.0
        with RestoredVideo(clip, config) as video:
            for i, _frame in enumerate(video):
                first = first or time.perf_counter() - begin
                faces = video.num_restored
                if i + 1 >= num_frames:
                    break
        rates.append(faces / (time.perf_counter() - begin))
        first_s.append(first)
    return {
        "threads": threads,
        "faces_per_second": round(sorted(rates)[len(rates) // 2], 2),
        "first_frame_s": round(sorted(first_s)[len(first_s) // 2], 2),
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--network", default="compact", choices=("auto", "compact", "mobile"))
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="12 frames, one round")
    options = parser.parse_args()
    num_frames, rounds = (12, 1) if options.quick else (options.frames, options.rounds)
    config = load_config(overrides={"restore": {"network": options.network, "device": "cpu"}})
    restorer = load_restorer(config.restore)
    rows: list[dict[str, Any]] = []
    for threads in (1, 2):
        for batch, rate in network_alone(restorer, threads, max(3, rounds)).items():
            rows.append({"what": "network", "threads": threads, "batch": int(batch), "faces_per_second": rate})
    rows.append({"what": "with everything, one thread", **everything(config, options.clip, num_frames, rounds)})
    rows.append({"what": "as a run", **as_a_run(config, options.clip, num_frames, rounds, 2)})
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    name = f"faces_per_second_{options.network}{'_quick' if options.quick else ''}"
    path = write_report(name, "goal P13: 5 faces a second on two cores of a CPU; medians", rows, clip=options.clip.name)
    print(path)


if __name__ == "__main__":
    main()
