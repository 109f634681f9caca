"""Memory over the length of a clip (goals P9, R6): ``python benchmarks/memory.py [--frames 20000] [--quick]``.

One long run, file to file, of a small clip (160 x 120: a window of the tests' clip, there and back again) with a face
that is found, followed and restored in every frame, all as by default but for the network, which only adds a pattern,
and the encoder's effort: the pipeline's own memory, not the network's. Resident memory, open descriptors and threads
are read every 100 frames. Told are the resident memory at 500 and at 10 000 frames, its slope by least squares after
the first 1000 frames (decoder, encoder and caches fill up until then), the most descriptors and threads before and
after the middle, and the bytes written over the output's size (goal P10).

``--lines 1080`` makes the frames large, for the limit of 2 GB of host memory; ``--network auto`` takes the real
network there. A few hundred frames are then enough.
"""

from __future__ import annotations

import argparse
import json
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
import torch
from common import write_report

from vidrestore.config import load_config
from vidrestore.pipeline import Progress, restore
from vidrestore.types import CropContext

CLIP = Path(__file__).parent.parent / "tests" / "clips" / "faces.mkv"
STEP = 100
SETTLED = 1000
MB = 2**20


class Pattern:
    """A network that costs nothing."""

    size = 64
    device = torch.device("cpu")

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        """Adds stripes."""
        return images + 0.2 * torch.linspace(-1, 1, images.shape[-1])


def make_clip(path: Path, num_frames: int, height: int, width: int) -> None:
    """The window around the left face in the first shot of the tests' clip, forward and backward without end."""
    with av.open(str(CLIP)) as container:
        shown = [
            frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(24), strict=False)
        ]
    pictures = []
    for picture in shown:
        window = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[60:180, 30:190]), format="rgb24")
        pictures.append(window.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC"))
    pictures += pictures[-2:0:-1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            frame = pictures[index % len(pictures)]
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def run(num_frames: int, height: int, width: int, network: str) -> dict[str, Any]:
    """The long run, in this process."""
    process = psutil.Process()
    step = max(1, min(STEP, num_frames // 10))
    rows: list[tuple[int, int, int, int]] = []

    def note(progress: Progress) -> None:
        if progress.num_frames % step == 0:
            memory = process.memory_info().rss
            rows.append((progress.num_frames, memory, process.num_fds(), process.num_threads()))

    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        make_clip(source, num_frames, height, width)
        config = load_config(overrides={"encode": {"speed": "ultrafast"}})
        written_before = process.io_counters().write_chars
        begin = time.perf_counter()
        result = restore(source, output, config, restorer=Pattern() if network == "pattern" else None, progress=note)
        elapsed = time.perf_counter() - begin
        written = process.io_counters().write_chars - written_before
    if result.num_faces < 0.9 * num_frames:
        raise SystemExit(f"only {result.num_faces} faces were followed in {num_frames} frames: this measures nothing")
    table = np.array(rows, float)
    settled = table[table[:, 0] >= min(SETTLED, num_frames // 2)]
    slope = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) if len(settled) > 2 else float("nan")
    half = len(settled) // 2
    at = {int(n): round(m / MB, 1) for n, m in table[:, :2] if n in (500, 1000, 5000, 10_000, 20_000, num_frames)}
    return {
        "frames": num_frames,
        "faces": result.num_faces,
        "people": result.num_people,
        "network": network,
        "size": f"{width}x{height}",
        "elapsed_s": round(elapsed, 1),
        "frames_per_second": round(num_frames / elapsed, 1),
        "resident_mb_at": at,
        "growth_500_to_10000_mb": round(at[10_000] - at[500], 1) if {500, 10_000} <= at.keys() else None,
        "slope_mb_per_10000_frames": round(slope * 10_000 / MB, 3),
        "peak_mb": round(float(table[:, 1].max()) / MB, 1),
        "most_descriptors": [int(settled[:half, 2].max()), int(settled[half:, 2].max())],
        "most_threads": [int(settled[:half, 3].max()), int(settled[half:, 3].max())],
        "bytes_written_over_output": round(written / result.output_bytes, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--lines", type=int, default=120)
    parser.add_argument("--network", choices=["pattern", "auto"], default="pattern")
    parser.add_argument("--quick", action="store_true", help="600 frames")
    parser.add_argument("--one", action="store_true", help="in this process, used by the script itself")
    parser.add_argument("--dry", action="store_true", help="write no report")
    arguments = parser.parse_args()
    frames = min(arguments.frames, 600) if arguments.quick else arguments.frames
    height, width = arguments.lines, arguments.lines * 4 // 3 // 2 * 2
    if arguments.one:
        print(json.dumps(run(frames, height, width, arguments.network)))
        return
    command = [sys.executable, __file__, "--one", "--frames", str(frames), "--lines", str(arguments.lines)]
    command += ["--network", arguments.network]
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    print(json.dumps(done, indent=1))
    if not arguments.dry:
        print(write_report("memory" if arguments.lines <= 240 else f"memory_{arguments.lines}", __doc__ or "", [done]))


if __name__ == "__main__":
    main()
