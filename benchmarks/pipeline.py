"""Whole runs against plain ones: ``python benchmarks/pipeline.py [--frames 60] [--rounds 3] [--quick]``.

- P4, overlap: frames/s of a run over frames/s of its slowest stage, as the run's own account has it (its seconds at
  work). On a machine whose cores are all busy the stages slow each other down, so this share is an upper bound.
- P8, a clip without faces: the time of ``restore`` over that of a plain transcode with the same libraries: PyAV
  decodes, PyAV encodes, same encoder settings, one thread of Python, decoder and encoder with their own threads.
- P10, bytes written, all files together, over the size of the output.
- first frame: seconds from the call of ``restore`` to the first written frame in a process that has run before (see
  ``startup.py`` for a fresh one).

Sides run in turn, each in a process of its own that has compiled and loaded everything in a short run before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from common import cut, machine, summary, write_report

from vidrestore.config import load_config
from vidrestore.encode.codecs import encoder_options
from vidrestore.pipeline import Progress, restore

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
CONFIG = load_config()


def faceless(path: Path, num_frames: int, height: int, width: int) -> Path:
    """Grain over shading that moves: nothing that looks like a face, and something to encode."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 5, (height + 32, width + 32, 3))
    ramp = 120 + 60 * np.sin(np.arange(width) / 70)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            dy, dx = rng.integers(0, 32, 2)
            picture = np.roll(ramp, 2 * index)[None, :, None] + grain[dy : dy + height, dx : dx + width]
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def transcode(source: Path, output: Path) -> None:
    """Decode and encode, nothing else."""
    with av.open(str(source)) as container, av.open(str(output), "w") as out:
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        options = encoder_options(CONFIG.encode, "yuv420p", size=(video.height, video.width))
        stream = out.add_stream("libx264", rate=video.average_rate or Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for frame in container.decode(video):
            frame.pict_type = 0
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def run_one(side: str, source: Path) -> dict[str, Any]:
    """One timed run in this process, after a short one."""
    with tempfile.TemporaryDirectory() as folder:
        short = faceless(Path(folder) / "short.mp4", 6, 180, 320)
        done: dict[str, Any] = {}
        for name, clip in (("warm", short), ("timed", source)):
            output = Path(folder) / f"{name}-out.mp4"
            before = psutil.Process().io_counters().write_chars
            begin, processor = time.perf_counter(), time.process_time()
            if side == "transcode":
                transcode(clip, output)
            else:
                first: list[float] = []

                def note(progress: Progress, first: list[float] = first, begin: float = begin) -> None:
                    if not first:
                        first.append(time.perf_counter() - begin)

                result = restore(clip, output, CONFIG, progress=note)
                stages = {k: {"busy_s": v.busy_s, "blocked_s": v.blocked_s} for k, v in result.stages.items()}
                slowest = max(value["busy_s"] for value in stages.values())
                done = {
                    "faces": result.num_faces,
                    "frames": result.num_frames,
                    "first_frame_s": round(first[0], 3),
                    "frames_per_second": round(result.num_frames / result.elapsed_s, 2),
                    "stages": stages,
                    "share_of_slowest_stage": round(slowest / result.elapsed_s, 3),
                }
            elapsed = time.perf_counter() - begin
            done["processor_s"] = time.process_time() - processor
            written = psutil.Process().io_counters().write_chars - before
            done["bytes_written_over_output"] = round(written / output.stat().st_size, 3)
        return done | {"elapsed_s": elapsed}


def runs_of(sides: dict[str, Path], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Each side in turn, in a process of its own; a side is ``transcode`` or anything else for ``restore``."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, clip in sides.items():
            command = [sys.executable, __file__, "--one", side, str(clip)]
            environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as the command line sets it
            text = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            runs[side].append(json.loads(text.splitlines()[-1]))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=60, help="of the clip without faces")
    parser.add_argument("--lines", type=int, default=1080, help="of the clip without faces")
    parser.add_argument("--quick", action="store_true", help="one round, few frames, 360 lines")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "CLIP"), help="one run, used by the script itself")
    parser.add_argument("--dry", action="store_true", help="write no report")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one[0], Path(arguments.one[1]))))
        return
    if arguments.quick:
        arguments.rounds, arguments.frames, arguments.lines = 1, 20, 360
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        height, width = arguments.lines, arguments.lines * 16 // 9 // 2 * 2
        empty = faceless(Path(folder) / "empty.mp4", arguments.frames, height, width)
        faces = cut(EXAMPLE, Path(folder) / "faces.mp4", 4) if arguments.quick else EXAMPLE
        runs = runs_of({"transcode": empty, "no_faces": empty, "faces": faces}, arguments.rounds)
    results: list[dict[str, Any]] = []
    for side, done in runs.items():
        times = [1e3 * run["elapsed_s"] for run in done]
        spread = summary(times) if len(times) > 1 else {"median_ms": round(times[0], 3)}
        results.append({"side": side} | spread | {k: v for k, v in done[-1].items() if k != "elapsed_s"})
        results[-1]["processor_s"] = round(sorted(run["processor_s"] for run in done)[len(done) // 2], 2)
    medians = {result["side"]: result["median_ms"] for result in results}
    ratio = round(medians["no_faces"] / medians["transcode"], 3)
    processor_ratio = round(results[1]["processor_s"] / results[0]["processor_s"], 3)
    if results[1]["faces"]:
        raise SystemExit("the clip without faces has faces")
    print(
        f"P8: a clip without faces takes {ratio} times a plain transcode (goal 1.25), "
        f"{processor_ratio} times its processor time"
    )
    for result in results[1:]:
        print(
            f"{result['side']}: slowest stage {result['share_of_slowest_stage']:.0%} of the run (P4, goal 90 %), "
            f"{result['bytes_written_over_output']} bytes written per byte of output (P10, goal 1.1), "
            f"first frame after {result['first_frame_s']} s (goal 4)"
        )
    if not arguments.dry:
        extra = {
            "no_faces_over_transcode": ratio,
            "processor_no_faces_over_transcode": processor_ratio,
            "clip_lines": arguments.lines,
        }
        print(write_report("pipeline", __doc__ or "", results, machine_before=before, **extra))


if __name__ == "__main__":
    main()
