"""Whole clips through vidrestore and through the reference order, interleaved: ``python benchmarks/end_to_end.py``.

``--network codeformer`` runs the published network with seeded weights (they cost what the published ones cost) over a
few frames of the example alone, as a CPU takes many seconds for each face.

Clips: the committed example (640 x 360, two faces, then one), and the same enlarged to 1920 x 1080. Both sides read the
same file, use the same network, weights and detector, and write H.264 with the same settings. Beside the time stand the
peak resident memory of each side (in a process of its own) and the stages' own account of theirs.
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
import psutil
import torch
from common import machine, summary, write_report
from reference_order import restore_in_reference_order

from vidrestore import load_config, restore
from vidrestore.config import RestoreConfig
from vidrestore.device import choose_device, choose_precision
from vidrestore.restoration.codeformer import RESTORATION, CodeFormer
from vidrestore.restoration.restorer import CodeFormerRestorer, Restorer, load_restorer
from vidrestore.restoration.seeded import fill_seeded

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
METHOD = "wall time of a whole clip, file to file, sides in turn, each run in a process of its own after one warm-up"


def enlarge(source: Path, target: Path, height: int, num_frames: int) -> Path:
    """The first frames of a clip, enlarged, as H.264."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        video = container.streams.video[0]
        stream = out.add_stream("libx264", rate=video.average_rate or Fraction(25), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = video.width * height // video.height, height, "yuv420p"
        for index, frame in zip(range(num_frames), container.decode(video), strict=False):
            large = frame.reformat(width=stream.width, height=height)
            large.pts, large.time_base = index, 1 / Fraction(video.average_rate or 25)
            out.mux(stream.encode(large))
        out.mux(stream.encode(None))
    return target


def make_restorer(network: str, config: RestoreConfig) -> Restorer:
    """The network of the configuration, or the published CodeFormer with seeded weights."""
    if network != "codeformer":
        return load_restorer(config.restore)
    device = choose_device(config.restore.device)
    with torch.device("meta"):
        made = CodeFormer(RESTORATION.dims)
    return CodeFormerRestorer(fill_seeded(made), device, choose_precision("auto", device), config.restore.w)


def run_one(side: str, source: Path, device: str, network: str) -> dict[str, Any]:
    """One timed run in this process, after a short one that compiles and loads everything."""
    config = load_config(overrides={"restore": {"device": device}})
    restorer = make_restorer(network, config)
    with tempfile.TemporaryDirectory() as folder:
        short = enlarge(source, Path(folder) / "short.mp4", 360, 4 if network == "compact" else 1)
        result: dict[str, Any] = {}
        for name, clip in (("warm", short), ("timed", source)):
            output = Path(folder) / f"{name}-out.mp4"
            begin = time.perf_counter()
            if side == "vidrestore":
                done = restore(clip, output, config, restorer=restorer)
                faces, frames = done.num_faces, done.num_frames
                result["stages"] = {k: {"busy_s": v.busy_s, "blocked_s": v.blocked_s} for k, v in done.stages.items()}
            else:
                faces = restore_in_reference_order(clip, output, config, restorer)
                with av.open(str(output)) as container:
                    frames = container.streams.video[0].frames
            elapsed = time.perf_counter() - begin
    memory = psutil.Process().memory_info()
    peak = getattr(memory, "peak_wset", None) or _peak_rss()
    return result | {"elapsed_s": elapsed, "frames": frames, "faces": faces, "peak_memory_mb": round(peak / 2**20)}


def _peak_rss() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(source: Path, name: str, rounds: int, device: str, network: str) -> dict[str, Any]:
    """Both sides in turn, each in a process of its own."""
    runs: dict[str, list[dict[str, Any]]] = {"vidrestore": [], "reference_order": []}
    for _ in range(rounds):
        for side in runs:
            command = [sys.executable, __file__, "--one", side, str(source), "--device", device, "--network", network]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            runs[side].append(json.loads(text.splitlines()[-1]))
    sides: dict[str, Any] = {}
    for side, done in runs.items():
        times = [r["elapsed_s"] * 1e3 for r in done]
        sides[side] = summary(times) | {
            "frames_per_second": round(done[0]["frames"] / (sorted(times)[len(times) // 2] / 1e3), 2),
            "faces": done[0]["faces"],
            "peak_memory_mb": max(r["peak_memory_mb"] for r in done),
            "stages": done[-1].get("stages"),
        }
    ratio = sides["reference_order"]["median_ms"] / sides["vidrestore"]["median_ms"]
    return {"clip": name, "frames": runs["vidrestore"][0]["frames"], **sides, "times_faster": round(ratio, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", type=int, default=50, help="of the enlarged clip")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "CLIP"), help="one run, used by the script itself")
    parser.add_argument("--network", choices=["compact", "codeformer"], default="compact")
    arguments = parser.parse_args()
    device, network, rounds = arguments.device, arguments.network, arguments.rounds
    if arguments.one:
        print(json.dumps(run_one(arguments.one[0], Path(arguments.one[1]), device, network)))
        return
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        if network == "codeformer":
            few = enlarge(EXAMPLE, Path(folder) / "few.mp4", 360, 8)
            results = [compare(few, "example, 640x360, 8 frames", rounds, device, network)]
        else:
            large = enlarge(EXAMPLE, Path(folder) / "large.mp4", 1080, arguments.frames)
            results = [
                compare(EXAMPLE, "example, 640x360", rounds, device, network),
                compare(large, "example enlarged, 1920x1080", rounds, device, network),
            ]
    name = "end_to_end" if network == "compact" else f"end_to_end_{network}"
    path = write_report(name, METHOD, results, machine_before=before, torch_threads=torch.get_num_threads())
    for r in results:
        print(
            f"{r['clip']}: {r['vidrestore']['frames_per_second']} against "
            f"{r['reference_order']['frames_per_second']} frames/s, {r['times_faster']} times"
        )
    print(path)


if __name__ == "__main__":
    main()
